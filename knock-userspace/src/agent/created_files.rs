//! The files that a start makes on disk, and removes if it fails.

use std::fs;
use std::path::{Path, PathBuf};

use knock_keys::Folder;

use crate::instance_paths::InstancePaths;

/// Files and folders that were absent before the start. The folder of keys is not among them:
/// agents of several network namespaces may share one, and the owner may be about to put a key into
/// it.
pub(super) struct CreatedFiles {
    newest: Option<PathBuf>,
    state: Option<PathBuf>,
    keys: PathBuf,
}

impl CreatedFiles {
    pub(super) fn before_start(keys: &Path, paths: &InstancePaths) -> Self {
        Self {
            newest: Some(paths.newest()).filter(|file| !file.exists()),
            state: Some(paths.state.clone()).filter(|folder| !folder.exists()),
            keys: keys.to_owned(),
        }
    }

    /// Removes the file of newest times and its folder. The file stays if there is a key, because
    /// its knocks may be noted there. The folder stays if other files lie in it.
    pub(super) fn remove(self) {
        if let Some(newest) = self.newest
            && Folder::new(&self.keys).is_empty()
        {
            let _ = fs::remove_file(newest);
        }
        if let Some(state) = self.state {
            let _ = fs::remove_dir(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> (tempfile::TempDir, PathBuf, InstancePaths) {
        let host = tempfile::tempdir().unwrap();
        let [keys, run, pins, state] =
            ["keys", "run", "pins", "state"].map(|name| host.path().join(name));
        fs::create_dir(&keys).unwrap();
        (host, keys, InstancePaths { run, pins, state })
    }

    #[test]
    fn what_a_start_made_goes_and_what_was_there_stays() {
        let (_host, keys, paths) = host();
        for was_there in [false, true] {
            if was_there {
                fs::create_dir(&paths.state).unwrap();
            }
            let created = CreatedFiles::before_start(&keys, &paths);
            fs::create_dir_all(&paths.state).unwrap();
            fs::write(paths.newest(), "times").unwrap();
            created.remove();
            assert_eq!(paths.state.exists(), was_there);
            assert!(!paths.newest().exists() && keys.exists());
        }
        fs::write(paths.newest(), "older times").unwrap();
        CreatedFiles::before_start(&keys, &paths).remove();
        assert!(paths.newest().exists());
    }

    #[test]
    fn times_stay_where_there_are_keys() {
        let (_host, keys, paths) = host();
        let created = CreatedFiles::before_start(&keys, &paths);
        fs::create_dir(&paths.state).unwrap();
        fs::write(paths.newest(), "times").unwrap();
        fs::write(Folder::new(&keys).file("laptop"), "a key").unwrap();
        created.remove();
        assert!(paths.newest().exists());
    }
}

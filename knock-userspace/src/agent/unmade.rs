//! Files and folders that a start makes on the disk, and that go again if it fails.

use std::fs;
use std::path::{Path, PathBuf};

use crate::keys::Folder;
use crate::places::Places;

/// What was not there before.
pub(super) struct Unmade {
    folders: Vec<PathBuf>,
    newest: Option<PathBuf>,
    keys: PathBuf,
}

impl Unmade {
    pub(super) fn of(keys: &Path, places: &Places) -> Self {
        let newest = Some(places.newest()).filter(|file| !file.exists());
        let folders = [keys, &places.state].into_iter().filter(|folder| !folder.exists());
        Self { folders: folders.map(Path::to_owned).collect(), newest, keys: keys.to_owned() }
    }

    /// Removes what is there now. Folders only if nobody put anything into them meanwhile, and
    /// the newest times only while there is no key whose knocks they could tell apart.
    pub(super) fn restore(self) {
        if let Some(newest) = self.newest
            && Folder::new(&self.keys).is_empty()
        {
            let _ = fs::remove_file(newest);
        }
        for folder in self.folders {
            let _ = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> (tempfile::TempDir, PathBuf, Places) {
        let host = tempfile::tempdir().unwrap();
        let [keys, run, pins, state] =
            ["keys", "run", "pins", "state"].map(|name| host.path().join(name));
        (host, keys, Places { run, pins, state })
    }

    #[test]
    fn what_a_start_made_goes_and_what_was_there_stays() {
        let (_host, keys, places) = host();
        fs::create_dir(&places.state).unwrap();
        let unmade = Unmade::of(&keys, &places);
        fs::create_dir(&keys).unwrap();
        fs::write(places.newest(), "times").unwrap();
        unmade.restore();
        assert!(!keys.exists() && !places.newest().exists() && places.state.exists());
    }

    #[test]
    fn times_stay_where_there_are_keys() {
        let (_host, keys, places) = host();
        let unmade = Unmade::of(&keys, &places);
        fs::create_dir(&keys).unwrap();
        fs::create_dir(&places.state).unwrap();
        fs::write(places.newest(), "times").unwrap();
        fs::write(Folder::new(&keys).file("laptop"), "a key").unwrap();
        unmade.restore();
        assert!(places.newest().exists() && Folder::new(&keys).file("laptop").exists());
    }
}

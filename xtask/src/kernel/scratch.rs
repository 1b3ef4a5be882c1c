//! The folder of one run, with unchanging copies of the programs and the archives of its guests.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// A folder that is removed when it is dropped. The next run removes the folders of runs that were
/// killed.
pub(super) struct Scratch(PathBuf);

/// The beginning of its name. The process number follows.
const PREFIX: &str = "run.";

impl Scratch {
    pub(super) fn below(kernels: &Path) -> anyhow::Result<Self> {
        let fail = || format!("cannot make a folder in {}", kernels.display());
        fs::create_dir_all(kernels).with_context(fail)?;
        sweep(kernels).with_context(|| format!("cannot tidy {}", kernels.display()))?;
        let own = kernels.join(format!("{PREFIX}{}", std::process::id()));
        // A run in another container may have had the same number.
        let _ = fs::remove_dir_all(&own);
        fs::create_dir(&own).with_context(fail)?;
        Ok(Self(own))
    }

    /// Keeps a file as it is while cargo builds: cargo and linkers write new files in the place of
    /// old ones.
    pub(super) fn keep(&self, file: &Path) -> anyhow::Result<()> {
        let kept = self.kept(file);
        let linked = fs::hard_link(file, &kept).or_else(|error| match error.kind() {
            // To copy a file onto itself would empty it.
            io::ErrorKind::AlreadyExists => Err(error),
            _ => fs::copy(file, &kept).map(drop),
        });
        linked.with_context(|| format!("cannot keep {}", file.display()))
    }

    /// Where `file` was kept.
    pub(super) fn kept(&self, file: &Path) -> PathBuf {
        self.path().join(file.file_name().unwrap_or_default())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next run tries again.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes the folders of processes that are gone.
fn sweep(kernels: &Path) -> io::Result<()> {
    for entry in fs::read_dir(kernels)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        if !Path::new("/proc").join(process).exists() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_file_outlives_what_is_built_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("xknockd");
        fs::write(&program, "old").unwrap();
        let left = folder.path().join("run.4194305");
        fs::create_dir(&left).unwrap();
        let scratch = Scratch::below(folder.path()).unwrap();
        assert!(!left.exists(), "no process has that number");
        scratch.keep(&program).unwrap();
        fs::remove_file(&program).unwrap();
        fs::write(&program, "new").unwrap();
        assert_eq!(fs::read_to_string(scratch.kept(&program)).unwrap(), "old");
        let path = scratch.path().to_owned();
        assert!(scratch.keep(&folder.path().join("nothing")).is_err());
        assert!(scratch.keep(&program).is_err(), "kept once already");
        drop(scratch);
        assert!(!path.exists());
    }
}

//! The lock that keeps a second agent from starting.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::instance_paths::InstancePaths;

/// The lock, held as long as this value lives. The kernel releases it when the process dies.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Why the lock cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "xknockd already runs here{}; stop it first, or see `xknockd status`",
        .0.map_or(String::new(), |id| format!(" as process {id}"))
    )]
    Held(Option<u32>),
    /// The file cannot be made or locked.
    #[error("cannot lock {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// The system's error.
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock, and writes the number of this process into its file.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub fn take(paths: &InstancePaths) -> Result<Self, LockError> {
        let path = paths.lock();
        let fail = |source| LockError::File { path: path.display().to_string(), source };
        // The control socket lies in this folder too, so only the agent's user may enter it.
        DirBuilder::new().recursive(true).mode(0o700).create(&paths.run).map_err(fail)?;
        let file = open(&path).map_err(fail)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // The agent that held the lock may have removed the file since it was opened here. The
            // next agent would not find the file that is locked now.
            Ok(file) if !is_at(&file, &path).map_err(fail)? => Self::take(paths),
            Ok(mut file) => {
                file.set_len(0).and_then(|()| file.rewind()).map_err(fail)?;
                // On a full disk the number is missing, but the lock holds.
                let _ = writeln!(file, "{}", std::process::id());
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                Err(LockError::Held(text.trim().parse().ok()))
            }
            Err((_, errno)) => Err(fail(errno.into())),
        }
    }

    /// Removes the lock's folder with all that the agent has in it.
    pub fn remove(self, paths: &InstancePaths) {
        // The folder last: once it is gone, nothing of the agent is left.
        let _ = fs::remove_file(paths.socket());
        let _ = fs::remove_file(paths.lock());
        let _ = fs::remove_dir(&paths.run);
    }
}

/// Whether `file` is still the file at `path`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

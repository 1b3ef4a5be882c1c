//! The pins: maps and links that outlive the agent, in a folder of the BPF file system.
//!
//! `FOLDER/links/INDEX` is the link to the interface with that index. `FOLDER/vN/NAME` is a map of
//! layout `N`. A map that is about to take the place of another is called `NAME-new` until then.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use knock_common::LAYOUT;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::statfs;
use nix::unistd::{chown, getegid, geteuid};
use tracing::warn;

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
const NEW: &str = "-new";

/// The folder of one agent, locked for it.
#[derive(Clone, Debug)]
pub struct Pins {
    folder: PathBuf,
    _lock: Arc<Flock<File>>,
}

/// The reason why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// There is no BPF file system, and it could not be mounted.
    #[error(
        "there is no BPF file system at {place} and it cannot be mounted ({source}); \
         try `mount -t bpf bpf {place}`"
    )]
    NotMounted {
        /// Where it should be.
        place: String,
        /// What mount(2) said.
        source: io::Error,
    },
    /// Another agent works with the folder. It may have its other files elsewhere, as in a
    /// container.
    #[error("another agent works with {0}; give one of the two another `--instance`")]
    Held(String),
    /// The folder or a file in it could not be handled.
    #[error("cannot {doing} {path}: {source}")]
    Folder {
        /// What was tried.
        doing: &'static str,
        /// The path.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl PinsError {
    fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Folder { doing, path: path.display().to_string(), source }
    }
}

impl Pins {
    /// Makes sure that `folder`, directly in a BPF file system, exists and is ready. If nothing is
    /// mounted there, this mounts the file system, as `bpftool` does.
    ///
    /// # Errors
    ///
    /// See [`PinsError`].
    pub fn open(folder: &Path) -> Result<Self, PinsError> {
        let place = folder.parent().unwrap_or(Path::new("/"));
        if !is_bpf(place) {
            mount(Some("bpf"), place, Some("bpf"), MsFlags::empty(), Some("mode=0700")).map_err(
                |errno| PinsError::NotMounted {
                    place: place.display().to_string(),
                    source: errno.into(),
                },
            )?;
        }
        make_folder(folder)?;
        let pins = Self::lock(folder)?;
        for folder in [pins.layout(), pins.links()] {
            make_folder(&folder)?;
        }
        pins.own();
        for path in files(&pins.layout())? {
            if path.to_string_lossy().ends_with(NEW) {
                // Left by an agent that was killed before it settled.
                remove(&path)?;
            }
        }
        Ok(pins)
    }

    /// Gives the folder and its files to this user, as far as that can be done. An agent of another
    /// user may have been here before, and this one will soon have no right to its files.
    fn own(&self) {
        let (user, group) = (geteuid(), getegid());
        let folders = [self.folder.clone(), self.layout(), self.links()];
        let files = folders[1..].iter().flat_map(|folder| files(folder).unwrap_or_default());
        for path in folders.iter().cloned().chain(files) {
            let foreign = fs::metadata(&path).is_ok_and(|found| found.uid() != user.as_raw());
            if foreign && let Err(error) = chown(&path, Some(user), Some(group)) {
                warn!(path = %path.display(), %error, "belongs to another user");
            }
        }
    }

    /// Returns the same folder, if an agent has left something in it. Nothing is made.
    ///
    /// # Errors
    ///
    /// If an agent works with it.
    pub fn existing(folder: &Path) -> Result<Option<Self>, PinsError> {
        if folder.is_dir() { Self::lock(folder).map(Some) } else { Ok(None) }
    }

    fn lock(folder: &Path) -> Result<Self, PinsError> {
        let file = File::open(folder).map_err(PinsError::at("open", folder))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { folder: folder.to_owned(), _lock: Arc::new(lock) }),
            Err(_) => Err(PinsError::Held(folder.display().to_string())),
        }
    }

    /// Removes everything that was pinned. Attached programs are detached, and maps are gone. The
    /// folder itself stays if this user must not remove it.
    ///
    /// # Errors
    ///
    /// At the first file that cannot be removed.
    pub fn remove_all(&self) -> Result<(), PinsError> {
        for folder in folders(&self.folder)? {
            remove_folder(&folder)?;
        }
        match fs::remove_dir(&self.folder) {
            // An agent with a user of its own owns the folder but not the folder around it, and a
            // service manager may have mounted something here. Empty, it does no harm.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::PermissionDenied
                        | io::ErrorKind::ResourceBusy
                ) =>
            {
                Ok(())
            }
            result => result.map_err(PinsError::at("remove", &self.folder)),
        }
    }

    /// Whether there is no link, and nothing of another layout than this program's.
    pub fn hold_one_layout(&self) -> bool {
        let foreign = self.foreign_layouts().is_ok_and(|found| found.is_empty());
        foreign && self.linked().is_ok_and(|found| found.is_empty())
    }

    /// Removes what is pinned in this program's layout. Links stay.
    ///
    /// # Errors
    ///
    /// If a file cannot be removed.
    pub fn remove_layout(&self) -> Result<(), PinsError> {
        remove_folder(&self.layout())
    }

    /// Returns the folders of other layouts than this program's.
    pub(super) fn foreign_layouts(&self) -> Result<Vec<PathBuf>, PinsError> {
        let (own, links) = (self.layout(), self.links());
        Ok(folders(&self.folder)?.into_iter().filter(|f| *f != own && *f != links).collect())
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.layout().join(name)
    }

    /// Returns the path of a map that will take the place of the one called `name`.
    pub(super) fn new_map(&self, name: &str) -> PathBuf {
        self.map(&format!("{name}{NEW}"))
    }

    pub(super) fn link(&self, interface: u32) -> PathBuf {
        self.links().join(interface.to_string())
    }

    /// Returns the indices of the interfaces to which a link is pinned.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read.
    pub fn linked(&self) -> Result<Vec<u32>, PinsError> {
        let name = |path: PathBuf| path.file_name()?.to_str()?.parse().ok();
        Ok(files(&self.links())?.into_iter().filter_map(name).collect())
    }

    fn layout(&self) -> PathBuf {
        self.folder.join(format!("v{LAYOUT}"))
    }

    fn links(&self) -> PathBuf {
        self.folder.join("links")
    }
}

fn make_folder(folder: &Path) -> Result<(), PinsError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(PinsError::at("make the folder", folder))
}

fn is_bpf(place: &Path) -> bool {
    // The type of the constant differs between architectures.
    statfs(place).is_ok_and(|found| i128::from(found.filesystem_type().0) == BPF_FS_MAGIC.into())
}

/// Returns the entries of a folder; none if it is absent.
fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>, PinsError> {
    match fs::read_dir(folder).and_then(Iterator::collect) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(PinsError::at("read the folder", folder)),
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, PinsError> {
    Ok(entries(folder)?.iter().map(fs::DirEntry::path).collect())
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>, PinsError> {
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    Ok(entries(folder)?.iter().filter(|entry| is_folder(entry)).map(fs::DirEntry::path).collect())
}

/// Removes a folder of pinned objects. It does not use `remove_dir_all`: nothing here is nested,
/// and an unexpected folder must not be removed.
pub(super) fn remove_folder(folder: &Path) -> Result<(), PinsError> {
    for file in files(folder)? {
        remove(&file)?;
    }
    fs::remove_dir(folder).map_err(PinsError::at("remove", folder))
}

/// Removes one pinned object. Does nothing if it is absent.
pub(super) fn remove(path: &Path) -> Result<(), PinsError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(PinsError::at("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Puts a new map in the place of the old one, in one step.
pub(super) fn replace(new: &Path, old: &Path) -> Result<(), PinsError> {
    fs::rename(new, old).map_err(PinsError::at("rename", new))
}

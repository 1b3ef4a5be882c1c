//! The folder of key files: one file for each key, readable for its owner only.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{KEY_NAME_FORM, Key, KeyFileError, KeyId, key_name};

/// A folder of key files.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

/// A fault of a key file, or of the folder.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The file or folder cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        why: io::Error,
    },
    /// The file cannot be written or removed.
    #[error("cannot change {}: {why}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        why: io::Error,
    },
    /// Other users can read or change the file.
    #[error(
        "{} holds a secret, but others can read it (mode {mode:03o}): run chmod 600 {}, and draw \
         a new key if another user may have read it",
        path.display(), path.display()
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// The permissions of the file.
        mode: u32,
    },
    /// The path is not a regular file, or the file is too large for a key.
    #[error("{} is not a key file: it is not a regular file of at most 64 KiB", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The name of the file cannot be that of a key.
    #[error("{} cannot be the name of a key: use {KEY_NAME_FORM}", path.display())]
    Name {
        /// The path.
        path: PathBuf,
    },
    /// The text of the file is not a key.
    #[error("{}: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fault of the text.
        why: KeyFileError,
    },
    /// Two files hold the same key.
    #[error("{} holds the same key as {}: remove one of them", path.display(), other.display())]
    Twice {
        /// The file that is refused.
        path: PathBuf,
        /// The file that came first.
        other: PathBuf,
    },
    /// A key of this name exists.
    #[error("there is a key `{0}` already: rotate or remove it, or choose another name")]
    Exists(String),
    /// No key of this name exists.
    #[error("there is no key `{name}` in {}", folder.display())]
    Unknown {
        /// The name.
        name: String,
        /// The folder that was searched.
        folder: PathBuf,
    },
}

impl FolderError {
    /// Whether the folder at `path` itself cannot be read.
    pub fn is_about(&self, path: &Path) -> bool {
        matches!(self, Self::Unreadable { path: found, .. } if found == path)
    }
}

/// The largest size of a key file, in bytes. No key takes so much.
const LARGEST: u64 = 1 << 16;
const EXTENSION: &str = "toml";

impl Folder {
    /// Makes a value for the folder at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Returns the path of the folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether the folder has no key file or does not exist. A folder that cannot be read counts as
    /// one that has some.
    pub fn is_empty(&self) -> bool {
        let key = |entry: io::Result<fs::DirEntry>| {
            entry.is_ok_and(|entry| entry.path().extension().is_some_and(|e| e == EXTENSION))
        };
        match fs::read_dir(&self.0) {
            Ok(mut entries) => !entries.any(key),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Returns the path of the file of the key called `name`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.{EXTENSION}"))
    }

    /// Returns every key, sorted by name, and the faults of the other files. A folder that does not
    /// exist holds no key.
    pub fn read_all(&self) -> (Vec<Key>, Vec<FolderError>) {
        let unreadable = |why| FolderError::Unreadable { path: self.0.clone(), why };
        let (mut keys, mut errors) = (Vec::new(), Vec::new());
        let mut paths: Vec<PathBuf> = match fs::read_dir(&self.0) {
            Ok(entries) => entries
                .filter_map(|entry| match entry {
                    Ok(entry) => Some(entry.path()),
                    Err(why) => {
                        errors.push(unreadable(why));
                        None
                    }
                })
                .filter(|path| path.extension().is_some_and(|found| found == EXTENSION))
                .collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                errors.push(unreadable(error));
                Vec::new()
            }
        };
        paths.sort();
        let mut owners: HashMap<KeyId, PathBuf> = HashMap::new();
        for path in paths {
            match read(&path).and_then(|key| claim(&mut owners, key, &path)) {
                Ok(key) => keys.push(key),
                Err(error) => errors.push(error),
            }
        }
        (keys, errors)
    }

    /// Returns the key called `name`.
    ///
    /// # Errors
    ///
    /// If it has no file, or the file does not hold a key.
    pub fn read(&self, name: &str) -> Result<Key, FolderError> {
        let path = self.file(name);
        match read(&path) {
            Err(FolderError::Unreadable { why, .. }) if why.kind() == io::ErrorKind::NotFound => {
                Err(FolderError::Unknown { name: name.to_owned(), folder: self.0.clone() })
            }
            result => result,
        }
    }
}

/// Notes that the identifiers of `key` belong to the file at `path`.
fn claim(owners: &mut HashMap<KeyId, PathBuf>, key: Key, path: &Path) -> Result<Key, FolderError> {
    let ids = [Some(key.current.id), key.previous.as_ref().map(|(version, _)| version.id)];
    for id in ids.into_iter().flatten() {
        if let Some(other) = owners.get(&id) {
            return Err(FolderError::Twice { path: path.to_owned(), other: other.clone() });
        }
        owners.insert(id, path.to_owned());
    }
    Ok(key)
}

fn read(path: &Path) -> Result<Key, FolderError> {
    let name = path.file_stem().and_then(|stem| stem.to_str()).and_then(key_name);
    let name = name.ok_or_else(|| FolderError::Name { path: path.to_owned() })?;
    let text = read_secret(path)?;
    Key::parse(name, &text).map_err(|why| FolderError::Damaged { path: path.to_owned(), why })
}

/// Returns the text of a file that only its owner can read.
///
/// # Errors
///
/// If other users can read it, or it is not a regular file of at most 64 KiB.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, FolderError> {
    let unreadable = |why| FolderError::Unreadable { path: path.to_owned(), why };
    let file = open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return Err(FolderError::NotAFile { path: path.to_owned() });
    }
    if let Some(mode) = open_to_others(&metadata) {
        return Err(FolderError::TooOpen { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(LARGEST as usize));
    file.take(LARGEST).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// Opens a file for reading. A named pipe does not block here: opening it does not wait for a
/// writer.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        nix::fcntl::OFlag::O_NONBLOCK.bits(),
    );
    options.open(path)
}

/// Returns the permissions of a file that other users than its owner can read or change.
#[cfg(unix)]
fn open_to_others(metadata: &fs::Metadata) -> Option<u32> {
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
    (mode & 0o077 != 0).then_some(mode)
}

/// Returns `None`: on other systems, a user's own folder is closed to other users by default.
#[cfg(not(unix))]
fn open_to_others(_: &fs::Metadata) -> Option<u32> {
    None
}

/// Writes `text` to a file that only its owner can read, whole or not at all. An existing file is
/// replaced only if `replace` is true.
///
/// # Errors
///
/// If the system refuses. [`io::ErrorKind::AlreadyExists`] if the file exists and is not replaced.
pub fn write_secret(path: &Path, text: &str, replace: bool) -> io::Result<()> {
    use std::io::Write as _;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    create_private(folder)?;
    // The file is readable for its owner only from the start (mkstemp(3)), and it is removed if
    // anything fails.
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
    // The owner must be right before the file has its name, under which an agent may read it.
    give_to_owner_of(folder, file.as_file());
    file.write_all(text.as_bytes())?;
    // The text must be on disk before its name is, or a crash may leave an empty file.
    file.as_file().sync_all()?;
    let persisted = if replace { file.persist(path) } else { file.persist_noclobber(path) };
    persisted.map_err(|error| error.error)?;
    // The name is on disk only once its folder is.
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    Ok(())
}

/// Gives a new file to the owner of its folder. The agent may run as a user of its own, to whom the
/// folder belongs, while root writes the file.
#[cfg(unix)]
pub fn give_to_owner_of(folder: &Path, file: &File) {
    use std::os::unix::fs::MetadataExt as _;
    if let (Ok(folder), Ok(own)) = (fs::metadata(folder), file.metadata())
        && folder.uid() != own.uid()
    {
        // Only root may do this, and other users write into folders of their own.
        let _ = std::os::unix::fs::fchown(file, Some(folder.uid()), Some(folder.gid()));
    }
}

/// Does nothing on systems where files have no such owner.
#[cfg(not(unix))]
pub const fn give_to_owner_of(_: &Path, _: &File) {}

/// Creates a folder, and those above it, for its owner only.
///
/// # Errors
///
/// If the system refuses.
pub fn create_private(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

impl Folder {
    /// Writes the file of a key.
    ///
    /// # Errors
    ///
    /// [`FolderError::Exists`] if there is such a file and `replace` is false, or if it cannot be
    /// written.
    pub fn write(&self, key: &Key, replace: bool) -> Result<(), FolderError> {
        let path = self.file(&key.name);
        match write_secret(&path, &key.to_text(), replace) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !replace => {
                Err(FolderError::Exists(key.name.clone()))
            }
            Err(why) => Err(FolderError::Unwritable { path, why }),
        }
    }

    /// Removes the file of a key, even one that does not hold a key.
    ///
    /// # Errors
    ///
    /// If there is no such file, or it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), FolderError> {
        let path = self.file(name);
        fs::remove_file(&path).map_err(|why| match why.kind() {
            io::ErrorKind::NotFound => {
                FolderError::Unknown { name: name.to_owned(), folder: self.0.clone() }
            }
            _ => FolderError::Unwritable { path, why },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use tempfile::TempDir;

    fn key(name: &str) -> Key {
        let doors = vec!["ssh:sealed:62201:seen:30:tcp/22".parse().unwrap()];
        let drawn =
            Key::draw(name.into(), String::new(), Kind::Shared, doors, 1_800_000_000, None, None);
        drawn.unwrap().0
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keys_are_written_for_their_owner_only_and_read_back() {
        let root = TempDir::new().unwrap();
        let folder = Folder::new(root.path().join("xknock/keys"));
        assert!(folder.read_all().0.is_empty());
        folder.write(&key("laptop"), false).unwrap();
        folder.write(&key("phone"), false).unwrap();
        assert_eq!(mode(&folder.file("laptop")), 0o600);
        assert_eq!(mode(folder.path()), 0o700);
        let (keys, errors) = folder.read_all();
        assert_eq!(keys.iter().map(|key| &*key.name).collect::<Vec<_>>(), ["laptop", "phone"]);
        assert!(errors.is_empty(), "{errors:?}");
        let again = folder.write(&key("laptop"), false).unwrap_err().to_string();
        assert!(again.contains("a key `laptop` already"), "{again}");
        folder.write(&key("laptop"), true).unwrap();
        folder.remove("laptop").unwrap();
        let gone = folder.read("laptop").unwrap_err().to_string();
        assert!(gone.contains("no key `laptop`"), "{gone}");
    }

    #[test]
    fn one_bad_file_is_named_and_the_others_are_used() {
        let root = TempDir::new().unwrap();
        let folder = Folder::new(root.path());
        for name in ["good", "open", "twin"] {
            folder.write(&key(name), false).unwrap();
        }
        fs::set_permissions(folder.file("open"), fs::Permissions::from_mode(0o640)).unwrap();
        write_secret(&folder.file("damaged"), "version = 1\nnot a key", false).unwrap();
        write_secret(&folder.file("huge"), &"#".repeat(70_000), false).unwrap();
        write_secret(&folder.file("binary"), "", false).unwrap();
        fs::write(folder.file("binary"), [0xff; 9]).unwrap();
        fs::create_dir(folder.file("folder")).unwrap();
        fs::copy(folder.file("twin"), folder.file("twin2")).unwrap();
        nix::unistd::mkfifo(&folder.file("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        write_secret(&folder.file("bad name"), "", false).unwrap();
        fs::write(folder.path().join("README"), "not a key").unwrap();
        let (keys, errors) = folder.read_all();
        assert_eq!(keys.iter().map(|key| &*key.name).collect::<Vec<_>>(), ["good", "twin"]);
        let said: Vec<_> = errors.iter().map(ToString::to_string).collect();
        for (file, reason) in [
            ("open", "chmod 600"),
            ("damaged", "line 2"),
            ("huge", "64 KiB"),
            ("binary", "UTF-8"),
            ("folder", "regular file"),
            ("twin2", "same key"),
            ("pipe", "regular file"),
            ("bad name", "name of a key"),
        ] {
            let file = format!("{file}.toml");
            let named = said.iter().filter(|line| line.contains(&file) && line.contains(reason));
            assert_eq!(named.count(), 1, "{file}: {said:#?}");
        }
        assert_eq!(said.len(), 8, "{said:#?}");
    }
}

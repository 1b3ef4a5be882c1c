//! The import of a key into the user's list of hosts.

use std::fmt::Write as _;
use std::fs::{DirBuilder, File};
use std::io;
use std::path::{Path, PathBuf};

use knock_keys::{KeyLine, host_name, write_secret};

use super::{Entry, Hosts, HostsError, bare, read_key, read_text, same};

/// The options of an import besides the line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Import<'a> {
    /// The name for the host.
    pub alias: Option<&'a str>,
    /// The address of the host.
    pub address: Option<&'a str>,
    /// Whether another key or address in the list may be replaced.
    pub replace: bool,
}

impl Hosts {
    /// Adds a key for the host at the address in `import`, or else in the key. The host gets the
    /// name in `import`, or else its address as name. Returns the name.
    ///
    /// A key of the same name and server replaces the one in the list. Another key replaces it only
    /// if `import` allows that.
    ///
    /// # Errors
    ///
    /// If nothing was added.
    pub fn add(&mut self, line: &KeyLine, import: Import<'_>) -> Result<String, HostsError> {
        let address = bare(import.address.unwrap_or(&line.host));
        if host_name(address).is_none() {
            return Err(HostsError::Address(address.to_owned()));
        }
        // Another process may have imported since the list was read. The lock keeps others out from
        // here on, so the list is read again under it.
        let _lock = self.lock()?;
        *self = Self::read(self.folder.clone())?;
        let alias = match import.alias {
            Some(alias) => bare(alias),
            None if address.is_empty() => self.only_one_with(&line.name)?,
            None => address,
        };
        check_alias(alias)?;
        if let Some((alias, entry)) = self.called(alias) {
            let (alias, entry) = (alias.to_owned(), entry.clone());
            self.change(&alias, &entry, line, address, import.replace)?;
            *self = Self::read(self.folder.clone())?;
            return Ok(alias);
        }
        if address.is_empty() {
            return Err(HostsError::NoAddress);
        }
        let alias = alias.to_owned();
        let key = self.free_path(&alias);
        self.put_key(&alias, &key, line, import.replace)?;
        self.append(&alias, address, &key)?;
        Ok(alias)
    }

    /// Gives a host in the list another key and, if the user wants that, another address.
    fn change(
        &self,
        alias: &str,
        entry: &Entry,
        line: &KeyLine,
        address: &str,
        replace: bool,
    ) -> Result<(), HostsError> {
        let there = entry.address.get_ref();
        let moved = !address.is_empty() && !same(address, there);
        if moved && !replace {
            let (alias, there) = (alias.to_owned(), there.clone());
            return Err(HostsError::Elsewhere { alias, there, new: address.to_owned() });
        }
        self.put_key(alias, &entry.key, line, replace)?;
        if moved {
            let path = self.folder.join(Self::FILE);
            let mut text = read_text(&path)?;
            text.replace_range(entry.address.span(), &format!("\"{address}\""));
            write(&path, &text)?;
        }
        Ok(())
    }

    /// Returns the only host with a key of this name.
    fn only_one_with(&self, name: &str) -> Result<&str, HostsError> {
        let has_it = |entry: &Entry| {
            read_key(&self.folder.join(&entry.key)).is_ok_and(|line| line.name == name)
        };
        let mut found = self.hosts.iter().filter(|(_, entry)| has_it(entry));
        match (found.next(), found.next()) {
            (Some((alias, _)), None) => Ok(alias),
            _ => Err(HostsError::NoAddress),
        }
    }

    fn put_key(
        &self,
        alias: &str,
        key: &Path,
        line: &KeyLine,
        replace: bool,
    ) -> Result<(), HostsError> {
        let path = self.folder.join(key);
        if let Ok(other) = read_key(&path)
            && !replace
        {
            let (alias, name) = (alias.to_owned(), other.name);
            if name != line.name {
                return Err(HostsError::Other { alias, name });
            }
            let both_known = !other.host.is_empty() && !line.host.is_empty();
            if both_known && !same(&other.host, &line.host) {
                return Err(HostsError::OtherServer { alias, name, host: other.host });
            }
        }
        write(&path, &line.to_text())
    }

    /// Returns the path for the key of a new host, which no other host uses.
    fn free_path(&self, alias: &str) -> PathBuf {
        let comparable = |path: &Path| {
            let path = self.folder.join(path);
            // The file system may not distinguish upper and lower case.
            path.canonicalize().unwrap_or(path).to_string_lossy().to_lowercase()
        };
        let taken: Vec<_> = self.hosts.values().map(|entry| comparable(&entry.key)).collect();
        let name = alias.replace(':', "_");
        let mut path = Path::new("keys").join(&name);
        let mut number = 2;
        while taken.contains(&comparable(&path)) {
            path = Path::new("keys").join(format!("{name}_{number}"));
            number += 1;
        }
        path
    }

    /// Adds a host to the end of the list. All that the user wrote there stays.
    fn append(&mut self, alias: &str, address: &str, key: &Path) -> Result<(), HostsError> {
        let path = self.folder.join(Self::FILE);
        let mut text = read_text(&path)?;
        if !text.is_empty() {
            text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
        }
        // Windows takes slashes too, and a backslash would begin an escape.
        let key = key.to_string_lossy().replace('\\', "/");
        let written = write!(text, "[\"{alias}\"]\naddress = \"{address}\"\nkey = \"{key}\"\n");
        debug_assert!(written.is_ok(), "text takes text");
        write(&path, &text)?;
        *self = Self::read(self.folder.clone())?;
        Ok(())
    }

    /// Locks the list. Other processes that import wait until the returned file is closed.
    fn lock(&self) -> Result<File, HostsError> {
        let path = self.folder.join(".lock");
        let unwritable = |why| HostsError::Unwritable { path: path.clone(), why };
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&self.folder).map_err(unwritable)?;
        let file = File::create(&path).map_err(unwritable)?;
        match file.lock() {
            // Some network file systems have no locks.
            Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(unwritable(error)),
            _ => Ok(file),
        }
    }
}

/// Refuses names that cannot be file names.
fn check_alias(alias: &str) -> Result<(), HostsError> {
    const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "com", "lpt"];
    let legal = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
    let stem = alias.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let device = DEVICES.contains(&stem.trim_end_matches(|c: char| c.is_ascii_digit()));
    let fits = (1..=200).contains(&alias.len())
        && alias.chars().all(legal)
        && !alias.starts_with(['-', '.'])
        && !(cfg!(windows) && (device || alias.ends_with('.')));
    if fits { Ok(()) } else { Err(HostsError::Alias(alias.to_owned())) }
}

/// Writes a file. A symbolic link stays one, and the file that it points to is written.
fn write(path: &Path, text: &str) -> Result<(), HostsError> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    write_secret(&real, text, true)
        .map_err(|why| HostsError::Unwritable { path: path.to_owned(), why })
}

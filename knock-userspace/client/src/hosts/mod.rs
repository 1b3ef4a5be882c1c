//! The user's hosts with their keys: `hosts.toml` in the user's config folder, and a file for each
//! key beside it.
//!
//! ```text
//! ["server.example"]
//! address = "server.example"
//! key = "keys/server.example"
//! door = "ssh"
//! ```

mod import;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;
use knock_common::sequence::{Protocol, Step};
use knock_keys::{FolderError, KeyDoor, KeyLine, LineError, read_secret};
use serde::Deserialize;
use toml::Spanned;

pub use import::Import;

/// The list of the user's hosts.
#[derive(Debug)]
pub struct Hosts {
    folder: PathBuf,
    hosts: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    address: Spanned<String>,
    key: PathBuf,
    door: Option<String>,
}

/// A host with its key.
#[derive(Debug)]
pub struct Host {
    /// The name that the user gave it.
    pub alias: String,
    /// The name or address of the host.
    pub address: String,
    /// The key for the host.
    pub line: KeyLine,
    /// The default door.
    pub door: Option<String>,
}

/// A fault of the list, of its key files, or of a key to import.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// The system does not say where configs belong.
    #[error("cannot find your config folder: {0}")]
    NoHome(etcetera::HomeDirError),
    /// The list cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        why: io::Error,
    },
    /// The list has a mistake.
    #[error("{}:{line}: {message}", path.display())]
    Mistake {
        /// The file.
        path: PathBuf,
        /// The line of the mistake.
        line: usize,
        /// The mistake.
        message: String,
    },
    /// A key file cannot be used.
    #[error("{0}")]
    Key(FolderError),
    /// The text of a key file is not a key.
    #[error("{}: {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The fault of the text.
        why: LineError,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {why}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        why: io::Error,
    },
    /// The key does not name its host, and neither does the user.
    #[error("this key does not name its host: add --host NAME")]
    NoAddress,
    /// The address is not one of a host.
    #[error("`{0}` is not a host name: leave out the user; for other alphabets use the xn-- form")]
    Address(String),
    /// The list has another address for this host.
    #[error(
        "`{alias}` is at {there}, not at {new}: choose another name with --as, or change the \
         address with --replace"
    )]
    Elsewhere {
        /// The host.
        alias: String,
        /// The address in the list.
        there: String,
        /// The address that was given.
        new: String,
    },
    /// The list has a key of another server for this host.
    #[error(
        "`{alias}` has the key `{name}` of the server {host}, which is another server: choose \
         another name with --as, or replace the key with --replace"
    )]
    OtherServer {
        /// The host.
        alias: String,
        /// The name of the key in the list.
        name: String,
        /// The server that drew it.
        host: String,
    },
    /// The list has another key for this host.
    #[error(
        "`{alias}` already has another key, `{name}`: choose another name with --as, or replace \
         the key with --replace"
    )]
    Other {
        /// The host.
        alias: String,
        /// The name of the key in the list.
        name: String,
    },
    /// The name cannot be that of a host in the list.
    #[error(
        "`{0}` cannot be the name of a host: choose one with --as, of up to 200 letters, digits, \
         `_`, `.`, `:` and `-`, the first of them not `.` or `-`"
    )]
    Alias(String),
}

impl Hosts {
    /// The name of the list's file.
    pub const FILE: &'static str = "hosts.toml";

    /// Reads the list of the user who runs this program, in `$XDG_CONFIG_HOME/xknock` or where this
    /// system keeps configs.
    ///
    /// # Errors
    ///
    /// If the list exists and cannot be used.
    pub fn of_user() -> Result<Self, HostsError> {
        let strategy = etcetera::choose_base_strategy().map_err(HostsError::NoHome)?;
        Self::read(strategy.config_dir().join("xknock"))
    }

    /// Reads the list in a folder. Neither of them need exist.
    ///
    /// # Errors
    ///
    /// If the list exists and cannot be used.
    pub fn read(folder: PathBuf) -> Result<Self, HostsError> {
        let path = folder.join(Self::FILE);
        let text = read_text(&path)?;
        let hosts = toml::from_str(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() + 1;
            HostsError::Mistake { path, line, message: error.message().to_owned() }
        })?;
        Ok(Self { folder, hosts })
    }

    /// Returns the host with this name, or else with this address.
    ///
    /// # Errors
    ///
    /// If the key of the host cannot be used.
    pub fn find(&self, name: &str) -> Result<Option<Host>, HostsError> {
        let by_address =
            || self.hosts.iter().find(|(_, entry)| same(entry.address.get_ref(), name));
        let found = self.called(name).or_else(by_address);
        let Some((alias, Entry { address, key, door })) = found else { return Ok(None) };
        let line = read_key(&self.folder.join(key))?;
        let (alias, address) = (alias.clone(), address.get_ref().clone());
        Ok(Some(Host { alias, address, line, door: door.clone() }))
    }

    /// Returns the entry with this name. Case is ignored, because OpenSSH passes names on in lower
    /// case.
    fn called(&self, name: &str) -> Option<(&String, &Entry)> {
        let name = bare(name);
        let alike = || self.hosts.iter().find(|(alias, _)| same(alias, name));
        self.hosts.get_key_value(name).or_else(alike)
    }

    /// Returns the names of the hosts.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.hosts.keys().map(String::as_str)
    }
}

/// Returns an address or a name without the brackets that IPv6 has in URLs.
fn bare(name: &str) -> &str {
    name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name)
}

/// Whether two names or addresses mean the same.
fn same(a: &str, b: &str) -> bool {
    let (a, b) = (bare(a), bare(b));
    match (a.parse::<IpAddr>(), b.parse::<IpAddr>()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a.eq_ignore_ascii_case(b),
    }
}

/// Returns the text of the list, empty if there is no list.
fn read_text(path: &Path) -> Result<String, HostsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(why) => Err(HostsError::Unreadable { path: path.to_owned(), why }),
    }
}

fn read_key(path: &Path) -> Result<KeyLine, HostsError> {
    let text = read_secret(path).map_err(HostsError::Key)?;
    KeyLine::parse(&text).map_err(|why| HostsError::Line { path: path.to_owned(), why })
}

impl Host {
    /// Returns the door called `name`, or the default door without a name.
    ///
    /// # Errors
    ///
    /// If the key does not open the door. The error names the doors that it opens.
    pub fn door(&self, name: Option<&str>) -> Result<&KeyDoor, String> {
        let doors = &self.line.doors;
        match name.or(self.door.as_deref()) {
            None => Ok(&doors[0]),
            Some(name) => doors.iter().find(|door| door.name == name).ok_or_else(|| {
                let names: Vec<_> = doors.iter().map(|door| &*door.name).collect();
                format!(
                    "the key for `{}` does not open door `{name}`; it opens {}",
                    self.alias,
                    names.join(", ")
                )
            }),
        }
    }

    /// Returns the door that opens this TCP port, if the key has one.
    pub fn door_to(&self, port: u16) -> Option<&KeyDoor> {
        let service = Step::new(Protocol::Tcp, port);
        self.line.doors.iter().find(|door| door.opens.contains(&service))
    }
}

#[cfg(test)]
mod tests;

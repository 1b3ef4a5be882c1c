//! The hosts that this user has keys for: `hosts.toml` in the user's config folder, with a
//! file for each key beside it.
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

/// The user's hosts.
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
    /// What the user calls it.
    pub alias: String,
    /// Its name or address.
    pub address: String,
    /// The key for it.
    pub line: KeyLine,
    /// The door that is meant if none is named.
    pub door: Option<String>,
}

/// What is wrong with the user's hosts.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// The system does not tell where configs belong.
    #[error("cannot tell where your config folder is: {0}")]
    NoHome(etcetera::HomeDirError),
    /// The list cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// The list says something wrong.
    #[error("{}:{line}: {message}", path.display())]
    Mistake {
        /// The file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What.
        message: String,
    },
    /// A key file cannot be used.
    #[error("{0}")]
    Key(FolderError),
    /// A key file holds no key.
    #[error("{}: {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: LineError,
    },
    /// Something cannot be written.
    #[error("cannot write {}: {why}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// The key does not say where its host is.
    #[error("this key does not name its host: add --host NAME")]
    NoAddress,
    /// That is no host.
    #[error("`{0}` is no host name: leave out the user; for other alphabets use the xn-- form")]
    Address(String),
    /// The host is known by another address.
    #[error(
        "`{alias}` is at {there}, not at {new}: choose another name with --as, or change its \
         address with --replace"
    )]
    Elsewhere {
        /// The host.
        alias: String,
        /// The address that is there.
        there: String,
        /// The one that was given.
        new: String,
    },
    /// The key that is there is another server's.
    #[error(
        "`{alias}` has the key `{name}` of the server {host}, which is another one: choose a name \
         with --as, or replace it with --replace"
    )]
    OtherServer {
        /// The host.
        alias: String,
        /// The name of the key that is there.
        name: String,
        /// The server that drew it.
        host: String,
    },
    /// There is another key for this host.
    #[error(
        "`{alias}` has the key `{name}` already, which is another one: choose a name with --as, \
         or replace it with --replace"
    )]
    Other {
        /// The host.
        alias: String,
        /// The name of the key that is there.
        name: String,
    },
    /// The name cannot be used.
    #[error(
        "`{0}` cannot be the name of a host: choose one with --as, of letters, digits, `_`, `.`, `:` and \
         `-`, the first of them no `.` or `-`"
    )]
    Alias(String),
}

impl Hosts {
    /// The file's name.
    pub const FILE: &'static str = "hosts.toml";

    /// Those of the user who runs this: in `$XDG_CONFIG_HOME/xknock`, or where this system
    /// has such things.
    ///
    /// # Errors
    ///
    /// If the list is there and cannot be used.
    pub fn of_user() -> Result<Self, HostsError> {
        let strategy = etcetera::choose_base_strategy().map_err(HostsError::NoHome)?;
        Self::read(strategy.config_dir().join("xknock"))
    }

    /// Those in a folder, which need not be there.
    ///
    /// # Errors
    ///
    /// If the list is there and cannot be used.
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

    /// The host that the user calls `name`, or that has this address.
    ///
    /// # Errors
    ///
    /// If its key cannot be used.
    pub fn find(&self, name: &str) -> Result<Option<Host>, HostsError> {
        let by_address =
            || self.hosts.iter().find(|(_, entry)| same(entry.address.get_ref(), name));
        let found = self.called(name).or_else(by_address);
        let Some((alias, Entry { address, key, door })) = found else { return Ok(None) };
        let line = read_key(&self.folder.join(key))?;
        let (alias, address) = (alias.clone(), address.get_ref().clone());
        Ok(Some(Host { alias, address, line, door: door.clone() }))
    }

    /// The entry with this name; OpenSSH hands names on in lower case.
    fn called(&self, name: &str) -> Option<(&String, &Entry)> {
        let name = bare(name);
        let alike = || self.hosts.iter().find(|(alias, _)| same(alias, name));
        self.hosts.get_key_value(name).or_else(alike)
    }

    /// What the hosts are called.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.hosts.keys().map(String::as_str)
    }
}

/// An address or a name without the brackets that IPv6 has in URLs.
fn bare(name: &str) -> &str {
    name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name)
}

/// Whether two names or addresses mean the same.
fn same(one: &str, other: &str) -> bool {
    let (one, other) = (bare(one), bare(other));
    match (one.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one.eq_ignore_ascii_case(other),
    }
}

/// The text of the list, which need not be there.
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
    /// The door called `name`, or the one that is meant by default; what there is instead.
    ///
    /// # Errors
    ///
    /// The names of the key's doors, if it is not among them.
    pub fn door(&self, name: Option<&str>) -> Result<&KeyDoor, String> {
        let doors = &self.line.doors;
        match name.or(self.door.as_deref()) {
            None => Ok(&doors[0]),
            Some(name) => doors.iter().find(|door| door.name == name).ok_or_else(|| {
                let names: Vec<_> = doors.iter().map(|door| &*door.name).collect();
                format!(
                    "the key for `{}` opens no door `{name}`; it opens {}",
                    self.alias,
                    names.join(", ")
                )
            }),
        }
    }

    /// The door that leads to this TCP port, if the key has one.
    pub fn door_to(&self, port: u16) -> Option<&KeyDoor> {
        let service = Step::new(Protocol::Tcp, port);
        self.line.doors.iter().find(|door| door.opens.contains(&service))
    }
}

#[cfg(test)]
mod tests;

//! The hosts that this user has keys for: `hosts.toml` in the user's config folder, with a
//! file for each key beside it.
//!
//! ```text
//! ["server.example"]
//! address = "server.example"
//! key = "keys/server.example"
//! door = "ssh"
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;
use serde::Deserialize;

use crate::keys::{FolderError, KeyDoor, KeyLine, LineError, read_secret, write_secret};
use knock_common::sequence::{Protocol, Step};

/// The user's hosts.
#[derive(Debug)]
pub struct Hosts {
    folder: PathBuf,
    hosts: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    address: String,
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
    NoHome(#[from] etcetera::HomeDirError),
    /// The list cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
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
    #[error(transparent)]
    Key(#[from] FolderError),
    /// A key file holds no key.
    #[error("{}: {source}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: LineError,
    },
    /// Something cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key does not say where its host is.
    #[error("this key does not name its host: add --host NAME")]
    NoAddress,
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
    #[error("`{0}` cannot be the name of a host: use letters, digits, `_`, `.`, `:` and `-`")]
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
        Self::read(etcetera::choose_base_strategy()?.config_dir().join("xknock"))
    }

    /// Those in a folder, which need not be there.
    ///
    /// # Errors
    ///
    /// If the list is there and cannot be used.
    pub fn read(folder: PathBuf) -> Result<Self, HostsError> {
        let path = folder.join(Self::FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(HostsError::Unreadable { path, source }),
        };
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
        let by_address = || self.hosts.iter().find(|(_, entry)| entry.address == name);
        let found = self.hosts.get_key_value(name).or_else(by_address);
        let Some((alias, Entry { address, key, door })) = found else { return Ok(None) };
        let line = read_key(&self.folder.join(key))?;
        let (alias, address, door) = (alias.clone(), address.clone(), door.clone());
        Ok(Some(Host { alias, address, line, door }))
    }

    /// What the hosts are called.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.hosts.keys().map(String::as_str)
    }

    /// Adds a key for the host at `address`, or where the key says. The host gets the name
    /// `alias`, or that of its address, which is returned.
    ///
    /// A key of the same name takes the place of the one that is there; another one only if
    /// `replace` says so.
    ///
    /// # Errors
    ///
    /// If nothing was added.
    pub fn add(
        &mut self,
        line: &KeyLine,
        alias: Option<&str>,
        address: Option<&str>,
        replace: bool,
    ) -> Result<String, HostsError> {
        let address = address.unwrap_or(&line.host);
        if address.is_empty() {
            return Err(HostsError::NoAddress);
        }
        let alias = alias.unwrap_or(address);
        let legal = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
        let alias = alias.trim_matches(['[', ']']);
        if alias.is_empty() || !alias.chars().all(legal) || alias.starts_with('-') {
            return Err(HostsError::Alias(alias.to_owned()));
        }
        let key = match self.hosts.get(alias) {
            Some(entry) => entry.key.clone(),
            None => Path::new("keys").join(alias.replace(':', "_")),
        };
        let path = self.folder.join(&key);
        if let Ok(other) = read_key(&path)
            && other.name != line.name
            && !replace
        {
            return Err(HostsError::Other { alias: alias.to_owned(), name: other.name });
        }
        let unwritable = |path: &Path| {
            let path = path.to_owned();
            move |source| HostsError::Unwritable { path, source }
        };
        write_secret(&path, &line.to_text(), true).map_err(unwritable(&path))?;
        if !self.hosts.contains_key(alias) {
            self.append(alias, address, &key)?;
        }
        Ok(alias.to_owned())
    }

    /// Adds a host to the end of the list, which keeps what the user wrote there.
    fn append(&mut self, alias: &str, address: &str, key: &Path) -> Result<(), HostsError> {
        let path = self.folder.join(Self::FILE);
        let mut text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(HostsError::Unreadable { path, source }),
        };
        if !text.is_empty() {
            text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
        }
        let key_text = key.display();
        let written =
            write!(text, "[\"{alias}\"]\naddress = \"{address}\"\nkey = \"{key_text}\"\n");
        debug_assert!(written.is_ok(), "text takes text");
        write_secret(&path, &text, true)
            .map_err(|source| HostsError::Unwritable { path, source })?;
        let entry = Entry { address: address.to_owned(), key: key.to_owned(), door: None };
        self.hosts.insert(alias.to_owned(), entry);
        Ok(())
    }
}

fn read_key(path: &Path) -> Result<KeyLine, HostsError> {
    let text = read_secret(path)?;
    KeyLine::parse(&text).map_err(|source| HostsError::Line { path: path.to_owned(), source })
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
mod tests {
    use super::*;
    use crate::keys::{Key, Kind};
    use tempfile::TempDir;

    fn line(name: &str, host: &str) -> KeyLine {
        let doors = ["ssh:sealed:62201:seen:30:tcp/22", "web:sealed:62201:seen:30:tcp/443"];
        let doors = doors.map(|door| door.parse().unwrap()).to_vec();
        Key::draw(name.into(), host.into(), Kind::Shared, doors, 1_800_000_000, None, None)
            .unwrap()
            .1
    }

    fn hosts() -> (TempDir, Hosts) {
        let root = TempDir::new().unwrap();
        let hosts = Hosts::read(root.path().join("xknock")).unwrap();
        (root, hosts)
    }

    #[test]
    fn an_added_key_is_found_by_name_and_address() {
        let (root, mut hosts) = hosts();
        let added = hosts.add(&line("laptop", "server.example"), Some("work"), None, false);
        assert_eq!(added.unwrap(), "work");
        hosts.add(&line("laptop", "[fd77::1]"), None, None, false).unwrap();
        let again = Hosts::read(root.path().join("xknock")).unwrap();
        assert_eq!(again.names().collect::<Vec<_>>(), ["fd77::1", "work"]);
        for name in ["work", "server.example"] {
            let host = again.find(name).unwrap().unwrap();
            assert_eq!((&*host.alias, &*host.address), ("work", "server.example"));
            assert_eq!(host.door(None).unwrap().name, "ssh");
            assert_eq!(host.door_to(443).unwrap().name, "web");
            assert!(host.door(Some("db")).unwrap_err().contains("it opens ssh, web"));
        }
        assert!(again.find("elsewhere").unwrap().is_none());
    }

    #[test]
    fn what_the_user_wrote_stays() {
        let (root, mut hosts) = hosts();
        hosts.add(&line("laptop", "one"), None, None, false).unwrap();
        let file = root.path().join("xknock/hosts.toml");
        let text = std::fs::read_to_string(&file).unwrap() + "door = \"web\"  # mine\n";
        std::fs::write(&file, &text).unwrap();
        let mut hosts = Hosts::read(root.path().join("xknock")).unwrap();
        assert_eq!(hosts.find("one").unwrap().unwrap().door(None).unwrap().name, "web");
        hosts.add(&line("laptop", "two"), None, None, false).unwrap();
        // A rotated key takes the place of the old one.
        hosts.add(&line("laptop", "one"), None, None, false).unwrap();
        assert!(std::fs::read_to_string(&file).unwrap().starts_with(&text));
        let other = hosts.add(&line("phone", "one"), None, None, false).unwrap_err();
        assert!(other.to_string().contains("`laptop` already"), "{other}");
        hosts.add(&line("phone", "one"), None, None, true).unwrap();
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let (root, mut hosts) = hosts();
        let said = hosts.add(&line("laptop", ""), None, None, false).unwrap_err().to_string();
        assert!(said.contains("--host"), "{said}");
        let said = hosts.add(&line("laptop", "a"), Some("a/b"), None, false).unwrap_err();
        assert!(said.to_string().contains("cannot be the name"), "{said}");
        hosts.add(&line("laptop", "one"), None, None, false).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let key = root.path().join("xknock/keys/one");
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
            let said = hosts.find("one").unwrap_err().to_string();
            assert!(said.contains("others can read") && said.contains("chmod 600"), "{said}");
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
            std::fs::write(&key, "xknock://one?v=1&key=laptop").unwrap();
            let said = hosts.find("one").unwrap_err().to_string();
            assert!(said.contains("keys/one: this key is damaged"), "{said}");
        }
        let file = root.path().join("xknock/hosts.toml");
        std::fs::write(&file, "[one]\naddress = \"one\"\nkey = \"k\"\ndoors = \"ssh\"\n").unwrap();
        let said = Hosts::read(root.path().join("xknock")).unwrap_err().to_string();
        assert!(said.contains("hosts.toml:4: unknown field `doors`"), "{said}");
    }
}

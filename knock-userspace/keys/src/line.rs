//! The line that carries a key to its device:
//!
//! ```text
//! xknock://HOST?v=1&key=NAME&id=ID&secret=SECRET[&server=PUBLIC]&made=SECONDS
//!     [&until=SECONDS]&door=DOOR[&door=DOOR ...]&sum=CHECKSUM
//! ```
//!
//! There is only one way to write each line, so a line that was read prints as it was.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::secret::{bytes_from_text, bytes_to_text};
use super::{Credential, KeyDoor, KeyId, Secret, host_name, key_name};

/// The key as a device gets it.
#[derive(Clone, Debug)]
pub struct KeyLine {
    /// The address to knock on, or empty if the host did not know its own name.
    pub host: String,
    /// The key's name on that host.
    pub name: String,
    /// The identifier on the wire.
    pub id: KeyId,
    /// The secret to knock with.
    pub credential: Credential,
    /// The time when the key was made, in seconds since 1970.
    pub made: u64,
    /// The time when the key ends, in seconds since 1970.
    pub until: Option<u64>,
    /// The doors that the key opens, at least one.
    pub doors: Vec<KeyDoor>,
}

/// The reason why text is not such a line. No error shows any of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// The text begins with something else.
    #[error("this is not a key: it does not begin with `{}`", KeyLine::SCHEME)]
    NotAKey,
    /// The line is of another version of the format.
    #[error(
        "this key is of version {0}, but this program knows version {known}: update the program",
        known = KeyLine::VERSION
    )]
    Version(String),
    /// The checksum is missing or wrong.
    #[error("this key is damaged: its checksum is wrong; copy the whole line, in single quotes")]
    Checksum,
    /// A part is missing, out of place or malformed.
    #[error("this key is damaged: its part `{0}` cannot be read")]
    Part(&'static str),
}

impl KeyLine {
    /// The beginning of every line.
    pub const SCHEME: &'static str = "xknock://";
    /// The version of the format.
    pub const VERSION: &'static str = "1";
    /// The greatest length of a line, in bytes.
    pub const LONGEST: usize = 1 << 16;

    /// Returns the text of the line.
    pub fn to_text(&self) -> Zeroizing<String> {
        let Self { host, name, id, credential, made, until, doors } = self;
        let (secret, server) = match credential {
            Credential::Shared(secret) => (secret, None),
            Credential::Public { seed, server } => (seed, Some(server)),
        };
        // The text never grows: a reallocation would leave parts of the secret in freed memory.
        let mut text = Zeroizing::new(String::with_capacity(4096));
        let mut put = |part: std::fmt::Arguments<'_>| {
            let written = text.write_fmt(part);
            debug_assert!(written.is_ok(), "text takes text");
        };
        put(format_args!("{}{host}?v={}&key={name}&id={id}", Self::SCHEME, Self::VERSION));
        put(format_args!("&secret={}", *secret.to_text()));
        if let Some(server) = server {
            put(format_args!("&server={}", bytes_to_text(server)));
        }
        put(format_args!("&made={made}"));
        if let Some(until) = until {
            put(format_args!("&until={until}"));
        }
        for door in doors {
            put(format_args!("&door={door}"));
        }
        let sum = checksum(&text);
        text.push_str(SUM);
        text.push_str(&sum);
        text
    }

    /// Reads a line. Blanks around it are ignored.
    ///
    /// # Errors
    ///
    /// See [`LineError`].
    pub fn parse(text: &str) -> Result<Self, LineError> {
        let text = text.trim();
        let rest = text.strip_prefix(Self::SCHEME).ok_or(LineError::NotAKey)?;
        let (host, query) = rest.split_once('?').ok_or(LineError::Part("v"))?;
        let version = query.strip_prefix("v=").ok_or(LineError::Part("v"))?;
        let version = version.split('&').next().unwrap_or_default();
        if version != Self::VERSION {
            let shown = version.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
            return Err(LineError::Version(shown));
        }
        let (body, sum) = text.rsplit_once(SUM).ok_or(LineError::Checksum)?;
        if text.len() > Self::LONGEST || checksum(body) != sum {
            return Err(LineError::Checksum);
        }
        let query = query.strip_suffix(sum).and_then(|query| query.strip_suffix(SUM));
        let mut parts = Parts(query.unwrap_or_default().split('&').skip(1).peekable());
        let line = Self {
            host: host_name(host).ok_or(LineError::Part("host"))?.to_owned(),
            name: parts.next("key", |text| key_name(text).map(str::to_owned))?,
            id: parts.next("id", KeyId::from_text)?,
            credential: {
                let secret = parts.next("secret", Secret::from_text)?;
                match parts.optional("server", bytes_from_text)? {
                    None => Credential::Shared(secret),
                    Some(server) => Credential::Public { seed: secret, server },
                }
            },
            made: parts.next("made", number)?,
            until: parts.optional("until", number)?,
            doors: parts.rest("door", |text| text.parse().ok())?,
        };
        if *line.to_text() == *text { Ok(line) } else { Err(LineError::Part("order")) }
    }
}

const SUM: &str = "&sum=";

/// Returns eight hexadecimal digits that find mistakes in copying, and nothing else.
fn checksum(text: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(text)[..4])
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The parts of a line in their order.
struct Parts<'a, I: Iterator<Item = &'a str>>(std::iter::Peekable<I>);

impl<'a, I: Iterator<Item = &'a str>> Parts<'a, I> {
    fn next<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, LineError> {
        self.optional(name, read)?.ok_or(LineError::Part(name))
    }

    fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<Option<T>, LineError> {
        let named = |part: &&'a str| part.split_once('=').is_some_and(|(found, _)| found == name);
        let Some(part) = self.0.next_if(named) else { return Ok(None) };
        let value = part.split_once('=').and_then(|(_, value)| read(value));
        value.map(Some).ok_or(LineError::Part(name))
    }

    fn rest<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&'a str) -> Option<T>,
    ) -> Result<Vec<T>, LineError> {
        let mut all = vec![self.next(name, &read)?];
        while let Some(value) = self.optional(name, &read)? {
            all.push(value);
        }
        match self.0.next() {
            None => Ok(all),
            Some(_) => Err(LineError::Part("order")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::door::tests::any_door;
    use super::*;
    use proptest::prelude::*;

    fn any_line() -> impl Strategy<Value = KeyLine> {
        let doors = proptest::collection::vec(any_door(), 1..4);
        let rest =
            (any::<[u8; 32]>(), any::<Option<[u8; 32]>>(), any::<u64>(), any::<Option<u64>>());
        ("[a-z0-9.-]{0,30}", "[a-z][a-z0-9_.-]{0,20}", any::<[u8; 8]>(), rest, doors).prop_map(
            |(host, name, id, (mut secret, server, made, until), doors)| {
                let secret = Secret::take(&mut secret);
                let credential = match server {
                    None => Credential::Shared(secret),
                    Some(server) => Credential::Public { seed: secret, server },
                };
                KeyLine { host, name, id: KeyId(id), credential, made, until, doors }
            },
        )
    }

    proptest! {
        #[test]
        fn a_printed_line_reads_back(line in any_line()) {
            let text = line.to_text();
            let read = KeyLine::parse(&format!("  {}\n", *text)).unwrap();
            prop_assert_eq!(&*read.to_text(), &*text);
            prop_assert_eq!(read.doors, line.doors);
        }

        #[test]
        fn a_changed_line_is_refused(line in any_line(), at: prop::sample::Index, c in "[ -~]") {
            let text = line.to_text();
            let at = at.index(text.len());
            prop_assume!(text[at..=at] != c && !(c == " " && at == text.len() - 1));
            let changed = [&text[..at], &c, &text[at + 1..]].concat();
            let error = KeyLine::parse(&changed).unwrap_err();
            let said = format!("{error} {error:?}");
            prop_assert!(!said.contains(&text[60..80]));
        }

        #[test]
        fn a_cut_line_is_refused(line in any_line(), at: prop::sample::Index) {
            let text = line.to_text();
            prop_assert!(KeyLine::parse(&text[..at.index(text.len())]).is_err());
        }

        #[test]
        fn no_text_panics(text in "(xknock://)?[a-z]{0,5}\\?v=1&[ -~]{0,80}") {
            let _ = KeyLine::parse(&text);
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        let say = |text: &str| KeyLine::parse(text).unwrap_err().to_string();
        assert!(say("https://host").contains("begin with `xknock://`"));
        assert!(say("xknock://host?v=2&key=a&sum=0").contains("version 2"));
        assert!(say("xknock://host?v=1&key=a").contains("single quotes"));
        let body = "xknock://host?v=1&key=a";
        assert!(say(&format!("{body}{SUM}{}", checksum(body))).contains("part `id`"));
    }
}

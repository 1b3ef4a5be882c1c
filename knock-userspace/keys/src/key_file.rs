//! Key files: the text of what the host keeps of a key.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::secret::{bytes_from_text, bytes_to_text};
use super::{Credential, KeyDoor, KeyId, KeyLine, Kind, Secret, Verifier, draw, host_name};

/// A key, as the host knows it.
#[derive(Clone, Debug)]
pub struct Key {
    /// The name of the key and of its file.
    pub name: String,
    /// The address of the host for devices, or empty if it is not known.
    pub host: String,
    /// The time when the key was made, in seconds since 1970.
    pub made: u64,
    /// The time when the key ends, in seconds since 1970.
    pub expires: Option<u64>,
    /// The longest time of a grant, whatever the door and the knock say.
    pub longest: Option<Duration>,
    /// The doors that the key opens.
    pub doors: Vec<KeyDoor>,
    /// The version that devices knock with.
    pub current: KeyVersion,
    /// The version before, which still works until the given second since 1970.
    pub previous: Option<(KeyVersion, u64)>,
}

/// The part of a key that a rotation changes.
#[derive(Clone, Debug)]
pub struct KeyVersion {
    /// The identifier on the wire.
    pub id: KeyId,
    /// The secrets or public keys that verify knocks.
    pub verifier: Verifier,
}

/// The reason why text is not a key file. No error shows any of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// The text is not of the right form.
    #[error("line {0} is not valid in a key file")]
    Form(usize),
    /// A value cannot be read.
    #[error("the value of `{0}` cannot be read")]
    Value(&'static str),
    /// The file is of another version of the format.
    #[error(
        "it is of version {0}, but this program knows version {known}: update the program",
        known = Key::VERSION
    )]
    Version(u32),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKey {
    version: u32,
    host: Option<String>,
    made: String,
    expires: Option<String>,
    longest: Option<String>,
    doors: Vec<String>,
    key: RawVersion,
    previous: Option<RawVersion>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVersion {
    id: String,
    secret: Option<Zeroizing<String>>,
    signing: Option<String>,
    exchange: Option<String>,
    server: Option<Zeroizing<String>>,
    until: Option<String>,
}

impl Key {
    /// The version of the format.
    pub const VERSION: u32 = 1;

    /// Draws a key. Returns the key for the host, and the line for the device.
    ///
    /// # Errors
    ///
    /// If the operating system has no random bytes.
    pub fn draw(
        name: String,
        host: String,
        kind: Kind,
        doors: Vec<KeyDoor>,
        made: u64,
        expires: Option<u64>,
        longest: Option<Duration>,
    ) -> Result<(Self, KeyLine), getrandom::Error> {
        let (id, credential, verifier) = draw(kind)?;
        let current = KeyVersion { id, verifier };
        let key = Self { name, host, made, expires, longest, doors, current, previous: None };
        let line = key.line(credential);
        Ok((key, line))
    }

    /// Draws a new version and returns its line. The version until now works until `until`, in
    /// seconds since 1970. If that one was `unused`, its line was lost on the way to the device, so
    /// the version before it works on instead.
    ///
    /// # Errors
    ///
    /// If the operating system has no random bytes.
    pub fn rotate(
        &mut self,
        now: u64,
        until: u64,
        unused: bool,
    ) -> Result<KeyLine, getrandom::Error> {
        let (id, credential, verifier) = draw(self.kind())?;
        let old = std::mem::replace(&mut self.current, KeyVersion { id, verifier });
        let before = self.previous.take().filter(|(_, end)| unused && *end > now);
        let kept = before.map_or((old, until), |(version, end)| (version, end.max(until)));
        self.previous = (until > now).then_some(kept);
        self.made = now;
        Ok(self.line(credential))
    }

    fn line(&self, credential: Credential) -> KeyLine {
        KeyLine {
            host: self.host.clone(),
            name: self.name.clone(),
            id: self.current.id,
            credential,
            made: self.made,
            until: self.expires,
            doors: self.doors.clone(),
        }
    }

    /// Returns which side holds which secret.
    pub const fn kind(&self) -> Kind {
        match self.current.verifier {
            Verifier::Shared(_) => Kind::Shared,
            Verifier::Public { .. } => Kind::Public,
        }
    }

    /// Whether the key has ended at `now`, in seconds since 1970.
    pub fn has_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Returns the versions that work at `now`, in seconds since 1970: none once the key has ended.
    pub fn versions(&self, now: u64) -> impl Iterator<Item = &KeyVersion> {
        let previous = self.previous.as_ref().filter(move |(_, until)| *until > now);
        let alive = !self.has_expired(now);
        let versions = std::iter::once(&self.current).chain(previous.map(|(version, _)| version));
        versions.filter(move |_| alive)
    }

    /// Returns the text of the key's file.
    pub fn to_text(&self) -> Zeroizing<String> {
        let Self { name, host, made, expires, longest, doors, current, previous } = self;
        let mut text = Zeroizing::new(String::with_capacity(8192));
        let mut put = |line: std::fmt::Arguments<'_>| {
            let written = writeln!(text, "{line}");
            debug_assert!(written.is_ok(), "text takes text");
        };
        put(format_args!("# The key `{name}` of xknock. Keep it readable for its owner only."));
        put(format_args!("version = {}\nmade = \"{}\"", Self::VERSION, time_to_text(*made)));
        if !host.is_empty() {
            put(format_args!("host = \"{host}\""));
        }
        if let Some(expires) = expires {
            put(format_args!("expires = \"{}\"", time_to_text(*expires)));
        }
        if let Some(longest) = longest {
            put(format_args!("longest = \"{}\"", humantime::format_duration(*longest)));
        }
        put(format_args!("doors = ["));
        for door in doors {
            put(format_args!("    \"{door}\","));
        }
        put(format_args!("]"));
        let versions = [
            ("key", Some((current, None))),
            ("previous", previous.as_ref().map(|(version, until)| (version, Some(until)))),
        ];
        for (table, version) in versions {
            let Some((KeyVersion { id, verifier }, until)) = version else { continue };
            put(format_args!("\n[{table}]\nid = \"{id}\""));
            match verifier {
                Verifier::Shared(secret) => put(format_args!("secret = \"{}\"", *secret.to_text())),
                Verifier::Public { signing, exchange, server } => {
                    put(format_args!("signing = \"{}\"", bytes_to_text(signing)));
                    put(format_args!("exchange = \"{}\"", bytes_to_text(exchange)));
                    put(format_args!("server = \"{}\"", *server.to_text()));
                }
            }
            if let Some(until) = until {
                put(format_args!("until = \"{}\"", time_to_text(*until)));
            }
        }
        text
    }

    /// Reads the file of the key called `name`.
    ///
    /// # Errors
    ///
    /// See [`KeyFileError`].
    pub fn parse(name: &str, text: &str) -> Result<Self, KeyFileError> {
        // The reader's message may quote the file, so only the place is passed on.
        let raw: RawKey = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            KeyFileError::Form(text.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() + 1)
        })?;
        if raw.version != Self::VERSION {
            return Err(KeyFileError::Version(raw.version));
        }
        let doors: Option<Vec<KeyDoor>> = raw.doors.iter().map(|door| door.parse().ok()).collect();
        let doors = doors.filter(|doors| !doors.is_empty());
        let longest = raw.longest.map(|text| {
            let parsed = humantime::parse_duration(&text).ok();
            parsed.filter(|longest| !longest.is_zero()).ok_or(KeyFileError::Value("longest"))
        });
        if raw.key.until.is_some() {
            return Err(KeyFileError::Value("until"));
        }
        let host = raw.host.unwrap_or_default();
        Ok(Self {
            name: name.to_owned(),
            host: host_name(&host).ok_or(KeyFileError::Value("host"))?.to_owned(),
            made: time_from_text(&raw.made).ok_or(KeyFileError::Value("made"))?,
            expires: match raw.expires {
                None => None,
                Some(text) => Some(time_from_text(&text).ok_or(KeyFileError::Value("expires"))?),
            },
            longest: longest.transpose()?,
            doors: doors.ok_or(KeyFileError::Value("doors"))?,
            current: raw.key.read()?,
            previous: match raw.previous {
                None => None,
                Some(previous) => {
                    let until = previous.until.as_deref().and_then(time_from_text);
                    Some((previous.read()?, until.ok_or(KeyFileError::Value("until"))?))
                }
            },
        })
    }
}

impl RawVersion {
    fn read(&self) -> Result<KeyVersion, KeyFileError> {
        let Self { id, secret, signing, exchange, server, until: _ } = self;
        let id = KeyId::from_text(id).ok_or(KeyFileError::Value("id"))?;
        let hidden = |text: &Zeroizing<String>, name| {
            Secret::from_text(text).ok_or(KeyFileError::Value(name))
        };
        let shown = |text: &String, name| bytes_from_text(text).ok_or(KeyFileError::Value(name));
        let verifier = match (secret, signing, exchange, server) {
            (Some(secret), None, None, None) => Verifier::Shared(hidden(secret, "secret")?),
            (None, Some(signing), Some(exchange), Some(server)) => Verifier::Public {
                signing: shown(signing, "signing")?,
                exchange: shown(exchange, "exchange")?,
                server: hidden(server, "server")?,
            },
            _ => return Err(KeyFileError::Value("secret")),
        };
        if super::Opener::new(&verifier).is_none() {
            return Err(KeyFileError::Value("signing"));
        }
        Ok(KeyVersion { id, verifier })
    }
}

/// Returns a time in seconds since 1970 as text in UTC. A time after the year 9999 becomes its last
/// second.
pub fn time_to_text(seconds: u64) -> String {
    // The last second that this form can write, in the year 9999.
    const LAST: u64 = 253_402_300_799;
    let time = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST));
    humantime::format_rfc3339_seconds(time).to_string()
}

fn time_from_text(text: &str) -> Option<u64> {
    let time: SystemTime = humantime::parse_rfc3339(text).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn doors() -> Vec<KeyDoor> {
        ["ssh:sealed:62201:seen:30:tcp/22", "web:rolling:20000-32767:22000:5:udp:30:tcp/443"]
            .map(|door| door.parse().unwrap())
            .to_vec()
    }

    fn key(kind: Kind) -> Key {
        let longest = Some(Duration::from_secs(600));
        let drawn =
            Key::draw("laptop".into(), "host".into(), kind, doors(), NOW, Some(NOW + 9), longest);
        drawn.unwrap().0
    }

    #[test]
    fn a_written_key_reads_back_even_rotated() {
        for kind in [Kind::Shared, Kind::Public] {
            let mut key = key(kind);
            key.rotate(NOW + 1, NOW + 5, false).unwrap();
            let text = key.to_text();
            let read = Key::parse("laptop", &text).unwrap();
            assert_eq!(*read.to_text(), *text);
            assert_eq!((read.kind(), &read.doors), (kind, &key.doors));
            assert_eq!(
                (read.made, read.expires, read.longest),
                (NOW + 1, Some(NOW + 9), key.longest)
            );
        }
    }

    #[test]
    fn both_versions_of_a_rotated_key_work_until_the_old_one_ends() {
        let mut key = key(Kind::Shared);
        let old = key.current.id;
        key.rotate(NOW, NOW + 5, false).unwrap();
        let new = key.current.id;
        assert_ne!(old, new);
        let ids = |now| key.versions(now).map(|version| version.id).collect::<Vec<_>>();
        assert_eq!(ids(NOW + 4), [new, old]);
        assert_eq!(ids(NOW + 5), [new]);
        assert_eq!(ids(NOW + 9), [], "the key as a whole has ended");
    }

    #[test]
    fn damage_is_reported_without_showing_the_file() {
        let text = key(Kind::Shared).to_text();
        let secret = text.split('"').find(|word| word.len() == 43).unwrap().to_owned();
        let cases = [
            (text.replace("version = 1", "version = 7"), "version 7"),
            (text.replace("secret = \"", "secret = \"A"), "`secret`"),
            (text.replace("secret =", "server ="), "`secret`"),
            (text.replace("id = \"", "id = \"0"), "`id`"),
            (text.replace("doors = [", "door = ["), "line 7"),
            (text.replace("sealed:62201", "sealed:0"), "`doors`"),
            (text.replace("longest = \"10m\"", "longest = \"soon\""), "`longest`"),
            (text.replace("secret = \"", "secret = ["), "line"),
            (text.replace(&format!("\"{secret}\""), &secret), "line"),
            (text.replace("[key]", &format!("\"{secret}\" = 1\n[key]")), "line"),
        ];
        for (changed, expected) in cases {
            let error = Key::parse("laptop", &changed).unwrap_err();
            let said = format!("{error} {error:?}");
            assert!(said.contains(expected), "{said}");
            assert!(!said.contains(&secret[..6]), "{said}");
        }
    }

    #[test]
    fn nothing_secret_prints() {
        for kind in [Kind::Shared, Kind::Public] {
            let key = key(kind);
            let KeyVersion {
                verifier: Verifier::Shared(secret) | Verifier::Public { server: secret, .. },
                ..
            } = &key.current;
            assert!(!format!("{key:?}").contains(&*secret.to_text()));
            assert!(!format!("{key:?}").contains(&format!("{:?}", secret.expose())));
        }
    }
}

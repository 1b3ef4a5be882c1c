//! The comparison of a key with the config, which may have changed since the key was made.

use knock_keys::{Key, KeyDoor, KeyVersion};
use knock_policy::{Door, Method, Policy};

use super::{ReplayStore, slot_owner};

/// The reason why a key no longer opens a door. The device goes by the config as it was when the
/// key was made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Misfit {
    /// The config has no such door.
    #[error("the config has no door `{door}` any more")]
    Gone {
        /// Its name.
        door: String,
    },
    /// The door has another method.
    #[error("door `{door}` has another method now")]
    Method {
        /// Its name.
        door: String,
    },
    /// The door takes sealed knocks at another port.
    #[error(
        "door `{door}` takes sealed knocks at UDP port {now} now, and this key sends them to {then}"
    )]
    Port {
        /// Its name.
        door: String,
        /// The port in the config.
        now: u16,
        /// The port in the key.
        then: u16,
    },
}

/// Returns a misfit for each door of `key` that it does not open under `policy`.
pub fn misfits(key: &Key, policy: &Policy) -> Vec<Misfit> {
    let misfit = |known: &KeyDoor| {
        let door = known.name.clone();
        match policy.door(&known.name) {
            None => Some(Misfit::Gone { door }),
            Some(found) => changed(found, known),
        }
    };
    key.doors.iter().filter_map(misfit).collect()
}

fn changed(door: &Door, known: &KeyDoor) -> Option<Misfit> {
    let name = door.name.clone();
    match (&door.method, &known.method) {
        (Method::Rolling { .. }, knock_keys::KeyMethod::Rolling(_)) => None,
        (&Method::Sealed { port: now, .. }, &knock_keys::KeyMethod::Sealed { port: then, .. }) => {
            (now != then).then_some(Misfit::Port { door: name, now, then })
        }
        _ => Some(Misfit::Method { door: name }),
    }
}

/// Whether a knock that was made with `version` of a key was ever accepted, for any of `doors`.
pub fn has_knocked(replay_store: &ReplayStore, version: &KeyVersion, doors: &[KeyDoor]) -> bool {
    let rolling = doors.iter().map(|door| slot_owner(version.id, &door.name));
    std::iter::once(version.id.number()).chain(rolling).any(|owner| replay_store.has_record(owner))
}

#[cfg(test)]
mod tests {
    use super::*;
    use knock_keys::Kind;

    fn policy(text: &str) -> Policy {
        knock_policy::config::parse("test", text).expect("a config")
    }

    #[test]
    fn a_key_fits_until_its_door_changes() {
        let doors =
            ["ssh:sealed:62201:seen:30:tcp/22", "web:rolling:20000-32767::5:udp:30:tcp/443"];
        let doors = doors.map(|door| door.parse().expect("a door")).to_vec();
        let drawn = Key::draw("laptop".into(), String::new(), Kind::Shared, doors, 1, None, None);
        let key = drawn.expect("random bytes").0;
        let door = |name, port, more: &str| {
            format!("[[door]]\nname = \"{name}\"\nopens = [\"tcp/{port}\"]\n{more}\n")
        };
        let web = door("web", 443, "method = \"rolling\"");
        for (ssh, expected) in [
            (door("ssh", 22, "method = \"sealed\""), None),
            (door("ssh", 2222, "method = \"sealed\"\naddresses = \"own\""), None),
            (door("ssh", 22, "method = \"sealed\"\nport = 62999"), Some("UDP port 62999 now")),
            (door("ssh", 22, "method = \"rolling\""), Some("another method")),
            (door("SSH", 22, "method = \"sealed\""), Some("no door `ssh`")),
        ] {
            let said: Vec<_> = misfits(&key, &policy(&format!("{ssh}{web}")))
                .iter()
                .map(ToString::to_string)
                .collect();
            match expected {
                None => assert!(said.is_empty(), "{said:?}"),
                Some(text) => assert!(said.len() == 1 && said[0].contains(text), "{said:?}"),
            }
        }
    }
}

//! Whether a key still fits the config beside which it is used, and whether it was used at all.

use knock_keys::{Key, KeyDoor, KeyVersion};
use knock_policy::{Door, Method, Policy};

use super::{ReplayStore, slot_owner};

/// Why a door of a key opens nothing: the device does as the config said when the key was made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Misfit {
    /// There is no such door.
    #[error("the config has no door `{door}` any more")]
    Gone {
        /// Its name.
        door: String,
    },
    /// It is knocked at otherwise.
    #[error("door `{door}` has another method now")]
    Method {
        /// Its name.
        door: String,
    },
    /// Packets go to another port.
    #[error(
        "door `{door}` takes sealed knocks at UDP port {now} now, and this key sends them to {then}"
    )]
    Port {
        /// Its name.
        door: String,
        /// In the config.
        now: u16,
        /// In the key.
        then: u16,
    },
}

/// What of `key` opens nothing beside `policy`.
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

/// Whether a knock was ever accepted that was made with `part`, for any of `doors`.
pub fn has_knocked(replay_store: &ReplayStore, part: &KeyVersion, doors: &[KeyDoor]) -> bool {
    let rolling = doors.iter().map(|door| slot_owner(part.id, &door.name));
    std::iter::once(part.id.number()).chain(rolling).any(|owner| replay_store.knows(owner))
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

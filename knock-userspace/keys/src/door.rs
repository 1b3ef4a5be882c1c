//! Doors as a key knows them. They are written the same way in key files and in lines:
//!
//! ```text
//! ssh:sealed:62201:seen:30:tcp/22
//! web:rolling:20000-32767:22000,25000:5:udp:30:tcp/443,tcp/80
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use knock_common::sequence::{Protocol, Step};
use sha2::{Digest as _, Sha256};

use super::names::door_name;
use super::rolling::{Ports, Rolling, port};

/// A door that a key opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDoor {
    /// The name of the door in the config.
    pub name: String,
    /// The method of this key to knock on it.
    pub method: KeyMethod,
    /// The time that a grant lasts unless a knock wants less, in whole seconds.
    pub open_for: Duration,
    /// The services that the door opens.
    pub opens: Vec<Step>,
}

/// The method by which a key knocks on a door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyMethod {
    /// Steps that change with every time slot.
    Rolling(Rolling),
    /// One packet.
    Sealed {
        /// The UDP port that takes the packet.
        port: u16,
        /// The addresses that it may open for.
        addresses: Addresses,
    },
}

/// The addresses that a sealed knock may open a door for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// The address that the packet comes from, whether the packet names it or not.
    #[default]
    Seen,
    /// The address that the packet comes from, which the packet must name. This excludes devices
    /// behind NAT.
    Own,
    /// Any address that the packet names, or else the one that it comes from.
    Any,
}

impl Addresses {
    /// All values.
    pub const ALL: [Self; 3] = [Self::Seen, Self::Own, Self::Any];

    /// Returns the name that a config uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Own => "own",
            Self::Any => "any",
        }
    }
}

/// The short form of a door's name in a sealed knock. No two doors of one key have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DoorTag(pub [u8; 4]);

impl DoorTag {
    /// Returns the tag of the door with this name: the first 4 bytes of a SHA-256.
    pub fn of(name: &str) -> Self {
        let hash = Sha256::new().chain_update(b"xknock v1 door").chain_update(name).finalize();
        Self([hash[0], hash[1], hash[2], hash[3]])
    }
}

/// The error for text that is not a door.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not written as in ssh:sealed:62201:seen:30:tcp/22")]
pub struct DoorError;

impl fmt::Display for KeyDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, method, open_for, opens } = self;
        write!(f, "{name}:")?;
        match method {
            KeyMethod::Sealed { port, addresses } => {
                write!(f, "sealed:{port}:{}", addresses.name())?;
            }
            KeyMethod::Rolling(Rolling { ports, steps, mixed }) => {
                let range = ports.range();
                write!(f, "rolling:{}-{}:", range.start(), range.end())?;
                list(f, ports.without())?;
                write!(f, ":{steps}:{}", if *mixed { "mixed" } else { "udp" })?;
            }
        }
        write!(f, ":{}:", open_for.as_secs())?;
        list(f, opens)
    }
}

fn list(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display]) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        item.fmt(f)?;
    }
    Ok(())
}

impl FromStr for KeyDoor {
    type Err = DoorError;

    fn from_str(text: &str) -> Result<Self, DoorError> {
        let read = || {
            let fields: Vec<_> = text.split(':').collect();
            let (method, open_for, opens) = match fields[..] {
                [_, "sealed", at, addresses, open_for, opens] => {
                    let addresses =
                        Addresses::ALL.into_iter().find(|known| known.name() == addresses)?;
                    (KeyMethod::Sealed { port: port(at)?, addresses }, open_for, opens)
                }
                [_, "rolling", range, without, steps, protocols, open_for, opens] => (
                    KeyMethod::Rolling(rolling(range, without, steps, protocols)?),
                    open_for,
                    opens,
                ),
                _ => return None,
            };
            let door = Self {
                name: door_name(fields[0])?.to_owned(),
                method,
                open_for: Duration::from_secs(open_for.parse().ok().filter(|&time| time > 0)?),
                opens: opens.split(',').map(service).collect::<Option<_>>()?,
            };
            // One way to write each: no leading zeros, nothing out of order.
            (door.to_string() == text).then_some(door)
        };
        read().ok_or(DoorError)
    }
}

fn rolling(range: &str, without: &str, steps: &str, protocols: &str) -> Option<Rolling> {
    let without = without.split(',').filter(|text| !text.is_empty()).map(port);
    let steps = steps.parse().ok().filter(|steps| Rolling::STEPS.contains(steps))?;
    let mixed = match protocols {
        "udp" => false,
        "mixed" => true,
        _ => return None,
    };
    let ports =
        Ports::new(Ports::parse_range(range).ok()?, without.collect::<Option<Vec<_>>>()?).ok()?;
    Some(Rolling { ports, steps, mixed })
}

fn service(text: &str) -> Option<Step> {
    let (protocol, number) = text.split_once('/')?;
    let protocol = Protocol::ALL.into_iter().find(|known| known.name() == protocol)?;
    Some(Step::new(protocol, port(number)?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_door() -> impl Strategy<Value = KeyDoor> {
        let service = (any::<bool>(), 1u16..).prop_map(|(udp, port)| {
            Step::new(if udp { Protocol::Udp } else { Protocol::Tcp }, port)
        });
        let sealed = (1u16.., 0..3usize)
            .prop_map(|(port, which)| KeyMethod::Sealed { port, addresses: Addresses::ALL[which] });
        let rolling = (1u16..30_000, 2000u16..30_000, any::<Vec<u8>>(), any::<bool>(), 3u8..=16)
            .prop_map(|(low, size, without, mixed, steps)| {
                let without = without.into_iter().map(|n| low + u16::from(n));
                let ports = Ports::new(low..=low + size, without).unwrap();
                KeyMethod::Rolling(Rolling { ports, steps, mixed })
            });
        let method = prop_oneof![sealed, rolling];
        let services = proptest::collection::vec(service, 1..4);
        ("[a-zA-Z0-9_.-]{1,64}", method, 1u64..1 << 32, services).prop_map(
            |(name, method, seconds, opens)| KeyDoor {
                name,
                method,
                open_for: Duration::from_secs(seconds),
                opens,
            },
        )
    }

    proptest! {
        #[test]
        fn a_printed_door_reads_back(door in any_door()) {
            prop_assert_eq!(door.to_string().parse(), Ok(door));
        }

        #[test]
        fn no_text_panics(text in "[a-z0-9:,/-]{0,60}") {
            if let Ok(door) = text.parse::<KeyDoor>() {
                prop_assert_eq!(door.to_string(), text);
            }
        }
    }

    #[test]
    fn what_is_no_door_is_refused() {
        for text in [
            "",
            "ssh",
            "ssh:sealed:0:seen:30:tcp/22",
            "ssh:sealed:62201:none:30:tcp/22",
            "ssh:sealed:62201:seen:0:tcp/22",
            "ssh:sealed:62201:seen:030:tcp/22",
            "ssh:sealed:62201:seen:30:",
            "ssh:sealed:62201:seen:30:tcp/22:more",
            "s h:sealed:62201:seen:30:tcp/22",
            "ssh:rolling:1-100::5:udp:30:tcp/22",
            "ssh:rolling:20000-32767:7:5:udp:30:tcp/22",
            "ssh:rolling:20000-32767::2:udp:30:tcp/22",
        ] {
            assert_eq!(text.parse::<KeyDoor>(), Err(DoorError), "{text}");
        }
    }
}

//! The policy of a host: its doors, and how it is guarded. Pure data.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use knock_common::sequence::{DoorId, Protocol, Step};
use knock_keys::{Addresses, WINDOW};

/// Everything that the agent acts on, checked and complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Names of the interfaces that are watched and guarded. A name that ends with `*` stands for
    /// all that begin so. The interfaces need not exist yet.
    pub interfaces: Vec<String>,
    /// Whether the guard drops what has no grant.
    pub mode: Mode,
    /// How the guard recognizes packets of running connections.
    pub connections: Connections,
    /// How the detector is attached to the interfaces.
    pub attach: Attach,
    /// The treatment of packets that matched a step.
    pub knocks: Knocks,
    /// The sources that never need a grant.
    pub always_allow: Vec<IpNet>,
    /// The number of decoys that a source with progress may hit.
    pub strays: u8,
    /// The share of unused ports that are decoys, in percent.
    pub decoys: u8,
    /// The number of sources with progress past their first step that are remembered.
    pub max_sources: u32,
    /// The number of grants that one source may hold at once.
    pub max_grants: u32,
    /// The greatest age of a completed knock that still opens its door. A knock ages while no agent
    /// runs.
    pub late_grants: Duration,
    /// The folder of key files.
    pub keys: PathBuf,
    /// How far the clock of a device with a key may be off.
    pub clock_window: Duration,
    /// The doors, in the order of the config.
    pub doors: Vec<Door>,
}

impl Default for Policy {
    /// The policy of an empty config.
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            mode: Mode::default(),
            connections: Connections::default(),
            attach: Attach::default(),
            knocks: Knocks::default(),
            always_allow: Vec::new(),
            strays: 2,
            decoys: 10,
            max_sources: 65_536,
            max_grants: 64,
            late_grants: Duration::from_secs(5),
            keys: PathBuf::from("/etc/xknock/keys"),
            clock_window: WINDOW,
            doors: Vec::new(),
        }
    }
}

impl Policy {
    /// Returns the door with this name.
    pub fn door(&self, name: &str) -> Option<&Door> {
        self.doors.iter().find(|door| door.name == name)
    }

    /// Returns the door with this name, or an error that names doors that exist.
    ///
    /// # Errors
    ///
    /// If there is no such door.
    pub fn known_door(&self, name: &str) -> Result<&Door, UnknownDoor> {
        /// A config may have thousands.
        const NAMED: usize = 20;
        self.door(name).ok_or_else(|| {
            let names = self.doors.iter().map(|door| door.name.as_str()).take(NAMED);
            UnknownDoor { name: name.to_owned(), known: names.collect::<Vec<_>>().join(", ") }
        })
    }

    /// Whether the interface called `name` is to be watched.
    pub fn watches(&self, name: &str) -> bool {
        self.interfaces.iter().any(|pattern| matches(pattern, name))
    }

    /// Returns the names and patterns that fit none of the interfaces called `present`.
    pub fn awaited<'a>(&'a self, present: &[&str]) -> Vec<&'a str> {
        let patterns = self.interfaces.iter().map(String::as_str);
        patterns.filter(|pattern| !present.iter().any(|name| matches(pattern, name))).collect()
    }
}

/// A name that no door has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no door `{name}`; there are: {known}")]
pub struct UnknownDoor {
    name: String,
    known: String,
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

/// A named set of services, with the method of knocking and the time that it stays open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The unique name.
    pub name: String,
    /// The services that it opens, at least one.
    pub opens: Vec<Service>,
    /// The method of knocking.
    pub method: Method,
    /// The steps of [`Method::Sequence`], two or more. Empty for other methods.
    pub sequence: Vec<Step>,
    /// The longest time from the first step to the last.
    pub within: Duration,
    /// The time that a grant lasts.
    pub open_for: Duration,
    /// Whether running connections end with the grant.
    pub cut: bool,
    /// Whether two adjacent steps may arrive in the other order.
    pub reorder: bool,
    /// The number of grants that all sources together may hold of this door at once.
    pub max_grants: u32,
}

impl Door {
    /// Makes a door with the defaults of a config.
    pub fn new(name: impl Into<String>, opens: Vec<Service>, sequence: Vec<Step>) -> Self {
        Self {
            name: name.into(),
            opens,
            method: Method::Sequence,
            sequence,
            within: Duration::from_secs(10),
            open_for: Duration::from_secs(30),
            cut: false,
            reorder: false,
            max_grants: 1 << 17,
        }
    }

    /// Returns the identifier that events carry.
    pub fn id(&self) -> DoorId {
        DoorId::of(&self.name)
    }

    /// Returns every order in which the steps open the door, the configured one first. With
    /// `reorder`, two steps sent one after the other may overtake each other once, unless a step
    /// would then come twice in a row, like a retransmission.
    pub fn orders(&self) -> Vec<Vec<Step>> {
        if self.sequence.is_empty() {
            return Vec::new();
        }
        let mut orders = vec![self.sequence.clone()];
        if self.reorder {
            for first in 1..self.sequence.len() {
                let mut order = self.sequence.clone();
                order.swap(first - 1, first);
                if order.windows(2).all(|pair| pair[0] != pair[1]) && !orders.contains(&order) {
                    orders.push(order);
                }
            }
        }
        orders
    }
}

/// The method of knocking on a door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// With the same steps each time.
    Sequence,
    /// With steps that change, made from a key.
    Rolling {
        /// The range of steps. A key leaves out the ports that the host serves when it is made.
        ports: RangeInclusive<u16>,
        /// The number of steps.
        steps: u8,
        /// Whether steps are TCP or UDP at random, instead of all UDP.
        mixed: bool,
    },
    /// With one packet, made with a key.
    Sealed {
        /// The UDP port that takes the packet.
        port: u16,
        /// The addresses that it may open for.
        addresses: Addresses,
    },
}

impl Method {
    /// The default port of sealed knocks.
    pub const SEALED_PORT: u16 = 62_201;
    /// The default range of rolling steps, below the ports that Linux sends from.
    pub const ROLLING_PORTS: RangeInclusive<u16> = 20_000..=32_767;

    /// Returns the name that a config uses.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Sequence => "sequence",
            Self::Rolling { .. } => "rolling",
            Self::Sealed { .. } => "sealed",
        }
    }
}

/// A protocol and port that a door opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port as the outside sees it, before any destination NAT.
    pub port: u16,
}

/// The right of one source to reach one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Grant {
    /// The address that it is for.
    pub source: IpAddr,
    /// The service that it opens.
    pub service: Service,
}

/// Whether the guard drops what has no grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The guard counts what it would have dropped.
    #[default]
    Observe,
    /// The guard drops it.
    Enforce,
}

/// How the guard recognizes packets of running connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connections {
    /// By connection tracking where the host already uses it, else stateless.
    #[default]
    Auto,
    /// By TCP flags alone. Every UDP packet needs a grant.
    Stateless,
    /// By connection tracking.
    Conntrack,
}

/// How the detector is attached to interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// In the driver, or in the network stack if the driver refuses.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the network stack.
    Generic,
}

/// The treatment of packets that matched a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Knocks {
    /// They go on, so that a knock port answers as any closed port does.
    #[default]
    Pass,
    /// They are dropped.
    Drop,
}

impl Service {
    /// Makes a service from its two parts.
    pub const fn new(protocol: Protocol, port: u16) -> Self {
        Self { protocol, port }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol.name(), self.port)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        })
    }
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Stateless => "stateless",
            Self::Conntrack => "conntrack",
        })
    }
}

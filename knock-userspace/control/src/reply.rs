//! Answers of an agent. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time_text;

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// To [`Request::Status`](crate::Request::Status).
    Status(Box<Status>),
    /// To [`Request::Doors`](crate::Request::Doors).
    Doors(Vec<Door>),
    /// To [`Request::Grants`](crate::Request::Grants), and the grants that were opened or ended.
    Grants(Vec<Grant>),
    /// To any other request.
    Done(Done),
}

/// A request that is refused or has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong, and what to do.
    pub error: String,
    /// The kind of problem. It decides the HTTP status.
    #[serde(skip)]
    pub fault: Fault,
}

/// The kind of a [`Problem`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// The request cannot be fulfilled.
    #[default]
    Request,
    /// The request would lock the caller out, and does not say that this is wanted.
    LockOut,
    /// The agent or the kernel failed.
    Agent,
}

impl Problem {
    /// Creates a problem, in words.
    pub fn new(fault: Fault, error: impl ToString) -> Self {
        Self { error: error.to_string(), fault }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

impl std::error::Error for Problem {}

/// A request was fulfilled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What was done, or what else to do.
    pub message: String,
}

/// The status of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Its process.
    pub process: u32,
    /// The mode in force, which may be that of a trial.
    pub mode: Mode,
    /// Seconds until a trial of `enforce` ends by itself.
    pub trial_seconds: Option<f64>,
    /// Whether `enforce` was confirmed although the config says `observe`.
    pub confirmed: bool,
    /// How the guard recognizes packets of running connections.
    pub connections: Connections,
    /// Interfaces that the detector is attached to.
    pub interfaces: Vec<Interface>,
    /// Names and patterns in the config that no interface has.
    pub awaited: Vec<String>,
    /// Number of doors.
    pub doors: usize,
    /// Number of running grants.
    pub grants: usize,
    /// Packets to guarded services without a grant.
    pub refused_packets: u64,
    /// How often the table was restored after another tool had changed it.
    pub restored: u64,
    /// Completed knocks that were not granted because they had waited too long for an agent.
    pub late: u64,
    /// Whether maps and links outlive the agent.
    pub pinned: bool,
    /// Number of device keys.
    pub keys: usize,
    /// How knocks with keys ended, by name, without those that are zero.
    pub key_knocks: BTreeMap<String, u64>,
    /// How packets ended, by name, without those that are zero.
    pub packets: BTreeMap<String, u64>,
}

/// Whether the guard drops packets that have no grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It counts them.
    Observe,
    /// It drops them.
    Enforce,
}

impl From<knock_policy::Mode> for Mode {
    fn from(mode: knock_policy::Mode) -> Self {
        match mode {
            knock_policy::Mode::Observe => Self::Observe,
            knock_policy::Mode::Enforce => Self::Enforce,
        }
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

/// How the guard recognizes packets of running connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Connections {
    /// By TCP flags alone.
    Stateless,
    /// By connection tracking.
    Conntrack,
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stateless => "stateless",
            Self::Conntrack => "conntrack",
        })
    }
}

/// An interface that the detector is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// How the detector is attached.
    pub mode: AttachedMode,
}

/// How the detector is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the network stack.
    Generic,
}

impl fmt::Display for AttachedMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// A door.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// Its name.
    pub name: String,
    /// The services that it opens, as in `tcp/22`.
    pub opens: Vec<String>,
    /// How long it stays open.
    #[serde(with = "time_text")]
    pub open_for: Duration,
    /// How many of its grants are running.
    pub grants: usize,
}

/// A running grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// The source that holds it.
    pub source: IpAddr,
    /// The service that it opens, as in `tcp/22`.
    pub service: String,
    /// The door that gave it, as far as that is known and still exists.
    pub door: Option<String>,
    /// Seconds until it ends.
    pub seconds: f64,
}

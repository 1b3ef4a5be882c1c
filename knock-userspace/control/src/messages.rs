//! Requests and answers, as JSON. Pure.

use std::net::IpAddr;

use knock_policy::lockout::Session;
use serde::{Deserialize, Serialize};

/// What can be asked of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// How it is.
    Status,
    /// Which doors there are.
    Doors,
    /// Which grants are running.
    Grants,
    /// Open a door for an address as if it had knocked.
    Open(Open),
    /// End grants.
    Revoke(Revoke),
    /// Read the config again.
    Reload(Caller),
    /// Enforce for a while.
    Try(Try),
    /// Keep what is being tried.
    Confirm(Caller),
    /// Remove everything, and end.
    Off,
}

/// A door to be opened by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// Name of the door.
    pub door: String,
    /// For whom.
    pub address: IpAddr,
    /// For how long, as in `10m`; the door's `open_for` if nothing is said.
    #[serde(default, rename = "for")]
    pub lasts: Option<String>,
}

/// Grants to be ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// Whose; everybody's if nothing is said.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Of which door; of all if nothing is said.
    #[serde(default)]
    pub door: Option<String>,
}

/// Who asks for something that may lock him out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caller {
    /// The SSH session from which he asks, if there is one.
    #[serde(default)]
    pub session: Option<Session>,
    /// Do it even so.
    #[serde(default)]
    pub force: bool,
}

/// A trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Try {
    /// For how long, as in `2m`.
    #[serde(rename = "for")]
    pub lasts: String,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Doors`].
    Doors(Vec<Door>),
    /// To [`Request::Grants`], and those that were opened or ended.
    Grants(Vec<Grant>),
    /// It is done, and this is what there is to say.
    Done(Done),
}

/// Why the agent does not do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong, and what to do.
    pub error: String,
    /// Whose fault it is.
    #[serde(skip)]
    pub fault: Fault,
}

/// Why something is not done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be done.
    #[default]
    Request,
    /// It would lock the caller out, and he did not say that this is what he wants.
    LockOut,
    /// The agent or the kernel failed.
    Agent,
}

impl Problem {
    /// A problem, in words.
    pub fn new(fault: Fault, error: impl ToString) -> Self {
        Self { error: error.to_string(), fault }
    }
}

/// One sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What was done, or what else to do.
    pub message: String,
}

/// How the agent is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Its process.
    pub process: u32,
    /// `observe` or `enforce`, as it is at the moment.
    pub mode: String,
    /// Seconds until a trial of `enforce` ends by itself.
    pub trial_seconds: Option<f64>,
    /// Whether `enforce` was confirmed although the config says `observe`.
    pub confirmed: bool,
    /// How connections are told apart.
    pub connections: String,
    /// Where packets are looked at.
    pub interfaces: Vec<Interface>,
    /// Names and patterns in the config that no interface has.
    pub awaited: Vec<String>,
    /// Doors.
    pub doors: usize,
    /// Grants that are running.
    pub grants: usize,
    /// Packets to guarded services without a grant.
    pub refused_packets: u64,
    /// How often the table was restored after another tool had changed it.
    pub restored: u64,
    /// Completed knocks that came to nothing because they had waited for an agent too long.
    pub late: u64,
    /// Whether maps and links outlive the agent.
    pub pinned: bool,
    /// Keys of devices.
    pub keys: usize,
    /// How knocks with keys ended, by name; those that are zero are left out.
    pub key_knocks: std::collections::BTreeMap<String, u64>,
    /// How packets ended, by name; those that are zero are left out.
    pub packets: std::collections::BTreeMap<String, u64>,
}

/// An interface that is being watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// `native` or `generic`.
    pub mode: String,
}

/// A door.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// Its name.
    pub name: String,
    /// What it opens.
    pub opens: Vec<String>,
    /// How long it stays open.
    pub open_for: String,
    /// How many grants of it are running.
    pub grants: usize,
}

/// A running grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// Whose.
    pub source: IpAddr,
    /// To what.
    pub service: String,
    /// Which door gave it, as far as it still exists.
    pub door: Option<String>,
    /// How much longer.
    pub seconds: f64,
}

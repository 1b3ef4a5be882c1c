//! The layout that the XDP program and the agent share.
//!
//! Every type that crosses the line between kernel and agent is here, and so are the types that
//! the agent keeps in pinned maps of its own. So are the names of maps, variables and programs.
//! The types are plain records. What they mean is decided in the modules that use them, and those
//! offer the types again: [`crate::sequence`] for the trie, [`crate::source`], [`crate::event`],
//! [`crate::sealed`], [`crate::counters`], [`crate::first`] and [`crate::traffic`].
//!
//! Nothing here depends on another module of this crate.
//!
//! `abi.txt` in this crate's folder lists all of it, with sizes and offsets. A test compares it
//! with the code. If something changes that is pinned, the test demands a higher [`LAYOUT`].

mod counters;
mod events;
mod gates;
pub mod maps;
#[cfg(feature = "aya")]
mod pod;
pub mod programs;
mod progress;
mod record;
mod traffic;
mod trie;
pub mod variables;

#[cfg(test)]
mod tests;

pub use self::counters::{COUNTERS, Counters};
pub use self::events::{Event, SEALED_SIZE, SealedEvent};
pub use self::gates::{Clock, Gate, SipKey};
pub use self::progress::{ACTIVITY, Bucket, SLOTS, Source, TRACKS, WRITTEN};
pub use self::record::{GrantKey, GrantValue, State};
pub use self::traffic::{Pattern, STEPS};
pub use self::trie::{DoorId, Edge, NodeId, PORTS, Protocol, Transition};

/// Version of everything that is pinned.
///
/// Raise it when the key, the value or the meaning of a map changes that outlives the agent. A
/// newer agent then starts with maps of its own, and does not misread the old ones.
pub const LAYOUT: u32 = 2;

//! The values and the key of `STATE` and `GRANTS`: the agent's record, which no program reads.

use super::{NodeId, Source};

/// The agent's state, one for the host. All zero if it was never written.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Key of [`Source::hash`], which places first steps.
    pub hash_key: [u64; 2],
    /// Chooses the decoys.
    pub decoy_seed: [u8; 32],
    /// Inode of the network namespace in which the agent runs.
    pub netns: u64,
    /// Identifier of the next new node of the trie.
    pub next_node: u32,
    /// Not 0 if `enforce` was tried and confirmed, whatever the config says.
    pub confirmed: u32,
}

impl State {
    /// Returns whether the state was never written.
    pub const fn is_new(&self) -> bool {
        self.netns == 0
    }

    /// Returns the node from which the trie goes on to allocate.
    pub const fn next_node(&self) -> NodeId {
        if self.next_node < NodeId::DEEPER.0 { NodeId::DEEPER } else { NodeId(self.next_node) }
    }
}

/// Key of `GRANTS`: a source and a service.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantKey {
    /// The source that was granted access.
    pub source: Source,
    /// Destination port, host byte order.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Always zero.
    pub reserved: [u8; 5],
}

/// Value of `GRANTS`: the end of a grant and the door that gave it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantValue {
    /// When the grant ends, in nanoseconds of `CLOCK_BOOTTIME`.
    pub until_ns: u64,
    /// The [`super::DoorId`] of the door.
    pub door: u64,
}

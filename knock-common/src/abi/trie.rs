//! The key and the value of `TRIE`, and the size of the port classes.

/// Transport protocol of a step or a service, with its IANA number.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp = 6,
    /// User Datagram Protocol.
    Udp = 17,
}

/// A state of the trie: how far a sequence has been followed. 24 bits.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The node of a source that has sent no step yet.
    pub const ROOT: Self = Self(0);
    /// The first identifier below the first level, where the compiler may allocate.
    pub const DEEPER: Self = Self(1 + (2 << 16));
    /// The largest identifier that a track can hold.
    pub const MAX: Self = Self((1 << 24) - 1);
}

/// Names a door to the detector. It is a hash of the door's name, so an event still means the
/// same door after the agent was restarted or its config changed.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DoorId(pub u64);

/// Key of the trie map: 8 bytes, no padding.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Edge {
    /// The node of the track.
    pub node: u32,
    /// Destination port of the packet, host byte order.
    pub port: u16,
    /// IANA protocol number of the packet.
    pub protocol: u8,
    /// Always zero.
    pub reserved: u8,
}

/// Value of the trie map: 16 bytes, no padding. `sequence.rs` writes and reads the fields.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transition {
    /// The next node; [`NodeId::ROOT`] if the sequence is complete; the edge's own node if the
    /// step is a retransmission.
    pub(crate) next: u32,
    /// Longest age of the track in ticks.
    pub(crate) within: u32,
    /// The [`DoorId`] of a complete sequence, else 0.
    pub(crate) door: u64,
}

/// Number of ports. The port classes have one byte for each: the low half is the class for TCP,
/// the high half for UDP.
pub const PORTS: usize = 1 << 16;

//! The compiled doors: steps, nodes and the transitions between them.
//!
//! All sequences form one trie. Its root and first level are not stored. The class of a port says
//! whether a sequence begins there, and the node behind is [`NodeId::first`] of the step itself. A
//! flood of first steps therefore costs no look-up here. Deeper edges live in one hash map from
//! [`Edge`] to [`Transition`].

pub use crate::abi::{DoorId, Edge, NodeId, PORTS, Protocol, Transition};

impl Protocol {
    /// Both protocols.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// Returns the IANA protocol number, as in the IP header.
    #[inline(always)]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns the name as written in a config: `tcp` or `udp`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Protocol and destination port of one knock packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Step {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Destination port, host byte order, never 0 in a policy.
    pub port: u16,
}

impl Step {
    /// Returns a step.
    #[inline(always)]
    pub const fn new(protocol: Protocol, port: u16) -> Self {
        Self { protocol, port }
    }

    /// Returns 17 bits that name the step: the protocol above the port.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        let protocol = match self.protocol {
            Protocol::Tcp => 0,
            Protocol::Udp => 1 << 16,
        };
        protocol | self.port as u32
    }

    /// Returns the step with this index. Bits above the seventeenth are ignored.
    #[inline(always)]
    pub const fn from_index(index: u32) -> Self {
        let protocol = if index & (1 << 16) == 0 { Protocol::Tcp } else { Protocol::Udp };
        Self::new(protocol, index as u16)
    }
}

impl core::fmt::Display for Step {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}", self.protocol.name(), self.port)
    }
}

impl NodeId {
    /// Returns the node that a first step leads to.
    #[inline(always)]
    pub const fn first(step: Step) -> Self {
        Self(1 + step.index())
    }
}

impl DoorId {
    /// No door.
    const NONE: Self = Self(0);

    /// Returns the identifier of the door called `name` (FNV-1a, 64 bits). Among ten thousand doors
    /// two share one with a probability of 3e-12. A config in which they do is refused.
    pub const fn of(name: &str) -> Self {
        const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let (mut hash, bytes) = (BASIS, name.as_bytes());
        let mut at = 0;
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u64).wrapping_mul(PRIME);
            at += 1;
        }
        if hash == Self::NONE.0 { Self(BASIS) } else { Self(hash) }
    }
}

impl Edge {
    /// Returns the edge that leaves `node` by `step`.
    #[inline(always)]
    pub const fn new(node: NodeId, step: Step) -> Self {
        Self { node: node.0, port: step.port, protocol: step.protocol.number(), reserved: 0 }
    }
}

/// The effect of a transition on a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The track goes on to this node.
    Advance(NodeId),
    /// The sequence is complete, and this door is reported.
    Accept(DoorId),
    /// A retransmission of a step already taken, which changes nothing.
    Stay,
}

impl Transition {
    /// Returns the transition of a step that is not the last. `within` is in ticks, counted from
    /// the first step.
    pub const fn advance(next: NodeId, within: u32) -> Self {
        Self { next: next.0, within, door: DoorId::NONE.0 }
    }

    /// Returns the transition of the last step, which opens `door`.
    pub const fn accept(door: DoorId, within: u32) -> Self {
        Self { next: NodeId::ROOT.0, within, door: door.0 }
    }

    /// Returns the transition of a step on the path to `node` that is seen again.
    pub const fn stay(node: NodeId) -> Self {
        Self { next: node.0, within: u32::MAX, door: DoorId::NONE.0 }
    }

    /// Returns the effect on a track at `node`.
    #[inline(always)]
    pub const fn from(self, node: NodeId) -> Move {
        if self.next == node.0 {
            Move::Stay
        } else if self.next == NodeId::ROOT.0 {
            Move::Accept(DoorId(self.door))
        } else {
            Move::Advance(NodeId(self.next))
        }
    }

    /// Returns the node that the transition leads to, if it takes a track at `node` further.
    pub const fn next(self, node: NodeId) -> Option<NodeId> {
        match self.from(node) {
            Move::Advance(next) => Some(next),
            Move::Accept(_) | Move::Stay => None,
        }
    }

    /// Returns the longest age, in ticks, of a track that may take this transition.
    #[inline(always)]
    pub const fn within(self) -> u32 {
        self.within
    }
}

/// The class of a port for one protocol: what the port means to the detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortClass(u8);

impl PortClass {
    /// A port of no interest.
    pub const NONE: Self = Self(0);
    /// Some sequence begins here.
    pub const FIRST: Self = Self(1);
    /// Some sequence continues here.
    pub const LATER: Self = Self(2);
    /// Not a step. A packet here counts against the source.
    pub const DECOY: Self = Self(4);
    /// Sealed knocks come here. Such a port is nothing else.
    pub const SEALED: Self = Self(8);
    const BITS: u32 = 4;

    /// Returns the class for `protocol` in the entry of a port.
    #[inline(always)]
    pub const fn of(entry: u8, protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self(entry & 0xf),
            Protocol::Udp => Self(entry >> Self::BITS),
        }
    }

    /// Returns `entry` with this class added for `protocol`.
    pub const fn add_to(self, entry: u8, protocol: Protocol) -> u8 {
        match protocol {
            Protocol::Tcp => entry | self.0,
            Protocol::Udp => entry | (self.0 << Self::BITS),
        }
    }

    /// Returns whether this class includes all of `other`.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns whether the port is of no interest.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn map_layouts_have_no_padding() {
        assert_eq!(size_of::<Edge>(), 8);
        assert_eq!(size_of::<Transition>(), 16);
    }

    #[test]
    fn steps_print_as_they_are_configured() {
        assert_eq!(Step::new(Protocol::Udp, 8000).to_string(), "udp/8000");
    }

    proptest! {
        #[test]
        fn first_nodes_are_one_to_one_and_below_the_allocated(index in 0u32..1 << 17) {
            let step = Step::from_index(index);
            prop_assert_eq!(step.index(), index);
            let node = NodeId::first(step);
            prop_assert!(node > NodeId::ROOT && node < NodeId::DEEPER);
        }

        #[test]
        fn a_class_is_kept_for_each_protocol_apart(tcp in 0u8..16, udp in 0u8..16) {
            let entry = PortClass(udp).add_to(PortClass(tcp).add_to(0, Protocol::Tcp), Protocol::Udp);
            prop_assert_eq!(PortClass::of(entry, Protocol::Tcp), PortClass(tcp));
            prop_assert_eq!(PortClass::of(entry, Protocol::Udp), PortClass(udp));
        }
    }
}

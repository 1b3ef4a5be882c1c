//! Every packet ends in exactly one counter, so their sum is the number of packets.

use crate::abi::COUNTERS;
pub use crate::abi::Counters;
use crate::detect::Outcome;
use crate::packet::Refusal;
use crate::sealed::Fate;

/// Index of a counter: one for each way in which a packet can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// The parser refused the packet.
    Refused(Refusal),
    /// A well-formed packet to a port of no interest.
    NotAStep,
    /// A packet to a step or a decoy.
    Candidate(Outcome),
    /// A datagram to a port of sealed knocks.
    Sealed(Fate),
}

impl Counter {
    /// Number of counters.
    pub const COUNT: usize = Self::BEFORE_SEALED + Fate::ALL.len();
    const BEFORE_SEALED: usize = 1 + Refusal::ALL.len() + Outcome::ALL.len();

    /// Returns the place in the per-CPU array.
    #[inline(always)]
    pub const fn index(self) -> usize {
        match self {
            Self::NotAStep => 0,
            Self::Refused(refusal) => 1 + refusal as usize,
            Self::Candidate(outcome) => 1 + Refusal::ALL.len() + outcome as usize,
            Self::Sealed(fate) => Self::BEFORE_SEALED + fate as usize,
        }
    }

    /// Returns all counters, in the order of their index.
    pub fn all() -> impl Iterator<Item = Self> {
        core::iter::once(Self::NotAStep)
            .chain(Refusal::ALL.into_iter().map(Self::Refused))
            .chain(Outcome::ALL.into_iter().map(Self::Candidate))
            .chain(Fate::ALL.into_iter().map(Self::Sealed))
    }

    /// Returns the short name for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotAStep => "not_a_step",
            Self::Refused(refusal) => refusal.name(),
            Self::Candidate(outcome) => outcome.name(),
            Self::Sealed(fate) => fate.name(),
        }
    }
}

// The map of counters is pinned: another counter needs another `LAYOUT`.
const _: () = assert!(Counter::COUNT == COUNTERS);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn indices_are_dense_and_names_unique() {
        for (position, counter) in Counter::all().enumerate() {
            assert_eq!(counter.index(), position, "{counter:?}");
        }
        assert_eq!(Counter::all().count(), Counter::COUNT);
        let names: HashSet<_> = Counter::all().map(Counter::name).collect();
        assert_eq!(names.len(), Counter::COUNT);
    }
}

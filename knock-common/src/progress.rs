//! One track: how far a source has come in a sequence, packed into a `u64` so that a single
//! compare-and-swap changes all of it.

use crate::sequence::{DoorId, Move, NodeId, Transition};
use crate::slots::is_zero;
use crate::word::Word;

/// Time since boot in units of 2^22 ns (4.194304 ms, about a jiffy), 26 bits. It wraps after 3.2
/// days.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticks(u64);

impl Ticks {
    const BITS: u32 = 26;
    const MASK: u64 = (1 << Self::BITS) - 1;
    const SHIFT: u32 = 22;

    /// Converts a clock reading in nanoseconds.
    #[inline(always)]
    pub const fn from_ns(ns: u64) -> Self {
        Self((ns >> Self::SHIFT) & Self::MASK)
    }

    /// Converts a count of ticks.
    #[inline(always)]
    pub const fn new(ticks: u64) -> Self {
        Self(ticks & Self::MASK)
    }

    /// Returns the count of ticks.
    #[inline(always)]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// How far a clock reading may be behind that of another CPU when it is used, in ticks. A
    /// packet may wait that long between the two.
    pub(crate) const SLACK: u64 = 16;

    /// Returns the ticks from `earlier` to `self`, across a wrap. If another CPU read `earlier` a
    /// moment later, no time has passed.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u64 {
        age(self.0.wrapping_sub(earlier.0), Self::MASK)
    }

    /// Returns the time `ticks` before `self`, across a wrap.
    #[inline(always)]
    pub const fn before(self, ticks: u64) -> Self {
        Self(self.0.wrapping_sub(ticks) & Self::MASK)
    }

    /// Converts a length of time to ticks, rounded up, at most `u32::MAX`.
    pub const fn from_duration(duration: core::time::Duration) -> u32 {
        let ticks = duration.as_nanos().div_ceil(1 << Self::SHIFT);
        if ticks > u32::MAX as u128 { u32::MAX } else { ticks as u32 }
    }
}

/// Returns a difference of times modulo `mask + 1` as an age. A small step back is age 0.
#[inline(always)]
pub(crate) const fn age(difference: u64, mask: u64) -> u64 {
    let age = difference & mask;
    if age > mask - Ticks::SLACK { 0 } else { age }
}

/// How far a source has come in one sequence, and since when.
///
/// Packed: node in bits 0 to 23, strays in 24 to 27, tag in 28 to 37, start in 38 to 63. A word
/// whose node is the root is the empty track.
///
/// The kernel may hand an entry of an LRU map to another source while a CPU still holds a pointer
/// to it. The tag shows that CPU that the word is not about its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Track {
    /// The node of the trie.
    pub node: NodeId,
    /// Decoys hit on the way, 0 to 15.
    pub strays: u8,
    /// 10 bits of the source's hash.
    pub tag: u16,
    /// When the first step came.
    pub started: Ticks,
}

/// The effect of a step on a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// The track is replaced by this one.
    To(Track),
    /// The sequence is complete. This door is reported, and the track ends.
    Accept(DoorId),
    /// A retransmission, which changes nothing.
    Stay,
    /// The right step, but too long after the first. The track ends.
    Late,
}

impl Track {
    /// The most strays that a track can count.
    pub const MAX_STRAYS: u8 = 15;
    const MAX_TAG: u16 = (1 << 10) - 1;
    /// The word of an empty slot.
    pub const EMPTY: u64 = 0;

    /// Packs the track into the word that the progress map holds.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.node.0 & NodeId::MAX.0) as u64
            | ((self.strays & Self::MAX_STRAYS) as u64) << 24
            | ((self.tag & Self::MAX_TAG) as u64) << 28
            | self.started.get() << 38
    }

    /// Unpacks the word that the progress map holds. Returns `None` if it is empty.
    #[inline(always)]
    pub const fn unpack(word: u64) -> Option<Self> {
        let node = NodeId(word as u32 & NodeId::MAX.0);
        if node.0 == NodeId::ROOT.0 {
            return None;
        }
        Some(Self {
            node,
            strays: (word >> 24) as u8 & Self::MAX_STRAYS,
            tag: (word >> 28) as u16 & Self::MAX_TAG,
            started: Ticks::new(word >> 38),
        })
    }

    /// Returns the tag of a source with this hash.
    #[inline(always)]
    pub const fn tag_of(hash: u64) -> u16 {
        (hash >> 22) as u16 & Self::MAX_TAG
    }

    /// Returns the eviction priority of `word` for this track at `now`, never 0. The same track has
    /// the highest, then an empty word or one of another source, then the oldest.
    #[inline(always)]
    pub(crate) fn eviction_priority<W: Word>(self, word: u64, now: Ticks) -> u64 {
        const NODE: u64 = NodeId::MAX.0 as u64;
        const TAG: u64 = (Track::MAX_TAG as u64) << 28;
        let difference = self.pack() ^ word;
        let same = is_zero::<W>(difference & (NODE | TAG));
        let mine = is_zero::<W>(difference & TAG) & !is_zero::<W>(word & NODE);
        let age = now.get().wrapping_add(Ticks::SLACK).wrapping_sub(word >> 38);
        1 << 29 | same << 28 | (mine ^ 1) << 27 | (age & Ticks::MASK)
    }

    /// Takes `transition`, which was found for this track's node and the packet's step.
    #[inline(always)]
    pub const fn advance(self, transition: Transition, now: Ticks) -> Advance {
        let step = transition.from(self.node);
        if matches!(step, Move::Stay) {
            return Advance::Stay;
        }
        if now.since(self.started) > transition.within() as u64 {
            return Advance::Late;
        }
        match step {
            Move::Advance(node) => Advance::To(Self { node, ..self }),
            Move::Accept(door) => Advance::Accept(door),
            Move::Stay => Advance::Stay,
        }
    }

    /// Returns the track after one more stray, or `None` if that is one too many: more than
    /// `limit`, or more than the word can count.
    #[inline(always)]
    pub const fn stray(self, limit: u8) -> Option<Self> {
        if self.strays >= limit || self.strays >= Self::MAX_STRAYS {
            return None;
        }
        Some(Self { strays: self.strays + 1, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::HostWord;
    use proptest::prelude::*;
    use std::time::Duration;

    const NODE: NodeId = NodeId(200_000);

    fn track(started: Ticks) -> Track {
        Track { node: NODE, strays: 0, tag: 0x155, started }
    }

    #[test]
    fn within_bounds_the_whole_sequence_to_the_tick() {
        let within = Ticks::from_duration(Duration::from_secs(10));
        let transition = Transition::accept(DoorId(7), within);
        let started = Ticks::new(1000);
        let at = |age: u64| track(started).advance(transition, Ticks::new(1000 + age));
        assert_eq!(at(within as u64), Advance::Accept(DoorId(7)));
        assert_eq!(at(within as u64 + 1), Advance::Late);
    }

    #[test]
    fn the_clock_may_wrap_during_a_knock() {
        let transition = Transition::accept(DoorId(7), 100);
        let started = Ticks::new(0).before(50);
        assert_eq!(track(started).advance(transition, Ticks::new(49)), Advance::Accept(DoorId(7)));
        assert_eq!(track(started).advance(transition, Ticks::new(51)), Advance::Late);
    }

    #[test]
    fn a_clock_behind_that_of_another_cpu_makes_no_track_late() {
        let (earlier, later) = (Ticks::new(1000), Ticks::new(1001));
        assert_eq!(earlier.since(later), 0);
        let transition = Transition::accept(DoorId(7), 100);
        assert_eq!(track(later).advance(transition, earlier), Advance::Accept(DoorId(7)));
    }

    #[test]
    fn a_retransmission_is_never_late() {
        let transition = Transition::stay(NODE);
        let now = Ticks::new(u64::MAX);
        assert_eq!(track(Ticks::new(0)).advance(transition, now), Advance::Stay);
    }

    #[test]
    fn one_stray_too_many_ends_a_track() {
        let clean = track(Ticks::new(1));
        let once = clean.stray(2).unwrap();
        let twice = once.stray(2).unwrap();
        assert_eq!(twice.strays, 2);
        assert_eq!(twice.stray(2), None);
        assert_eq!(clean.stray(0), None);
        let full = Track { strays: Track::MAX_STRAYS, ..clean };
        assert_eq!(full.stray(u8::MAX), None, "the count must not wrap to a clean track");
    }

    #[test]
    fn the_same_track_gives_way_first_then_a_strangers_then_the_oldest() {
        let (now, new) = (Ticks::new(1000), track(Ticks::new(990)));
        let other = Track { node: NodeId(NODE.0 + 1), ..new };
        let older = Track { started: Ticks::new(500), ..other };
        let stranger = Track { tag: 1, ..new };
        let priority = |word| new.eviction_priority::<HostWord>(word, now);
        let order =
            [other, older, stranger, track(Ticks::new(700))].map(|one| priority(one.pack()));
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
        assert_eq!(
            priority(Track::EMPTY) >> 27,
            priority(stranger.pack()) >> 27,
            "as good as a stranger's"
        );
    }

    proptest! {
        #[test]
        fn packing_loses_nothing(
            node in 1..=NodeId::MAX.0,
            strays in 0..=Track::MAX_STRAYS,
            hash: u64,
            ticks: u64,
        ) {
            let (tag, started) = (Track::tag_of(hash), Ticks::new(ticks));
            let track = Track { node: NodeId(node), strays, tag, started };
            prop_assert_eq!(Track::unpack(track.pack()), Some(track));
        }

        #[test]
        fn every_word_unpacks_to_what_packs_back(word: u64) {
            match Track::unpack(word) {
                Some(track) => prop_assert_eq!(track.pack(), word),
                None => prop_assert_eq!(word as u32 & NodeId::MAX.0, 0),
            }
        }

        #[test]
        fn ticks_count_forward(start: u64, age in 0u64..(1 << 26) - 16) {
            let started = Ticks::new(start);
            prop_assert_eq!(Ticks::new(start.wrapping_add(age)).since(started), age);
        }
    }
}

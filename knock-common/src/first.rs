//! First steps, kept apart from later progress.
//!
//! A stranger can flood first steps from spoofed addresses. They go into a fixed table of buckets,
//! so that a flood neither pays for an insertion into a hash map nor evicts a source that is
//! further along. A bucket is one cache line. Its oldest slot gives way.

use crate::abi::WRITTEN;
pub use crate::abi::{Bucket, SLOTS};
use crate::progress::{self, Ticks, Track};
use crate::sequence::{NodeId, Step};
use crate::slots::{is_zero, replace};
use crate::word::Word;

impl<W: Word> Bucket<W> {
    /// Notes that a source of this bucket comes further than its first step. It is called before
    /// the source gets its track, so that a CPU that finds no note would find no track either.
    #[inline(always)]
    pub fn mark_later(&self, now: Ticks) {
        self.later.set(WRITTEN | now.get());
    }

    /// Returns whether a source of this bucket may have a track that began at most `longest` ticks
    /// ago. If not, the map of tracks need not be searched. That saves a look-up for nearly all
    /// strangers.
    #[inline(always)]
    pub fn may_have_later(&self, now: Ticks, longest: u32) -> bool {
        let noted = self.later.load();
        noted != 0 && now.since(Ticks::new(noted)) <= longest as u64
    }

    /// Writes `new` over the same step of the same source, else into an empty slot, else over the
    /// oldest. Returns false if other CPUs kept changing the slot.
    #[inline(always)]
    pub fn put(&self, new: FirstStep) -> bool {
        replace(&self.slots, new.pack(), |word| new.eviction_priority::<W>(word))
    }
}

/// The first step of one source.
///
/// Packed: fingerprint in bits 0 to 20, [`Step::index`] in 21 to 37, strays in 38 to 41, the low 22
/// bits of the start in 42 to 63 (wraps after 4.9 hours). A slot whose port is 0 is empty, because
/// port 0 is never a step.
///
/// Two sources of one bucket share a fingerprint once in two million. One is then credited with the
/// first step of the other, and still needs every later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstStep {
    /// 21 bits of the source's hash, none of which choose the bucket.
    pub fingerprint: u32,
    /// The step.
    pub step: Step,
    /// Decoys hit since, 0 to 15.
    pub strays: u8,
    /// When it came.
    pub started: Ticks,
}

impl FirstStep {
    /// The word of an empty slot.
    pub const EMPTY: u64 = 0;
    const FINGERPRINT: u64 = (1 << 21) - 1;
    const TIME: u64 = (1 << 22) - 1;

    /// Returns the bucket, of `buckets` (a power of two), and the fingerprint that a hash stands
    /// for.
    #[inline(always)]
    pub const fn place(hash: u64, buckets: u32) -> (u32, u32) {
        let bucket = (hash >> 32) as u32 & (buckets - 1);
        (bucket, (hash & Self::FINGERPRINT) as u32)
    }

    /// Packs the step into the word that the table holds.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.fingerprint as u64 & Self::FINGERPRINT)
            | (self.step.index() as u64) << 21
            | ((self.strays & Track::MAX_STRAYS) as u64) << 38
            | (self.started.get() & Self::TIME) << 42
    }

    /// Unpacks the word that the table holds. Returns `None` if it is empty. The start is completed
    /// from `now`, so a step that is older than a wrap looks younger than it is.
    #[inline(always)]
    pub const fn unpack(word: u64, now: Ticks) -> Option<Self> {
        let step = Step::from_index((word >> 21) as u32);
        if step.port == 0 {
            return None;
        }
        Some(Self {
            fingerprint: (word & Self::FINGERPRINT) as u32,
            step,
            strays: (word >> 38) as u8 & Track::MAX_STRAYS,
            started: now.before(Self::age(word, now)),
        })
    }

    /// Returns the ticks since the step in `word` came. The number means nothing if the word is
    /// empty.
    #[inline(always)]
    pub const fn age(word: u64, now: Ticks) -> u64 {
        progress::age(now.get().wrapping_sub(word >> 42), Self::TIME)
    }

    /// Returns whether `word` holds a first step of the source with this fingerprint.
    #[inline(always)]
    pub const fn is_of(word: u64, fingerprint: u32) -> bool {
        word & Self::FINGERPRINT == fingerprint as u64 && (word >> 21) as u16 != 0
    }

    /// Returns the eviction priority of `word` for this first step, never 0. The same step of the
    /// same source has the highest, then an empty slot, then the oldest.
    #[inline(always)]
    fn eviction_priority<W: Word>(self, word: u64) -> u64 {
        const WHO_AND_WHAT: u64 = (1 << 38) - 1;
        let same = is_zero::<W>((self.pack() ^ word) & WHO_AND_WHAT);
        let empty = is_zero::<W>(word);
        // A word from a moment later, by the clock of another CPU, is young and not old.
        let age = self.started.get().wrapping_add(Ticks::SLACK).wrapping_sub(word >> 42);
        1 << 24 | same << 23 | empty << 22 | (age & Self::TIME)
    }

    /// Returns whether `word` is empty.
    #[inline(always)]
    pub const fn is_empty(word: u64) -> bool {
        (word >> 21) as u16 == 0
    }

    /// Returns the first step of a track that is still on the first level. It is the inverse of
    /// [`FirstStep::track`].
    #[inline(always)]
    pub const fn from_track(fingerprint: u32, track: Track) -> Self {
        Self {
            fingerprint,
            step: Step::from_index(track.node.0 - 1),
            strays: track.strays,
            started: track.started,
        }
    }

    /// Returns the same step as a track, which can take a second step.
    #[inline(always)]
    pub const fn track(self, tag: u16) -> Track {
        Track { node: NodeId::first(self.step), strays: self.strays, tag, started: self.started }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::Protocol;
    use crate::simulate::HostWord;
    use proptest::prelude::*;

    fn first_step(fingerprint: u32, index: u32, strays: u8, started: Ticks) -> FirstStep {
        let step = Step::from_index(index);
        FirstStep { fingerprint, step, strays, started }
    }

    #[test]
    fn the_empty_word_belongs_to_no_source() {
        assert!(FirstStep::is_empty(FirstStep::EMPTY));
        assert!(!FirstStep::is_of(FirstStep::EMPTY, 0));
        assert_eq!(FirstStep::unpack(FirstStep::EMPTY, Ticks::new(5)), None);
    }

    #[test]
    fn protocols_do_not_mix() {
        let tcp = FirstStep {
            fingerprint: 9,
            step: Step::new(Protocol::Tcp, 7000),
            strays: 0,
            started: Ticks::new(0),
        };
        let udp = FirstStep { step: Step::new(Protocol::Udp, 7000), ..tcp };
        assert_ne!(
            tcp.eviction_priority::<HostWord>(udp.pack()),
            tcp.eviction_priority::<HostWord>(tcp.pack())
        );
        assert_ne!(tcp.track(0).node, udp.track(0).node);
    }

    #[test]
    fn a_full_bucket_gives_up_its_oldest_and_replaces_what_comes_again() {
        let bucket = Bucket::<HostWord>::default();
        let step = |who: u32, at: u64| first_step(who, 7000, 0, Ticks::new(at));
        // The third is the oldest.
        for (who, at) in [(1, 40), (2, 30), (3, 10), (4, 20), (5, 50), (6, 60), (7, 70)] {
            assert!(bucket.put(step(who, at)));
        }
        let held = || bucket.slots.each_ref().map(|slot| slot.load() as u32 & 0xff);
        assert_eq!(held(), [7, 6, 5, 4, 3, 2, 1], "an empty slot each, the last one first");
        assert!(bucket.put(step(6, 80)), "again");
        assert_eq!(held(), [7, 6, 5, 4, 3, 2, 1]);
        assert!(bucket.put(step(8, 90)));
        assert_eq!(held(), [7, 6, 5, 4, 8, 2, 1], "instead of the oldest");
    }

    proptest! {
        #[test]
        fn packing_loses_nothing_for_five_hours(
            fingerprint in 0u32..1 << 21,
            index in 0u32..1 << 17,
            strays in 0..=Track::MAX_STRAYS,
            started: u64,
            age in 0u64..(1 << 22) - 16,
        ) {
            prop_assume!(index as u16 != 0);
            let started = Ticks::new(started);
            let now = Ticks::new(started.get().wrapping_add(age));
            let written = first_step(fingerprint, index, strays, started);
            let read = FirstStep::unpack(written.pack(), now).unwrap();
            prop_assert_eq!(read.fingerprint, fingerprint);
            prop_assert_eq!(read.step, written.step);
            prop_assert_eq!(read.strays, strays);
            prop_assert_eq!(read.started, started);
            prop_assert!(FirstStep::is_of(written.pack(), fingerprint));
            let again = first_step(fingerprint, index, 3, now);
            let priority = |word| again.eviction_priority::<HostWord>(word);
            prop_assert!(priority(written.pack()) > priority(FirstStep::EMPTY));
        }

        #[test]
        fn a_place_is_inside_the_table(hash: u64, exponent in 0u32..24) {
            let (bucket, fingerprint) = FirstStep::place(hash, 1 << exponent);
            prop_assert!(bucket < 1 << exponent);
            prop_assert!(fingerprint < 1 << 21);
        }
    }
}

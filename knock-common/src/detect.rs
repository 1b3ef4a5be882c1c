//! The detector's decision about one candidate packet: how it changes the progress of its source.
//!
//! A source has at most [`TRACKS`] tracks past their first step, and a few slots in the table of
//! first steps. Each of them that expects the packet's step takes it, so users behind one address
//! may interleave their knocks, and doors may share ports. A step that none of them expects, and
//! that begins no sequence, is a wrong step. It ends all progress of its source.
//!
//! Several CPUs may work for one source at once. Each word is changed by compare-and-swap alone,
//! and a CPU that loses the race looks again.

use core::cell::Cell;

use crate::abi::WRITTEN;
pub use crate::abi::{ACTIVITY, TRACKS};
use crate::event::Event;
use crate::first::{Bucket, FirstStep};
use crate::progress::{Advance, Ticks, Track};
use crate::sequence::{Edge, PortClass, Step, Transition};
use crate::slots::{ATTEMPTS, replace};
use crate::source::Source;
use crate::word::Word;

/// The word of an empty slot, for a track and for a first step.
const EMPTY: u64 = Track::EMPTY;
const _: () = assert!(EMPTY == FirstStep::EMPTY);

/// Outcome of the attempt to report a completed sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The event is on its way to the agent.
    Sent,
    /// There was no room, so nothing was claimed.
    Full,
    /// The claim failed, so nothing was sent.
    Unclaimed,
}

/// Outcome of the attempt to create an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    /// The entry was created.
    Done,
    /// Another CPU created it first.
    Exists,
    /// The map refused the entry.
    Failed,
}

/// Access to the maps.
pub trait Store {
    /// A shared word of these maps.
    type Word: Word;
    /// Returns the transition of `edge`, if the trie has one.
    fn transition(&self, edge: &Edge) -> Option<Transition>;
    /// Returns the tracks of `source`, if it has an entry.
    fn tracks(&self, source: &Source) -> Option<&[Self::Word; TRACKS]>;
    /// Creates the entry of `source`.
    fn insert(&self, source: &Source, tracks: &[u64; TRACKS]) -> Insert;
    /// Returns the word, one of [`ACTIVITY`], that says when a source of this hash last began.
    fn activity(&self, hash: u64) -> Option<&Self::Word>;
    /// Returns a bucket of first steps.
    fn bucket(&self, index: u32) -> Option<&Bucket<Self::Word>>;
    /// Returns the time for an event, in nanoseconds of `CLOCK_MONOTONIC`. `now_ns` is when the
    /// packet came, by the detector's own clock.
    fn monotonic_ns(&self, now_ns: u64) -> u64;
    /// Reserves room for `event`, then calls `claim`, and sends the event if that returns true.
    fn report(&self, event: &Event, claim: impl FnOnce() -> bool) -> Report;
}

/// Bounds of progress, constant while a program is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Decoys that a source with progress may hit.
    pub strays: u8,
    /// The longest `within` of any door, in ticks. Older words are dead.
    pub longest: u32,
    /// Buckets in the table of first steps, a power of two.
    pub buckets: u32,
    /// Key of [`Source::hash`].
    pub key: [u64; 2],
}

/// The result for one candidate. If several apply, the greatest counts.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// A decoy, hit by a source without progress.
    Ignored,
    /// A later step, from a source without progress.
    Unexpected,
    /// A decoy, counted against the progress of its source.
    Stray,
    /// One decoy too many: progress ended.
    Forgotten,
    /// A step out of order: progress ended.
    Wrong,
    /// The right step, but the sequence began too long ago.
    Late,
    /// A retransmission.
    Stayed,
    /// A sequence began.
    First,
    /// A sequence went on.
    Advanced,
    /// A sequence was completed and reported.
    Completed,
    /// Completed, but the ring buffer was full; the last step may be tried again.
    EventLost,
    /// The progress map refused an entry; the step may be tried again.
    InsertFailed,
    /// Other CPUs kept changing the same word.
    Contended,
}

impl Outcome {
    /// All outcomes, in the order of their discriminants.
    pub const ALL: [Self; 13] = [
        Self::Ignored,
        Self::Unexpected,
        Self::Stray,
        Self::Forgotten,
        Self::Wrong,
        Self::Late,
        Self::Stayed,
        Self::First,
        Self::Advanced,
        Self::Completed,
        Self::EventLost,
        Self::InsertFailed,
        Self::Contended,
    ];

    /// Returns whether the packet matched a step, so that `knocks = "drop"` drops it.
    ///
    /// These are first steps, steps that a track expected, and retransmissions, also where the
    /// result could not be kept. Decoys and steps that are unexpected, wrong or late go on. A
    /// contended packet counts as a match, although it may be one of those.
    #[inline(always)]
    pub const fn matched(self) -> bool {
        self as u32 >= Self::Stayed as u32
    }

    #[inline(always)]
    const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Returns the greatest outcome in a mask, or `None` if the mask is empty.
    ///
    /// It looks into a table and compares nothing. A value from a table is a single unknown to the
    /// verifier, while comparisons would make a state for each outcome.
    #[inline(always)]
    fn greatest<W: Word>(mask: u32) -> Option<Self> {
        static ALL: [Outcome; 13] = Outcome::ALL;
        if mask == 0 {
            return None;
        }
        let (mut mask, mut position) = (mask as u64, 0);
        for width in [8, 4, 2, 1] {
            // All ones in bits 0 to 3 if anything is set from bit `width` upwards.
            let upper = W::opaque(0u64.wrapping_sub(mask >> width)) >> 60 & width;
            position += upper;
            mask >>= upper;
        }
        ALL.get(W::opaque(position) as usize).copied()
    }

    /// Returns the short name for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ignored => "ignored",
            Self::Unexpected => "unexpected",
            Self::Stray => "stray",
            Self::Forgotten => "forgotten",
            Self::Wrong => "wrong",
            Self::Late => "late",
            Self::Stayed => "stayed",
            Self::First => "first",
            Self::Advanced => "advanced",
            Self::Completed => "completed",
            Self::EventLost => "event_lost",
            Self::InsertFailed => "insert_failed",
            Self::Contended => "contended",
        }
    }
}

/// One candidate packet on its way through the maps.
pub struct Detection<'a, S> {
    store: &'a S,
    step: Step,
    source: Source,
    now_ns: u64,
    longest: u32,
    strays: u8,
    tag: u16,
    hash: u64,
    bucket: u32,
    fingerprint: u32,
    notes: &'a Cell<u32>,
}

/// The table to which a word belongs.
#[derive(Clone, Copy)]
enum Place {
    /// A bucket of first steps.
    First,
    /// The tracks past the first step.
    Later,
}

impl<'a, S: Store> Detection<'a, S> {
    /// Prepares the work on a packet to `step` from `source`, received at `now_ns`.
    ///
    /// `notes` collects the outcome for each word, as a mask. In the kernel it lies in a map,
    /// because the verifier assumes nothing about a map's contents. In registers or on the stack,
    /// it would follow every combination of outcomes.
    #[inline(always)]
    pub fn new(
        store: &'a S,
        limits: Limits,
        step: Step,
        source: Source,
        now_ns: u64,
        notes: &'a Cell<u32>,
    ) -> Self {
        notes.set(0);
        let Limits { strays, longest, buckets, key } = limits;
        let hash = source.hash(key);
        let (bucket, fingerprint) = FirstStep::place(hash, buckets);
        let tag = Track::tag_of(hash);
        Self { store, step, source, now_ns, longest, strays, tag, hash, bucket, fingerprint, notes }
    }

    /// Updates the progress of the source and returns the outcome. `class` is the class of the
    /// packet's step, and not [`PortClass::NONE`].
    #[inline(always)]
    pub fn run(&self, class: PortClass) -> Outcome {
        let Some(activity) = self.store.activity(self.hash) else {
            return Outcome::InsertFailed;
        };
        if class.has(PortClass::FIRST) {
            // Before the step is noted, so that a CPU that sees no activity misses no step.
            activity.set(WRITTEN | self.now().get());
        } else if !self.is_recent(activity) {
            let later = class.has(PortClass::LATER);
            return if later { Outcome::Unexpected } else { Outcome::Ignored };
        }
        let Some(bucket) = self.store.bucket(self.bucket) else {
            return Outcome::InsertFailed;
        };
        if class.has(PortClass::LATER) {
            self.each_word(bucket, |cell, place| self.take(cell, place, bucket));
        }
        if class.has(PortClass::FIRST) {
            self.begin(bucket);
        }
        if let Some(outcome) = Outcome::greatest::<S::Word>(self.notes.get()) {
            return outcome;
        }
        // Nothing expected the packet.
        if class.has(PortClass::LATER) {
            self.each_word(bucket, |cell, place| self.end(cell, place));
            return match Outcome::greatest::<S::Word>(self.notes.get()) {
                None => Outcome::Unexpected,
                Some(Outcome::Forgotten) => Outcome::Wrong,
                Some(other) => other,
            };
        }
        let limit = self.strays;
        self.each_word(bucket, |cell, place| {
            self.change(cell, place, |track| track.stray(limit));
        });
        Outcome::greatest::<S::Word>(self.notes.get()).unwrap_or(Outcome::Ignored)
    }

    /// Returns whether a source that shares this word may have begun at most `longest` ago.
    #[inline(always)]
    fn is_recent(&self, activity: &S::Word) -> bool {
        let began = activity.load();
        began != 0 && self.now().since(Ticks::new(began)) <= self.longest as u64
    }

    /// Calls `one` with every word that belongs to the source.
    #[inline(always)]
    fn each_word(&self, bucket: &Bucket<S::Word>, one: impl Fn(&S::Word, Place)) {
        if bucket.may_have_later(self.now(), self.longest)
            && let Some(tracks) = self.store.tracks(&self.source)
        {
            for word in tracks {
                if word.load() != EMPTY {
                    one(word, Place::Later);
                }
            }
        }
        for word in &bucket.slots {
            if FirstStep::is_of(word.load(), self.fingerprint) {
                one(word, Place::First);
            }
        }
    }

    #[inline(always)]
    fn note(&self, outcome: Outcome) {
        self.notes.set(self.notes.get() | outcome.bit());
    }

    #[inline(always)]
    const fn now(&self) -> Ticks {
        Ticks::from_ns(self.now_ns)
    }

    /// Returns the track in `word`, if it is alive and of this source.
    #[inline(always)]
    fn read(&self, place: Place, word: u64) -> Option<Track> {
        let track = match place {
            Place::First if FirstStep::is_of(word, self.fingerprint) => {
                FirstStep::unpack(word, self.now())?.track(self.tag)
            }
            Place::First => return None,
            Place::Later => Track::unpack(word)?,
        };
        let alive = self.now().since(track.started) <= self.longest as u64;
        (alive && track.tag == self.tag).then_some(track)
    }

    /// Returns the word for `track`, which was read from `place`.
    #[inline(always)]
    fn write(&self, place: Place, track: Track) -> u64 {
        match place {
            Place::First => FirstStep::from_track(self.fingerprint, track).pack(),
            Place::Later => track.pack(),
        }
    }

    /// Lets the track in `word` take this step, if it expects it.
    #[inline(always)]
    fn take(&self, word: &S::Word, place: Place, bucket: &Bucket<S::Word>) {
        for _ in 0..ATTEMPTS {
            let old = word.load();
            let Some(track) = self.read(place, old) else { return };
            let edge = Edge::new(track.node, self.step);
            let Some(transition) = self.store.transition(&edge) else { return };
            match track.advance(transition, self.now()) {
                Advance::Stay => return self.note(Outcome::Stayed),
                Advance::Late => {
                    if word.swap(old, EMPTY) {
                        return self.note(Outcome::Late);
                    }
                }
                Advance::To(next) => match place {
                    Place::Later => {
                        if word.swap(old, next.pack()) {
                            return self.note(Outcome::Advanced);
                        }
                    }
                    Place::First => {
                        if word.swap(old, EMPTY) {
                            bucket.mark_later(self.now());
                            return self.move_on(word, old, next);
                        }
                    }
                },
                Advance::Accept(door) => {
                    let event = Event::new(self.source, door, self.store.monotonic_ns(self.now_ns));
                    match self.store.report(&event, || word.swap(old, EMPTY)) {
                        Report::Sent => return self.note(Outcome::Completed),
                        Report::Full => return self.note(Outcome::EventLost),
                        Report::Unclaimed => {}
                    }
                }
            }
        }
        self.note(Outcome::Contended);
    }

    /// Ends the track in `word`, unless it expects this step by now. Another CPU that handles the
    /// same packet, sent twice, may have moved the track since [`Self::take`] looked.
    #[inline(always)]
    fn end(&self, word: &S::Word, place: Place) {
        for _ in 0..ATTEMPTS {
            let old = word.load();
            let Some(track) = self.read(place, old) else { return };
            if self.store.transition(&Edge::new(track.node, self.step)).is_some() {
                return self.note(Outcome::Stayed);
            }
            if word.swap(old, EMPTY) {
                return self.note(Outcome::Forgotten);
            }
        }
        self.note(Outcome::Contended);
    }

    /// Replaces the track in `word` by what `how` returns, or ends it if that is `None`.
    #[inline(always)]
    fn change(&self, word: &S::Word, place: Place, how: impl Fn(Track) -> Option<Track>) {
        for _ in 0..ATTEMPTS {
            let old = word.load();
            let Some(track) = self.read(place, old) else { return };
            let (new, outcome) = match how(track) {
                Some(track) => (self.write(place, track), Outcome::Stray),
                None => (EMPTY, Outcome::Forgotten),
            };
            if word.swap(old, new) {
                return self.note(outcome);
            }
        }
        self.note(Outcome::Contended);
    }

    /// Gives a place among the tracks to a track that left the table of first steps. If there is
    /// none, the first step goes back to where it was, so that the next try of this step works.
    #[inline(always)]
    fn move_on(&self, from: &S::Word, old: u64, track: Track) {
        match self.place(track) {
            Outcome::Advanced => self.note(Outcome::Advanced),
            outcome => {
                from.swap(EMPTY, old);
                self.note(outcome);
            }
        }
    }

    #[inline(always)]
    fn place(&self, track: Track) -> Outcome {
        let new = track.pack();
        if self.store.tracks(&self.source).is_none() {
            // If the compiler saw that these are zeros, it would call memset(), a fourth function
            // deep. That is more stack than kernels such as 6.1 allow.
            let empty = S::Word::opaque(EMPTY);
            match self.store.insert(&self.source, &[new, empty, empty, empty]) {
                Insert::Done => return Outcome::Advanced,
                Insert::Exists => {}
                Insert::Failed => return Outcome::InsertFailed,
            }
        }
        let Some(tracks) = self.store.tracks(&self.source) else {
            return Outcome::Contended;
        };
        let done =
            replace(tracks, new, |word| track.eviction_priority::<S::Word>(word, self.now()));
        if done { Outcome::Advanced } else { Outcome::Contended }
    }

    /// Notes a first step: over the same one, else in an empty slot, else over the oldest.
    #[inline(always)]
    fn begin(&self, bucket: &Bucket<S::Word>) {
        let new = FirstStep {
            fingerprint: self.fingerprint,
            step: self.step,
            strays: 0,
            started: self.now(),
        };
        let done = bucket.put(new);
        self.note(if done { Outcome::First } else { Outcome::Contended });
    }
}

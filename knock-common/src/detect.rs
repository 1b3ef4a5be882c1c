//! What one candidate packet does to the progress of its source.
//!
//! A source has up to [`TRACKS`] tracks past their first step and a few slots in the
//! table of first steps. Every one of them that expects the packet's step takes it,
//! so users behind one address may interleave their knocks, and doors may share
//! ports. A step that none of them expects, and that begins nothing, is a wrong step:
//! it ends all progress of its source.
//!
//! Several CPUs may work for one source at once. Each word changes by
//! compare-and-swap alone, and whoever loses the race looks again.

use crate::event::Event;
use crate::first::{FirstStep, SLOTS};
use crate::progress::{Advance, Ticks, Track};
use crate::sequence::{Edge, PortClass, Step, Transition};
use crate::source::Source;

/// Tracks a source can have past their first step.
pub const TRACKS: usize = 4;

/// The word of no track and of no first step.
const EMPTY: u64 = Track::EMPTY;
const _: () = assert!(EMPTY == FirstStep::EMPTY);

/// How often a CPU looks again after losing a race for one word.
const ATTEMPTS: usize = 4;

/// A word that several CPUs share.
pub trait Cell {
    /// Reads it.
    fn load(&self) -> u64;
    /// Replaces `old` by `new`; false if it did not hold `old` any more.
    fn swap(&self, old: u64, new: u64) -> bool;
}

/// How the attempt to report a completed sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The agent will see it.
    Sent,
    /// No room; nothing was claimed.
    Full,
    /// The claim failed; nothing was sent.
    Unclaimed,
}

/// How an attempt to create an entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    /// It is there now.
    Done,
    /// Another CPU was faster.
    Exists,
    /// The map refused.
    Failed,
}

/// The maps, as the detector needs them.
pub trait Store {
    /// A shared word of this store.
    type Cell: Cell;
    /// The transition of `edge`, if the trie has it.
    fn transition(&self, edge: &Edge) -> Option<Transition>;
    /// The tracks of `source`, if it has an entry.
    fn tracks(&self, source: &Source) -> Option<&[Self::Cell; TRACKS]>;
    /// Creates the entry of `source`.
    fn insert(&self, source: &Source, tracks: &[u64; TRACKS]) -> Insert;
    /// A bucket of first steps.
    fn bucket(&self, index: u32) -> Option<&[Self::Cell; SLOTS]>;
    /// Reserves room for `event`, then calls `claim`, and sends it if that is true.
    fn report(&self, event: &Event, claim: impl FnOnce() -> bool) -> Report;
}

/// What bounds progress; constant while a program is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Decoys that a source with progress may hit.
    pub strays: u8,
    /// The longest `within` of any door, in ticks; older words are dead.
    pub longest: u32,
    /// Buckets in the table of first steps, a power of two.
    pub buckets: u32,
    /// Key of [`Source::hash`].
    pub key: [u64; 2],
}

/// What became of a candidate. If several apply, the greatest is it.
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
    /// All of them, in the order of their discriminants.
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

    /// Whether the packet matched a step, so that `knocks = "drop"` drops it.
    #[inline(always)]
    pub const fn matched(self) -> bool {
        self as u32 >= Self::Stayed as u32
    }

    #[inline(always)]
    fn or(self, other: Self) -> Self {
        if other as u32 > self as u32 { other } else { self }
    }

    /// Short name for logs and metrics.
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
    limits: Limits,
    step: Step,
    source: Source,
    now_ns: u64,
    now: Ticks,
    hash: u64,
}

/// Which table a word belongs to.
#[derive(Clone, Copy)]
enum Place {
    /// A bucket of first steps.
    First,
    /// The tracks past the first step.
    Later,
}

impl<'a, S: Store> Detection<'a, S> {
    /// A packet to `step` from `source`, received at `now_ns`.
    #[inline(always)]
    pub fn new(store: &'a S, limits: Limits, step: Step, source: Source, now_ns: u64) -> Self {
        let now = Ticks::from_ns(now_ns);
        let hash = source.hash(limits.key);
        Self { store, limits, step, source, now_ns, now, hash }
    }

    /// Updates the progress of the source. `class` is that of the packet's step, and
    /// not [`PortClass::NONE`].
    #[inline(always)]
    pub fn run(&self, class: PortClass) -> Outcome {
        let (bucket, _) = FirstStep::place(self.hash, self.limits.buckets);
        let Some(bucket) = self.store.bucket(bucket) else {
            return Outcome::InsertFailed;
        };
        let mut outcome = Outcome::Unexpected;
        if class.has(PortClass::LATER) {
            outcome =
                self.over_all(bucket, Outcome::Unexpected, |cell, place| self.take(cell, place));
        }
        if class.has(PortClass::FIRST) {
            outcome = outcome.or(self.begin(bucket));
        }
        if outcome != Outcome::Unexpected {
            return outcome;
        }
        if class.has(PortClass::LATER) {
            return self.wrong(bucket);
        }
        self.stray(bucket)
    }

    /// A step that nothing expected ends all progress of its source.
    #[inline(always)]
    fn wrong(&self, bucket: &[S::Cell; SLOTS]) -> Outcome {
        let ended = self
            .over_all(bucket, Outcome::Ignored, |cell, place| self.change(cell, place, |_| None));
        match ended {
            Outcome::Ignored => Outcome::Unexpected,
            Outcome::Forgotten => Outcome::Wrong,
            other => other,
        }
    }

    /// A decoy counts against all progress of its source.
    #[inline(always)]
    fn stray(&self, bucket: &[S::Cell; SLOTS]) -> Outcome {
        let limit = self.limits.strays;
        self.over_all(bucket, Outcome::Ignored, |cell, place| {
            self.change(cell, place, |track| track.stray(limit))
        })
    }

    /// Does `one` to every word of the source and returns the greatest outcome.
    #[inline(always)]
    fn over_all(
        &self,
        bucket: &[S::Cell; SLOTS],
        none: Outcome,
        one: impl Fn(&S::Cell, Place) -> Outcome,
    ) -> Outcome {
        let mut outcome = none;
        if let Some(tracks) = self.store.tracks(&self.source) {
            for cell in tracks {
                if cell.load() != Track::EMPTY {
                    outcome = outcome.or(one(cell, Place::Later));
                }
            }
        }
        for cell in bucket {
            if FirstStep::is_of(cell.load(), self.fingerprint()) {
                outcome = outcome.or(one(cell, Place::First));
            }
        }
        outcome
    }

    #[inline(always)]
    fn fingerprint(&self) -> u32 {
        FirstStep::place(self.hash, self.limits.buckets).1
    }

    #[inline(always)]
    fn tag(&self) -> u16 {
        Track::tag_of(self.hash)
    }

    /// The track in `word`, if it is alive and of this source.
    #[inline(always)]
    fn read(&self, place: Place, word: u64) -> Option<Track> {
        let track = match place {
            Place::First if FirstStep::is_of(word, self.fingerprint()) => {
                FirstStep::unpack(word, self.now)?.track(self.tag())
            }
            Place::First => return None,
            Place::Later => Track::unpack(word)?,
        };
        let alive = self.now.since(track.started) <= self.limits.longest as u64;
        (alive && track.tag == self.tag()).then_some(track)
    }

    /// The word for `track`, which was read from `place`.
    #[inline(always)]
    fn write(&self, place: Place, track: Track) -> u64 {
        match place {
            Place::First => FirstStep::from_track(self.fingerprint(), track).pack(),
            Place::Later => track.pack(),
        }
    }

    /// Lets the track in `cell` take this step, if it expects it.
    #[inline(always)]
    fn take(&self, cell: &S::Cell, place: Place) -> Outcome {
        for _ in 0..ATTEMPTS {
            let word = cell.load();
            let Some(track) = self.read(place, word) else {
                return Outcome::Unexpected;
            };
            let edge = Edge::new(track.node, self.step);
            let Some(transition) = self.store.transition(&edge) else {
                return Outcome::Unexpected;
            };
            match track.advance(transition, self.now) {
                Advance::Stay => return Outcome::Stayed,
                Advance::Late => {
                    if cell.swap(word, EMPTY) {
                        return Outcome::Late;
                    }
                }
                Advance::To(next) => match place {
                    Place::Later => {
                        if cell.swap(word, next.pack()) {
                            return Outcome::Advanced;
                        }
                    }
                    Place::First => {
                        if cell.swap(word, EMPTY) {
                            return self.move_on(cell, word, next);
                        }
                    }
                },
                Advance::Accept(door) => {
                    let event = Event::new(self.source, door, self.now_ns);
                    match self.store.report(&event, || cell.swap(word, EMPTY)) {
                        Report::Sent => return Outcome::Completed,
                        Report::Full => return Outcome::EventLost,
                        Report::Unclaimed => {}
                    }
                }
            }
        }
        Outcome::Contended
    }

    /// Changes the track in `cell`; `how` returns `None` to end it.
    #[inline(always)]
    fn change(
        &self,
        cell: &S::Cell,
        place: Place,
        how: impl Fn(Track) -> Option<Track>,
    ) -> Outcome {
        for _ in 0..ATTEMPTS {
            let word = cell.load();
            let Some(track) = self.read(place, word) else {
                return Outcome::Ignored;
            };
            let (new, outcome) = match how(track) {
                Some(track) => (self.write(place, track), Outcome::Stray),
                None => (EMPTY, Outcome::Forgotten),
            };
            if cell.swap(word, new) {
                return outcome;
            }
        }
        Outcome::Contended
    }

    /// Gives a track that left the table of first steps a place among the tracks. If
    /// the map refuses, the first step goes back to where it was.
    #[inline(always)]
    fn move_on(&self, from: &S::Cell, word: u64, track: Track) -> Outcome {
        let new = track.pack();
        if self.store.tracks(&self.source).is_none() {
            match self.store.insert(&self.source, &[new, EMPTY, EMPTY, EMPTY]) {
                Insert::Done => return Outcome::Advanced,
                Insert::Exists => {}
                Insert::Failed => {
                    from.swap(EMPTY, word);
                    return Outcome::InsertFailed;
                }
            }
        }
        let Some(tracks) = self.store.tracks(&self.source) else {
            return Outcome::Contended;
        };
        // In place of the same track, else of a dead one, else of the oldest.
        let age = |word| match self.read(Place::Later, word) {
            Some(old) if old.node == track.node => u64::MAX,
            None => u64::MAX - 1,
            Some(old) => self.now.since(old.started),
        };
        replace_oldest(tracks, age, new, Outcome::Advanced)
    }

    /// Notes a first step: in place of the same one, else in an empty slot, else of the
    /// oldest.
    #[inline(always)]
    fn begin(&self, bucket: &[S::Cell; SLOTS]) -> Outcome {
        let new = FirstStep {
            fingerprint: self.fingerprint(),
            step: self.step,
            strays: 0,
            started: self.now,
        };
        let age = |word| {
            if new.is_same(word) {
                u64::MAX
            } else if FirstStep::is_empty(word) {
                u64::MAX - 1
            } else {
                FirstStep::age(word, self.now)
            }
        };
        replace_oldest(bucket, age, new.pack(), Outcome::First)
    }
}

/// Writes `new` over the word of the greatest `age`.
#[inline(always)]
fn replace_oldest<C: Cell, const N: usize>(
    cells: &[C; N],
    age: impl Fn(u64) -> u64,
    new: u64,
    done: Outcome,
) -> Outcome {
    for _ in 0..ATTEMPTS {
        let mut oldest = (0, cells[0].load());
        let mut oldest_age = age(oldest.1);
        for (index, cell) in cells.iter().enumerate().skip(1) {
            let word = cell.load();
            let age = age(word);
            if age > oldest_age {
                oldest = (index, word);
                oldest_age = age;
            }
        }
        // N is a power of two; the modulo shows the verifier that the index is in range.
        if cells[oldest.0 % N].swap(oldest.1, new) {
            return done;
        }
    }
    Outcome::Contended
}

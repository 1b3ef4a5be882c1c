//! Every map and every setting of the program, and how the detector reaches them.
//!
//! The sizes here are the smallest that load; the agent sets the real ones.

use core::cell::Cell;

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use knock_common::counters::{Counter, Counters};
use knock_common::detect::{Insert, Limits, Report, Store, TRACKS};
use knock_common::event::Event;
use knock_common::first::SLOTS;
use knock_common::sequence::{Edge, PORTS, PortClass, Step, Transition};
use knock_common::source::Source;

use crate::atomic::SharedWord;

/// One byte a port.
#[map]
static CLASSES: Array<[u8; PORTS]> = Array::with_max_entries(1, 0);

/// The trie below its first level.
#[map]
static TRIE: HashMap<Edge, Transition> = HashMap::with_max_entries(1, 0);

/// First steps, by hash of the source.
#[map]
static FIRST: Array<[SharedWord; SLOTS]> = Array::with_max_entries(1, 0);

/// Sources past their first step.
#[map]
static PROGRESS: LruHashMap<Source, [SharedWord; TRACKS]> = LruHashMap::with_max_entries(1, 0);

/// Completed sequences, for the agent.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// How packets ended, for each CPU.
#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// What became of the words that the current packet concerns, on each CPU.
#[map]
static NOTES: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

#[unsafe(no_mangle)]
static STRAYS: Global<u32> = Global::new(2);
#[unsafe(no_mangle)]
static LONGEST: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static BUCKETS: Global<u32> = Global::new(1);
#[unsafe(no_mangle)]
static HASH_KEY_0: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static HASH_KEY_1: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static DROP_KNOCKS: Global<u32> = Global::new(0);

/// What bounds progress, as the agent set it.
#[inline(always)]
pub(crate) fn limits() -> Limits {
    Limits {
        strays: STRAYS.load() as u8,
        longest: LONGEST.load(),
        buckets: BUCKETS.load(),
        key: [HASH_KEY_0.load(), HASH_KEY_1.load()],
    }
}

/// Whether packets that matched a step are dropped.
#[inline(always)]
pub(crate) fn drop_knocks() -> bool {
    DROP_KNOCKS.load() != 0
}

/// What the port of `step` is.
#[inline(always)]
pub(crate) fn class(step: Step) -> PortClass {
    match CLASSES.get(0) {
        Some(entries) => PortClass::of(entries[step.port as usize], step.protocol),
        None => PortClass::NONE,
    }
}

/// The notes of this CPU.
#[inline(always)]
pub(crate) fn notes() -> Option<&'static Cell<u32>> {
    let notes = NOTES.get_ptr_mut(0)?;
    // SAFETY: the entry belongs to this CPU, where packets are handled one at a time.
    Some(unsafe { &*notes.cast::<Cell<u32>>() })
}

/// Counts one packet.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    let index = counter.index();
    if let Some(counters) = COUNTERS.get_ptr_mut(0)
        && index < Counter::COUNT
    {
        // SAFETY: the entry belongs to this CPU and a program is not preempted by
        // itself on one CPU; the index is in range.
        unsafe { (*counters).0[index] += 1 };
    }
}

/// The maps as the detector sees them.
pub(crate) struct Maps;

impl Store for Maps {
    type Word = SharedWord;

    #[inline(always)]
    fn transition(&self, edge: &Edge) -> Option<Transition> {
        // SAFETY: transitions are plain integers. One that the agent replaces
        // meanwhile may be read in part old, in part new; the agent never changes the
        // value of an edge in place.
        unsafe { TRIE.get(edge) }.copied()
    }

    #[inline(always)]
    fn tracks(&self, source: &Source) -> Option<&[SharedWord; TRACKS]> {
        // SAFETY: every word is only changed by compare-and-swap. The kernel may give
        // the entry to another source at any time; tags tell (`progress.rs`).
        unsafe { PROGRESS.get(source) }
    }

    #[inline(always)]
    fn insert(&self, source: &Source, tracks: &[u64; TRACKS]) -> Insert {
        const EEXIST: i32 = -17;
        // SAFETY: a shared word is a transparent `u64`.
        let tracks = unsafe { &*(&raw const *tracks).cast::<[SharedWord; TRACKS]>() };
        match PROGRESS.insert(source, tracks, BPF_NOEXIST.into()) {
            Ok(()) => Insert::Done,
            Err(EEXIST) => Insert::Exists,
            Err(_) => Insert::Failed,
        }
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&[SharedWord; SLOTS]> {
        FIRST.get(index)
    }

    #[inline(always)]
    fn report(&self, event: &Event, claim: impl FnOnce() -> bool) -> Report {
        let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
            return Report::Full;
        };
        entry.write(*event);
        if claim() {
            entry.submit(0);
            Report::Sent
        } else {
            entry.discard(0);
            Report::Unclaimed
        }
    }
}

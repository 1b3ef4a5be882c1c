//! Every map and every setting of the program, and how the detector reaches them.
//!
//! The sizes here are the smallest that load; the agent sets the real ones.

use core::cell::{Cell, UnsafeCell};

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_NOEXIST};
use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use knock_common::counters::{Counter, Counters};
use knock_common::detect::{ACTIVITY, Insert, Limits, Report, Store, TRACKS, Word};
use knock_common::event::Event;
use knock_common::first::Bucket;
use knock_common::sequence::{Edge, PORTS, PortClass, Step, Transition};
use knock_common::source::Source;

use crate::atomic::SharedWord;

/// The trie below its first level.
#[map]
static TRIE: HashMap<Edge, Transition> = HashMap::with_max_entries(1, 0);

/// When sources last began, by hash.
#[map]
static RECENT: Array<[SharedWord; ACTIVITY]> = Array::with_max_entries(1, 0);

/// First steps, by hash of the source. Nobody maps it into memory, but the kernel begins
/// a map of that kind at a page, so that each bucket is one cache line (Linux 5.5,
/// fc9702273e2e).
#[map]
static FIRST: Array<Bucket<SharedWord>> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Sources past their first step.
#[map]
static PROGRESS: LruHashMap<Source, [SharedWord; TRACKS]> = LruHashMap::with_max_entries(1, 0);

/// Completed sequences, for the agent.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// How packets ended, for each CPU.
#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// What is known of the current packet, on each CPU.
#[map]
static DESK: PerCpuArray<Desk> = PerCpuArray::with_max_entries(1, 0);

/// See [`DESK`].
#[repr(C)]
pub(crate) struct Desk {
    /// The packet, as [`Candidate::pack`] gave it.
    ///
    /// [`Candidate::pack`]: knock_common::packet::Candidate::pack
    pub(crate) candidate: Cell<u64>,
    /// What became of the words that it concerns.
    pub(crate) notes: Cell<u32>,
    _padding: u32,
}

// SAFETY: each CPU has its own, and handles one packet at a time.
unsafe impl Sync for Desk {}

/// One byte a port. A variable rather than a map of its own: its address is part of the
/// program, so no look-up is needed. The agent finds it as the only one in `.bss`.
#[unsafe(no_mangle)]
static CLASSES: Classes = Classes(UnsafeCell::new([0; PORTS]));

/// Bytes that the agent changes while the program runs.
#[repr(transparent)]
struct Classes(UnsafeCell<[u8; PORTS]>);

// SAFETY: the program reads single bytes, each in one instruction.
unsafe impl Sync for Classes {}

/// Length of a jiffy.
#[unsafe(no_mangle)]
static JIFFY_NS: Global<u64> = Global::new(4_000_000);
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
    // To verifiers like that of Linux 6.1, a number whose bytes were swapped may be anything;
    // the compiler knows better, and would leave the mask out if it saw where this comes from.
    let port = SharedWord::opaque(step.port.into()) as usize & (PORTS - 1);
    // SAFETY: the port is below the number of entries.
    let entry = unsafe { CLASSES.0.get().cast::<u8>().add(port) };
    // SAFETY: the address is inside the variable, and a byte is read as a whole.
    let entry = unsafe { entry.read_volatile() };
    PortClass::of(entry, step.protocol)
}

/// Time since boot, in nanoseconds but counted in jiffies. Not the monotonic clock: it
/// starts at another moment.
#[inline(always)]
pub(crate) fn uptime_ns() -> u64 {
    // SAFETY: the helper takes no arguments; it exists since Linux 5.6 (5576b991e9c1),
    // and the verifier turns it into a single load.
    unsafe { bpf_jiffies64() }.wrapping_mul(JIFFY_NS.load())
}

/// The desk of this CPU.
#[inline(always)]
pub(crate) fn desk() -> Option<&'static Desk> {
    let desk = DESK.get_ptr_mut(0)?;
    // SAFETY: the entry belongs to this CPU, where packets are handled one at a time.
    Some(unsafe { &*desk })
}

/// Counts one packet.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    // The compiler may know that the index is in range, but the verifier wants to see it.
    let index = SharedWord::opaque(counter.index() as u64) as usize;
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
    fn activity(&self, hash: u64) -> Option<&SharedWord> {
        RECENT.get(0).map(|words| &words[hash as usize % ACTIVITY])
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&Bucket<SharedWord>> {
        FIRST.get(index)
    }

    #[inline(always)]
    fn monotonic_ns(&self, _: u64) -> u64 {
        // SAFETY: the helper takes no arguments; it exists since Linux 5.11 (d05512618056).
        unsafe { bpf_ktime_get_coarse_ns() }
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

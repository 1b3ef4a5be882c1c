//! The maps and variables of the program, and how the detector reaches them.
//!
//! Their names are listed in `knock_common::abi`, and a test of the detector crate compares the
//! two. The sizes here are the smallest that load. The agent sets the real ones.

use core::cell::{Cell, UnsafeCell};

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_NOEXIST};
use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use knock_common::counters::{Counter, Counters};
use knock_common::detect::{ACTIVITY, Insert, Limits, Report, Store, TRACKS};
use knock_common::event::Event;
use knock_common::first::Bucket;
use knock_common::sequence::{Edge, PORTS, PortClass, Step, Transition};
use knock_common::source::Source;
use knock_common::word::Word as _;

use crate::atomic::SharedWord;

/// The trie below its first level.
#[map]
static TRIE: HashMap<Edge, Transition> = HashMap::with_max_entries(1, 0);

/// When sources last began, by hash.
#[map]
static RECENT: Array<[SharedWord; ACTIVITY]> = Array::with_max_entries(1, 0);

/// First steps, by hash of the source. The map is mappable but is never mapped into memory. The
/// kernel begins a map of that kind at a page, so that each bucket is one cache line (Linux 5.5,
/// fc9702273e2e).
#[map]
static FIRST: Array<Bucket<SharedWord>> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Sources past their first step.
#[map]
static PROGRESS: LruHashMap<Source, [SharedWord; TRACKS]> = LruHashMap::with_max_entries(1, 0);

/// Completed sequences, for the agent.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// How many packets ended in which way, for each CPU.
#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// Scratch space for the current packet, on each CPU.
#[map]
static DESK: PerCpuArray<Desk> = PerCpuArray::with_max_entries(1, 0);

/// Scratch space for one packet. A value that was read from here is a single unknown to the
/// verifier.
#[repr(C)]
pub(crate) struct Desk {
    /// The packet, as [`Candidate::pack`] gave it.
    ///
    /// [`Candidate::pack`]: knock_common::packet::Candidate::pack
    pub(crate) candidate: Cell<u64>,
    /// The outcomes for the words of its source, as a mask.
    pub(crate) notes: Cell<u32>,
    _padding: u32,
}

// SAFETY: each CPU has its own, and handles one packet at a time.
unsafe impl Sync for Desk {}

/// The classes of all ports, one byte each. It is a variable and not a map of its own: its address
/// is part of the program, so no look-up is needed. The agent writes it as the map `.bss`, in which
/// it is alone.
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

/// Returns the bounds of progress, as the agent set them.
#[inline(always)]
pub(crate) fn limits() -> Limits {
    Limits {
        strays: STRAYS.load() as u8,
        longest: LONGEST.load(),
        buckets: BUCKETS.load(),
        key: [HASH_KEY_0.load(), HASH_KEY_1.load()],
    }
}

/// Returns whether packets that matched a step are dropped.
#[inline(always)]
pub(crate) fn drop_knocks() -> bool {
    DROP_KNOCKS.load() != 0
}

/// Returns the class of the port of `step`.
#[inline(always)]
pub(crate) fn class(step: Step) -> PortClass {
    // To verifiers like that of Linux 6.1, a number whose bytes were swapped may be anything. The
    // compiler knows better, and would leave the mask out if it saw where the number comes from.
    let port = SharedWord::opaque(step.port.into()) as usize & (PORTS - 1);
    // SAFETY: the port is below the number of entries.
    let entry = unsafe { CLASSES.0.get().cast::<u8>().add(port) };
    // SAFETY: the address is inside the variable, and a byte is read as a whole.
    let entry = unsafe { entry.read_volatile() };
    PortClass::of(entry, step.protocol)
}

/// Returns the time since boot, in nanoseconds but counted in jiffies. It is not the monotonic
/// clock, which starts at another moment.
#[inline(always)]
pub(crate) fn uptime_ns() -> u64 {
    // SAFETY: the helper takes no arguments; it exists since Linux 5.6 (5576b991e9c1),
    // and the verifier turns it into a single load.
    unsafe { bpf_jiffies64() }.wrapping_mul(JIFFY_NS.load())
}

/// Returns the desk of this CPU.
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
        // SAFETY: the entry belongs to this CPU, a program is not preempted by itself on one CPU,
        // and the index is in range.
        unsafe { (*counters).0[index] += 1 };
    }
}

/// The maps, as the detector reaches them.
pub(crate) struct Maps;

impl Store for Maps {
    type Word = SharedWord;

    #[inline(always)]
    fn transition(&self, edge: &Edge) -> Option<Transition> {
        // SAFETY: transitions are plain integers. The kernel may give the place of one that the
        // agent replaces or deletes to another one. Before that happens, the agent waits until no
        // packet is under way that could be reading it.
        unsafe { TRIE.get(edge) }.copied()
    }

    #[inline(always)]
    fn tracks(&self, source: &Source) -> Option<&[SharedWord; TRACKS]> {
        // SAFETY: every word is only changed by compare-and-swap. The kernel may give the entry to
        // another source at any time, which the tags show (`progress.rs`).
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

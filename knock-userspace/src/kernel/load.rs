//! Loading the detector and filling its maps.

use std::time::Duration;

use aya::maps::{Array, HashMap, MapData, MapError, RingBuf};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader, include_bytes_aligned};
use knock_common::first::Bucket;
use knock_common::sequence::{Edge, PORTS, Transition};
use nix::time::{ClockId, clock_getres};
use procfs::Current as _;

use super::{AttachedMode, Events, KernelError, Totals, Trace, attach};
use crate::compile::Compiled;
use crate::policy::{Attach, Knocks};

/// The program for frames in one or more buffers.
const FRAGS: &str = "knock_frags";
/// The program for frames in one buffer.
const SINGLE_BUFFER: &str = "knock";

/// The classes of all ports: the only variable of the program that changes.
const CLASSES: &str = ".bss";

pub(super) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/knock-ebpf"));

/// What is fixed while the detector is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Decoys that a source with progress may hit.
    pub strays: u8,
    /// Sources past their first step that are remembered.
    pub max_sources: u32,
    /// What happens to packets that matched a step.
    pub knocks: Knocks,
    /// Whether the program says what it sees.
    pub trace: bool,
    /// Places first steps; must not be known outside.
    pub hash_key: [u64; 2],
}

impl Settings {
    /// Bytes of the ring buffer: 52,428 completed knocks of 40 bytes with their headers. The
    /// agent maps it twice over, and it counts as resident there.
    const RING_BYTES: u32 = 1 << 21;

    /// Buckets of first steps, of seven slots each: four for each source. At the default
    /// size, of all first steps one flood of four million a second leaves 97% in place for
    /// 200 ms (Poisson: seven or more newer ones in a bucket).
    const fn buckets(self) -> u32 {
        self.max_sources.next_power_of_two().saturating_mul(4)
    }

    /// About how many bytes the maps take whose size depends on `max_sources`.
    fn memory(self) -> u64 {
        // struct htab_elem with a key of 16 and a value of 32 bytes, and the head of a
        // hash bucket (kernel/bpf/hashtab.c).
        const ELEMENT: u64 = 104;
        const HEAD: u64 = 16;
        let buckets = u64::from(self.buckets());
        let sources = u64::from(self.max_sources);
        buckets * size_of::<Bucket<u64>>() as u64
            + sources * ELEMENT
            + sources.next_power_of_two() * HEAD
    }

    /// Why the maps could not be created: if there is no room for so many sources, how
    /// many there would be room for.
    fn explain(self, error: EbpfError) -> KernelError {
        let EbpfError::MapError(MapError::CreateError { name, io_error }) = &error else {
            return KernelError::from(error).explained();
        };
        let sized = matches!(name.as_str(), "FIRST" | "PROGRESS");
        let too_large = matches!(io_error.raw_os_error(), Some(libc::ENOMEM | libc::E2BIG));
        let available = procfs::Meminfo::current().ok().and_then(|memory| memory.mem_available);
        let (true, true, Some(available)) = (sized, too_large, available) else {
            return KernelError::from(error).explained();
        };
        let halves = std::iter::successors(Some(self.max_sources), |sources| Some(sources / 2));
        let fits = halves
            .map(|max_sources| Self { max_sources, ..self })
            .find(|settings| settings.memory() <= available / 2)
            .map_or(0, |settings| settings.max_sources);
        KernelError::TooManySources {
            asked: self.max_sources,
            needed_mib: self.memory() >> 20,
            available_mib: available >> 20,
            fits,
        }
    }
}

/// The loaded program with its maps and links. Dropping it detaches it everywhere.
pub struct Detector {
    pub(super) ebpf: Ebpf,
    /// Which of the two programs is loaded.
    program: &'static str,
}

impl Detector {
    /// Loads the program and fills its maps. Nothing is attached yet.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a map or the program; nothing is left behind then.
    pub fn load(compiled: &Compiled, settings: Settings) -> Result<Self, KernelError> {
        let edges = u32::try_from(compiled.edges.len()).unwrap_or(u32::MAX).max(1);
        let ebpf = EbpfLoader::new()
            .map_max_entries("TRIE", edges)
            .map_max_entries("FIRST", settings.buckets())
            .map_max_entries("PROGRESS", settings.max_sources)
            .map_max_entries("EVENTS", Settings::RING_BYTES)
            .override_global("JIFFY_NS", &jiffy_ns()?, true)
            .override_global("STRAYS", &u32::from(settings.strays), true)
            .override_global("LONGEST", &compiled.longest, true)
            .override_global("BUCKETS", &settings.buckets(), true)
            .override_global("HASH_KEY_0", &settings.hash_key[0], true)
            .override_global("HASH_KEY_1", &settings.hash_key[1], true)
            .override_global("DROP_KNOCKS", &u32::from(settings.knocks == Knocks::Drop), true)
            .override_global("TRACE", &u32::from(settings.trace), true)
            .load(OBJECT)
            .map_err(|error| settings.explain(error))?;
        let mut detector = Self { ebpf, program: FRAGS };
        detector.fill(compiled)?;
        detector.load_program()?;
        give_back_memory();
        Ok(detector)
    }

    /// Frames in several buffers need Linux 5.18 (f45d5b6ce2e8). Before that, drivers
    /// refuse programs or large MTUs by themselves, and the same program without the
    /// flag does.
    fn load_program(&mut self) -> Result<(), KernelError> {
        if self.program()?.load().is_ok() {
            return Ok(());
        }
        self.program = SINGLE_BUFFER;
        let loaded = self.program()?.load();
        loaded.map_err(|error| KernelError::Program(error).explained())
    }

    fn fill(&mut self, compiled: &Compiled) -> Result<(), KernelError> {
        let trie = self.ebpf.map_mut("TRIE").ok_or(KernelError::Missing("TRIE"))?;
        let mut trie: HashMap<&mut MapData, Edge, Transition> =
            trie.try_into().map_err(KernelError::map("TRIE"))?;
        for (edge, transition) in &compiled.edges {
            trie.insert(edge, transition, 0).map_err(KernelError::map("TRIE"))?;
        }
        let classes = self.ebpf.map_mut(CLASSES).ok_or(KernelError::Missing("port classes"))?;
        let mut classes: Array<&mut MapData, [u8; PORTS]> =
            classes.try_into().map_err(KernelError::map("port classes"))?;
        classes.set(0, *compiled.classes, 0).map_err(KernelError::map("port classes"))
    }

    fn program(&mut self) -> Result<&mut Xdp, KernelError> {
        let program = self.ebpf.program_mut(self.program).ok_or(KernelError::Missing("program"))?;
        program.try_into().map_err(KernelError::Program)
    }

    /// Attaches the detector to an interface until it is dropped.
    ///
    /// # Errors
    ///
    /// If there is no such interface, another XDP program is there, or the driver
    /// refuses and `attach` allows no other mode.
    pub fn attach(&mut self, interface: &str, attach: Attach) -> Result<AttachedMode, KernelError> {
        attach::attach(self.program()?, interface, attach)
    }

    /// Takes the ring buffer of completed sequences.
    ///
    /// # Errors
    ///
    /// If it was taken before, or there is no event loop.
    pub fn events(&mut self) -> Result<Events, KernelError> {
        let map = self.ebpf.take_map("EVENTS").ok_or(KernelError::Missing("EVENTS"))?;
        Events::new(RingBuf::try_from(map).map_err(KernelError::map("EVENTS"))?)
    }

    /// Starts forwarding the kernel's messages to the log.
    ///
    /// # Errors
    ///
    /// If the program was loaded without `trace`, or there is no event loop.
    pub fn trace(&mut self) -> Result<Trace, KernelError> {
        Trace::new(&mut self.ebpf)
    }

    /// How packets have ended so far, summed over all CPUs.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn totals(&self) -> Result<Totals, KernelError> {
        Totals::read(&self.ebpf)
    }

    /// Runs the program on `frame` as `BPF_PROG_TEST_RUN` does, `repeat` times, and
    /// returns its last verdict with the mean duration of a run.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the frame, which must have 14 bytes or more.
    pub fn test_run(&mut self, frame: &[u8], repeat: u32) -> Result<(u32, Duration), KernelError> {
        test_run(self.program()?, frame, repeat)
    }
}

/// Loading takes several MiB for a moment, for the kernel's type information; the
/// allocator would keep them for good.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes no pointer and is safe between threads.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Length of a jiffy in nanoseconds: it is the resolution of the coarse clocks
/// (`clock_getres(2)`).
fn jiffy_ns() -> Result<u64, KernelError> {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_err(|error| {
        KernelError::Io { what: "cannot read the length of a jiffy", source: error.into() }
    })?;
    Ok(Duration::from(resolution).as_nanos() as u64)
}

pub(super) fn test_run(
    program: &Xdp,
    frame: &[u8],
    repeat: u32,
) -> Result<(u32, Duration), KernelError> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.repeat = repeat;
    let result = program.test_run(options).map_err(KernelError::Program)?;
    Ok((result.return_value, result.duration))
}

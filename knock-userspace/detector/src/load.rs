//! Loading the detector and filling its maps.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, MapInfo, RingBuf};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use knock_common::abi::maps::{
    CLASSES, COUNTERS, EVENTS, FIRST, KEYS, PROGRESS, RECENT, SEALED, TRIE,
};
use knock_common::abi::{programs, variables};
use knock_common::sequence::{Edge, PORTS, Transition};
use knock_policy::Knocks;
use knock_policy::compile::Compiled;
use knock_policy::trie::{Change, Edges, Trie};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::time::{ClockId, clock_getres};
use tracing::warn;

use super::links::Attached;
use super::object::OBJECT;
use super::{DetectorError, Events, Pins, Settings, Totals, Trace, pins};

/// Fewest edges that the trie has room for, so that a reload can add doors in place.
const MIN_EDGES: u32 = 1 << 10;

/// How often a change waits for packets under way, each for some milliseconds.
const MOST_WAITS: usize = 64;

/// Maps that outlive the agent, and what is lost when one must be made anew.
const PINNED: [(&str, &str); 8] = [
    (TRIE, ""),
    (RECENT, "knocks under way"),
    (FIRST, "first steps"),
    (PROGRESS, "knocks under way"),
    (EVENTS, "completed knocks that waited"),
    (COUNTERS, "counters"),
    // The agent knows it all from its own file.
    (KEYS, ""),
    (SEALED, "sealed knocks that waited"),
];

/// The loaded program with its maps and links. Dropping it detaches it everywhere, unless it
/// was pinned and is settled.
pub struct Detector {
    pub(super) ebpf: Ebpf,
    /// Which of the two programs is loaded.
    program: &'static str,
    settings: Settings,
    /// Longest `within` of any door that it knows, in ticks.
    longest: u32,
    /// What the trie's map holds.
    trie: Trie,
    /// Edges that it has room for.
    room: usize,
    /// Edges that the program before this one still needs.
    stale: Vec<Edge>,
    /// By index of the interface.
    pub(super) links: BTreeMap<u32, Attached>,
    pub(super) pins: Option<Pins>,
    /// Files made for this program, which nobody needs if it does not get to run.
    pub(super) made: Vec<PathBuf>,
    /// Whether it is the program now.
    pub(super) settled: bool,
    reset: Vec<&'static str>,
}

impl Detector {
    /// Loads the program and fills its maps. Nothing is attached yet, and nothing is left
    /// when it is dropped.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a map or the program; nothing is left behind then.
    pub fn load(compiled: &Compiled, settings: Settings) -> Result<Self, DetectorError> {
        Self::load_among(compiled, settings, None)
    }

    /// Loads the program, and with `pins` lets it work with the maps that are pinned there,
    /// so that it goes on where another program is or was. Call [`Detector::settle`] once it
    /// is attached where it should be.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a map or the program; nothing has changed then.
    pub fn load_among(
        compiled: &Compiled,
        settings: Settings,
        pins: Option<&Pins>,
    ) -> Result<Self, DetectorError> {
        let edges = u32::try_from(compiled.trie.edges.len()).unwrap_or(u32::MAX);
        let mut edges = edges.saturating_mul(2).max(MIN_EDGES);
        let mut loader = EbpfLoader::new();
        let (mut made, mut reset) = (Vec::new(), Vec::new());
        for (name, loss) in PINNED {
            let Some(pins) = pins else { break };
            let path = pins.map(name);
            let found = MapInfo::from_pin(&path).ok().map(|info| info.max_entries());
            let fits = match (name, found) {
                (_, None) => true,
                (TRIE, Some(size)) => size as usize >= compiled.trie.edges.len(),
                (FIRST, Some(size)) => size == settings.buckets(),
                (PROGRESS, Some(size)) => size == settings.max_sources,
                (_, Some(_)) => true,
            };
            match (fits, found) {
                (true, Some(size)) => {
                    if name == TRIE {
                        edges = size;
                    }
                    loader.map_pin_path(name, path);
                }
                (true, None) => {
                    made.push(path.clone());
                    loader.map_pin_path(name, path);
                }
                (false, _) => {
                    made.push(pins.new_map(name));
                    loader.map_pin_path(name, pins.new_map(name));
                    reset.extend(Some(loss).filter(|loss| !loss.is_empty()));
                }
            }
        }
        let loaded = loader
            .map_max_entries(TRIE, edges)
            .map_max_entries(FIRST, settings.buckets())
            .map_max_entries(PROGRESS, settings.max_sources)
            .map_max_entries(EVENTS, Settings::RING_BYTES)
            .override_global(variables::JIFFY_NS, &jiffy_ns()?, true)
            .override_global(variables::STRAYS, &u32::from(settings.strays), true)
            .override_global(variables::LONGEST, &compiled.longest, true)
            .override_global(variables::BUCKETS, &settings.buckets(), true)
            .override_global(variables::HASH_KEY_0, &settings.hash_key[0], true)
            .override_global(variables::HASH_KEY_1, &settings.hash_key[1], true)
            .override_global(
                variables::DROP_KNOCKS,
                &u32::from(settings.knocks == Knocks::Drop),
                true,
            )
            .override_global(variables::TRACE, &u32::from(settings.trace), true)
            .load(OBJECT);
        let ebpf = loaded.map_err(|error| {
            remove_files(&made);
            settings.explain(error)
        })?;
        let mut detector = Self {
            ebpf,
            program: programs::FRAGS,
            settings,
            longest: compiled.longest,
            trie: Trie::default(),
            room: edges as usize,
            stale: Vec::new(),
            links: BTreeMap::new(),
            pins: pins.cloned(),
            made,
            settled: false,
            reset,
        };
        // The likeliest to fail comes before the maps are touched that others work with.
        detector.load_program()?;
        let held = Trie::restored(detector.edges()?, compiled.trie.next());
        detector.fill(held.change_to(&compiled.trie), compiled)?;
        give_back_memory();
        Ok(detector)
    }

    /// The edges of the trie among `pins`; none if it was not pinned.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn pinned_edges(pins: &Pins) -> Result<Edges, DetectorError> {
        let path = pins.map(TRIE);
        if !path.exists() {
            return Ok(Edges::new());
        }
        let map = Map::HashMap(MapData::from_pin(path).map_err(DetectorError::map(TRIE))?);
        read_edges(&HashMap::try_from(&map).map_err(DetectorError::map(TRIE))?)
    }

    fn edges(&self) -> Result<Edges, DetectorError> {
        let map = self.ebpf.map(TRIE).ok_or(DetectorError::Missing(TRIE))?;
        read_edges(&HashMap::try_from(map).map_err(DetectorError::map(TRIE))?)
    }

    /// The verifier gives up if a signal comes, and aya then asks it for its reasons at length:
    /// seconds, where a signal that waits costs a fraction of one.
    fn load_program(&mut self) -> Result<(), DetectorError> {
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
        let loaded = self.load_either();
        let _ = before.and_then(|mask| mask.thread_set_mask());
        loaded
    }

    /// Frames in several buffers need Linux 5.18 (c2f2cdbeffda). Before that, drivers
    /// refuse programs or large MTUs by themselves, and the same program without the
    /// flag does.
    fn load_either(&mut self) -> Result<(), DetectorError> {
        if self.program()?.load().is_ok() {
            return Ok(());
        }
        self.program = programs::SINGLE_BUFFER;
        let loaded = self.program()?.load();
        loaded.map_err(|error| DetectorError::from(error).explained())
    }

    /// Makes the maps hold `compiled`, except for edges that go: a program that ran before
    /// may still follow them, until [`Detector::settle`].
    fn fill(&mut self, change: Change, compiled: &Compiled) -> Result<(), DetectorError> {
        let trie = self.ebpf.map_mut(TRIE).ok_or(DetectorError::Missing(TRIE))?;
        let mut trie: HashMap<&mut MapData, Edge, Transition> =
            trie.try_into().map_err(DetectorError::map(TRIE))?;
        for (edge, transition) in change.insert {
            trie.insert(edge, transition, 0).map_err(DetectorError::map(TRIE))?;
        }
        let classes = self.ebpf.map_mut(CLASSES).ok_or(DetectorError::Missing("port classes"))?;
        let mut classes: Array<&mut MapData, [u8; PORTS]> =
            classes.try_into().map_err(DetectorError::map("port classes"))?;
        classes.set(0, *compiled.classes, 0).map_err(DetectorError::map("port classes"))?;
        let trie = self.ebpf.map_mut(TRIE).ok_or(DetectorError::Missing(TRIE))?;
        let mut trie: HashMap<&mut MapData, Edge, Transition> =
            trie.try_into().map_err(DetectorError::map(TRIE))?;
        let waits = change.replace.len().div_ceil(MOST_WAITS).max(1);
        for (number, (edge, transition)) in change.replace.into_iter().enumerate() {
            trie.insert(edge, transition, 0).map_err(DetectorError::map(TRIE))?;
            if number % waits == 0 {
                // The kernel gives the place of the old value to the next one.
                wait_for_packets_under_way();
            }
        }
        self.stale.extend(change.delete);
        self.trie = compiled.trie.clone();
        Ok(())
    }

    /// The trie that its map holds.
    pub const fn trie(&self) -> &Trie {
        &self.trie
    }

    /// Whether this program can do what `compiled` and `settings` want, or another must be
    /// loaded: because settings differ, or the trie needs more room.
    pub fn can_become(&self, compiled: &Compiled, settings: Settings) -> bool {
        let inserted = self.trie.change_to(&compiled.trie).insert.len();
        settings == self.settings
            && compiled.longest == self.longest
            // What goes is still there while the rest comes.
            && self.trie.edges.len() + inserted <= self.room
    }

    /// Changes doors and port classes in place, while packets come.
    ///
    /// # Errors
    ///
    /// If a map cannot be written.
    pub fn update(&mut self, compiled: &Compiled) -> Result<(), DetectorError> {
        self.fill(self.trie.change_to(&compiled.trie), compiled)?;
        self.settle()?;
        Ok(())
    }

    /// Makes the trie's map hold again what this program expects, after another one was loaded
    /// that did not get to run.
    ///
    /// # Errors
    ///
    /// If the map cannot be read or written.
    pub fn reassert(&mut self) -> Result<(), DetectorError> {
        let held = Trie::restored(self.edges()?, self.trie.next());
        let change = held.change_to(&self.trie);
        let trie = self.ebpf.map_mut(TRIE).ok_or(DetectorError::Missing(TRIE))?;
        let mut trie: HashMap<&mut MapData, Edge, Transition> =
            trie.try_into().map_err(DetectorError::map(TRIE))?;
        for (edge, transition) in change.insert.into_iter().chain(change.replace) {
            trie.insert(edge, transition, 0).map_err(DetectorError::map(TRIE))?;
        }
        self.stale.extend(change.delete);
        self.settle()?;
        Ok(())
    }

    pub(super) fn program(&mut self) -> Result<&mut Xdp, DetectorError> {
        let program =
            self.ebpf.program_mut(self.program).ok_or(DetectorError::Missing("program"))?;
        program.try_into().map_err(DetectorError::from)
    }

    /// This program is the one now: what the one before needed goes, and what is pinned stays
    /// when this value is dropped. Returns what was lost on the way, in words.
    ///
    /// # Errors
    ///
    /// If a map or a pin cannot be changed.
    pub fn settle(&mut self) -> Result<Vec<&'static str>, DetectorError> {
        let trie = self.ebpf.map_mut(TRIE).ok_or(DetectorError::Missing(TRIE))?;
        let mut trie: HashMap<&mut MapData, Edge, Transition> =
            trie.try_into().map_err(DetectorError::map(TRIE))?;
        for edge in self.stale.drain(..) {
            trie.remove(&edge).map_err(DetectorError::map(TRIE))?;
        }
        wait_for_packets_under_way();
        let mut lost = std::mem::take(&mut self.reset);
        if let Some(pins) = &self.pins {
            for (name, _) in PINNED {
                let new = pins.new_map(name);
                if self.made.contains(&new) {
                    pins::replace(&new, &pins.map(name))?;
                }
            }
            for folder in pins.foreign_layouts()? {
                pins::remove_folder(&folder)?;
                lost.push("what a program of another layout had noted");
            }
        }
        self.made.clear();
        self.settled = true;
        lost.dedup();
        Ok(lost)
    }

    /// Takes the ring buffer of completed sequences.
    ///
    /// # Errors
    ///
    /// If it was taken before, or there is no event loop.
    pub fn events(&mut self) -> Result<Events, DetectorError> {
        let map = self.ebpf.take_map(EVENTS).ok_or(DetectorError::Missing(EVENTS))?;
        Events::new(RingBuf::try_from(map).map_err(DetectorError::map(EVENTS))?)
    }

    /// Starts forwarding the kernel's messages to the log.
    ///
    /// # Errors
    ///
    /// If the program was loaded without `trace`, or there is no event loop.
    pub fn trace(&mut self) -> Result<Trace, DetectorError> {
        Trace::new(&mut self.ebpf)
    }

    /// How packets have ended so far, summed over all CPUs.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn totals(&self) -> Result<Totals, DetectorError> {
        Totals::read(&self.ebpf)
    }

    /// Runs the program on `frame` as `BPF_PROG_TEST_RUN` does, `repeat` times, and
    /// returns its last verdict with the mean duration of a run.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the frame, which must have 14 bytes or more.
    pub fn test_run(
        &mut self,
        frame: &[u8],
        repeat: u32,
    ) -> Result<(u32, Duration), DetectorError> {
        test_run(self.program()?, frame, repeat)
    }
}

impl Drop for Detector {
    fn drop(&mut self) {
        remove_files(&self.made);
    }
}

fn remove_files(paths: &[PathBuf]) {
    for path in paths {
        if let Err(error) = pins::remove(path) {
            warn!(%error, "left behind");
        }
    }
}

fn read_edges<T: std::borrow::Borrow<MapData>>(
    trie: &HashMap<T, Edge, Transition>,
) -> Result<Edges, DetectorError> {
    let edges: Result<_, _> = trie.iter().collect();
    edges.map_err(DetectorError::map(TRIE))
}

/// Returns when no CPU is still working on a packet that it had before: the kernel may give
/// the place of a deleted edge to the next one that is inserted, and nobody may be reading it
/// then. `MEMBARRIER_CMD_GLOBAL` waits for a grace period of RCU (kernel/sched/membarrier.c),
/// in which XDP programs run.
fn wait_for_packets_under_way() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: membarrier(2) takes numbers only.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done != 0 {
        // Kernels with CPUs that nothing may disturb (nohz_full) refuse. A packet takes well
        // under a microsecond.
        std::thread::sleep(Duration::from_millis(10));
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
fn jiffy_ns() -> Result<u64, DetectorError> {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_err(|error| {
        DetectorError::Io { what: "cannot read the length of a jiffy", source: error.into() }
    })?;
    Ok(Duration::from(resolution).as_nanos() as u64)
}

pub(super) fn test_run(
    program: &Xdp,
    frame: &[u8],
    repeat: u32,
) -> Result<(u32, Duration), DetectorError> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.repeat = repeat;
    let result = program.test_run(options).map_err(DetectorError::from)?;
    Ok((result.return_value, result.duration))
}

//! Loading the XDP program.

use std::collections::BTreeMap;
use std::time::Duration;

use aya::EbpfLoader;
use knock_common::abi::maps::{EVENTS, FIRST, PROGRESS, TRIE};
use knock_common::abi::{programs, variables};
use knock_policy::Knocks;
use knock_policy::compile::Compiled;
use knock_policy::trie::Trie;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::time::{ClockId, clock_getres};

use super::adopt::Adoption;
use super::detector::remove_files;
use super::object::OBJECT;
use super::{Detector, DetectorError, Pins, Settings};

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

    /// Loads the program. With `pins` it works with the maps that are pinned there, so that it
    /// goes on where another program is or was. Call [`Detector::settle`] once it is attached
    /// where it should be.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a map or the program; nothing has changed then.
    pub fn load_among(
        compiled: &Compiled,
        settings: Settings,
        pins: Option<&Pins>,
    ) -> Result<Self, DetectorError> {
        let adoption = Adoption::choose(compiled, settings, pins);
        let constants = Constants::new(compiled, settings)?;
        let mut loader = EbpfLoader::new();
        adoption.apply(&mut loader);
        constants.apply(&mut loader);
        let loaded = loader
            .map_max_entries(TRIE, adoption.edges)
            .map_max_entries(FIRST, settings.buckets())
            .map_max_entries(PROGRESS, settings.max_sources)
            .map_max_entries(EVENTS, Settings::RING_BYTES)
            .load(OBJECT);
        let ebpf = loaded.map_err(|error| {
            remove_files(&adoption.created);
            settings.explain(error)
        })?;
        // From here on, dropping the detector removes the files.
        let mut detector = Self {
            ebpf,
            program: programs::FRAGS,
            settings,
            longest: compiled.longest,
            trie: Trie::default(),
            room: adoption.edges as usize,
            stale: Vec::new(),
            links: BTreeMap::new(),
            pins: pins.cloned(),
            created: adoption.created,
            settled: false,
            lost: adoption.lost,
        };
        // Before the maps, because it is the likeliest to fail and another program works with them.
        detector.load_program()?;
        let held = Trie::restored(detector.edges()?, compiled.trie.next());
        detector.fill(held.change_to(&compiled.trie), compiled)?;
        give_back_memory();
        Ok(detector)
    }

    /// Loads the program with all signals blocked. The verifier gives up if a signal comes, and
    /// aya then asks it for its reasons at length. That takes seconds, and a blocked signal waits
    /// for a fraction of one.
    fn load_program(&mut self) -> Result<(), DetectorError> {
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
        let loaded = self.load_either();
        let _ = before.and_then(|mask| mask.thread_set_mask());
        loaded
    }

    /// Loads the program for frames in several buffers, or else the one for a single buffer.
    ///
    /// The first needs Linux 5.18 (c2f2cdbeffda). Before that, drivers refuse programs or large
    /// MTUs by themselves, and the same program without the flag does.
    fn load_either(&mut self) -> Result<(), DetectorError> {
        if self.program()?.load().is_ok() {
            return Ok(());
        }
        self.program = programs::SINGLE_BUFFER;
        let loaded = self.program()?.load();
        loaded.map_err(|error| DetectorError::from(error).explained())
    }
}

/// Values of the program's constants, see [`variables`].
struct Constants {
    jiffy_ns: u64,
    strays: u32,
    longest: u32,
    buckets: u32,
    hash_key: [u64; 2],
    drop_knocks: u32,
    trace: u32,
}

impl Constants {
    fn new(compiled: &Compiled, settings: Settings) -> Result<Self, DetectorError> {
        Ok(Self {
            jiffy_ns: jiffy_ns()?,
            strays: settings.strays.into(),
            longest: compiled.longest,
            buckets: settings.buckets(),
            hash_key: settings.hash_key,
            drop_knocks: (settings.knocks == Knocks::Drop).into(),
            trace: settings.trace.into(),
        })
    }

    fn apply<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader
            .override_global(variables::JIFFY_NS, &self.jiffy_ns, true)
            .override_global(variables::STRAYS, &self.strays, true)
            .override_global(variables::LONGEST, &self.longest, true)
            .override_global(variables::BUCKETS, &self.buckets, true)
            .override_global(variables::HASH_KEY_0, &self.hash_key[0], true)
            .override_global(variables::HASH_KEY_1, &self.hash_key[1], true)
            .override_global(variables::DROP_KNOCKS, &self.drop_knocks, true)
            .override_global(variables::TRACE, &self.trace, true);
    }
}

/// Returns the length of a jiffy in nanoseconds: the resolution of the coarse clocks
/// (`clock_getres(2)`).
fn jiffy_ns() -> Result<u64, DetectorError> {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_err(|errno| DetectorError::io("cannot read the length of a jiffy")(errno.into()))?;
    Ok(Duration::from(resolution).as_nanos() as u64)
}

/// Returns free memory to the kernel. Loading takes several MiB for a moment, for the kernel's
/// type information, and the allocator would keep them.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes no pointer and is safe between threads.
    unsafe {
        libc::malloc_trim(0)
    };
}

//! The benchmark's access to the kernel beside the detector: programs run in place, generated
//! traffic, and programs of others.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use aya::maps::Array;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode, loaded_programs};
use aya::{Ebpf, EbpfLoader};
use knock_common::abi::maps::PATTERN;
use knock_common::abi::programs;
use knock_common::traffic::{FRAME, Pattern};

use super::detector::test_run;
use super::object::OBJECT;
use super::syscall::TestRun;
use super::{Detector, DetectorError, maps};

/// A program that [`Detector::bench_run`] can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bench {
    /// The detector.
    Knock,
    /// The detector, after the frame was changed by the pattern.
    VaryKnock,
    /// The program that does nothing.
    Empty,
    /// The program that does nothing, after the frame was changed by the pattern.
    VaryEmpty,
}

impl Bench {
    const fn name(self) -> &'static str {
        match self {
            Self::Knock => programs::FRAGS,
            Self::VaryKnock => programs::VARY_KNOCK,
            Self::Empty => programs::EMPTY,
            Self::VaryEmpty => programs::VARY_EMPTY,
        }
    }
}

impl Detector {
    /// Runs `program` on `frame` as `BPF_PROG_TEST_RUN` does, `repeat` times, with the detector's
    /// maps. Returns the mean duration of a run, in whole nanoseconds.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the program or the frame.
    pub fn bench_run(
        &mut self,
        program: Bench,
        frame: &[u8],
        repeat: u32,
    ) -> Result<Duration, DetectorError> {
        let program = load(&mut self.ebpf, program.name())?;
        Ok(test_run(program, frame, repeat)?.1)
    }

    /// Returns the identifier of the detector's program, for [`run_program`].
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn program_id(&mut self) -> Result<u32, DetectorError> {
        let program = load(&mut self.ebpf, Bench::Knock.name())?;
        Ok(program.info().map_err(DetectorError::from)?.id())
    }

    /// Sets the frames of the varying programs.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub fn set_pattern(&mut self, pattern: Pattern) -> Result<(), DetectorError> {
        set_pattern(&mut self.ebpf, pattern)
    }
}

/// A generator of frames, which sends them out of interfaces.
pub struct Traffic {
    ebpf: Ebpf,
}

impl Traffic {
    /// Frames that the kernel handles at once.
    const BATCH: u32 = 64;

    /// Loads the generator.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn load() -> Result<Self, DetectorError> {
        let mut loader = EbpfLoader::new();
        // None of the detector's maps is used; they stay as small as they are in the object.
        let ebpf = loader.load(OBJECT)?;
        Ok(Self { ebpf })
    }

    /// Sets the frames.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub fn set_pattern(&mut self, pattern: Pattern) -> Result<(), DetectorError> {
        set_pattern(&mut self.ebpf, pattern)
    }

    /// Sends `count` frames made from `frame` out of the interface with this index in the calling
    /// thread's network namespace (live frames, Linux 5.18, b530e9e1063e).
    ///
    /// The kernel does not say which of them the other side took. Its counters do.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the program or the interface.
    pub fn send(
        &mut self,
        interface: u32,
        frame: &[u8; FRAME],
        count: u32,
    ) -> Result<(), DetectorError> {
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index,
        // egress_ifindex.
        let context = [0, FRAME as u32, 0, interface, 0, 0].map(u32::to_ne_bytes).concat();
        let program = load(&mut self.ebpf, programs::VARY_SEND)?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&context);
        options.repeat = count;
        options.attrs = TestRunAttrs::new().xdp_live_frames(Self::BATCH);
        program.test_run(options).map_err(DetectorError::from)?;
        Ok(())
    }
}

/// The program that does nothing, attached in the driver until this is dropped.
pub struct Nothing {
    _ebpf: Ebpf,
}

impl Nothing {
    /// Attaches it to `interface` in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn attach(interface: &str) -> Result<Self, DetectorError> {
        let mut ebpf = EbpfLoader::new().load(OBJECT)?;
        let program = load(&mut ebpf, Bench::Empty.name())?;
        program.attach(interface, XdpMode::Driver).map_err(DetectorError::from)?;
        Ok(Self { _ebpf: ebpf })
    }
}

/// Runs any loaded XDP program as [`Detector::bench_run`] does, on the CPU of the calling thread.
/// Returns `None` if there is no program with this identifier.
///
/// # Errors
///
/// If the kernel refuses the program or the frame.
pub fn run_program(id: u32, frame: &[u8], repeat: u32) -> io::Result<Option<Duration>> {
    let Some(info) = loaded_programs().flatten().find(|program| program.id() == id) else {
        return Ok(None);
    };
    let program = info.fd().map_err(io::Error::other)?;
    // aya has no test run for a program that it knows only by this information.
    let mut run = TestRun::new(program.as_fd(), frame, repeat);
    run.call()?;
    Ok(Some(Duration::from_nanos(run.duration_ns.into())))
}

fn load<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, DetectorError> {
    let program = ebpf.program_mut(name).ok_or(DetectorError::Missing(name))?;
    let program: &mut Xdp = program.try_into().map_err(DetectorError::from)?;
    if program.fd().is_err() {
        program.load().map_err(DetectorError::from)?;
    }
    Ok(program)
}

fn set_pattern(ebpf: &mut Ebpf, pattern: Pattern) -> Result<(), DetectorError> {
    let mut map: Array<_, Pattern> = maps::exclusive(ebpf, PATTERN)?;
    map.set(0, pattern, 0).map_err(DetectorError::map(PATTERN))
}

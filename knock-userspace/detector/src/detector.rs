//! The loaded XDP program with its maps and links.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use aya::Ebpf;
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use knock_common::abi::Edge;
use knock_policy::trie::Trie;
use tracing::warn;

use super::links::Attached;
use super::{DetectorError, Pins, Settings, Totals, pins};

/// The loaded program with its maps and links. Dropping it detaches it everywhere, unless it
/// was pinned and is settled.
pub struct Detector {
    pub(super) ebpf: Ebpf,
    /// Name of the loaded program, one of two.
    pub(super) program: &'static str,
    pub(super) settings: Settings,
    /// Longest `within` of any door of this program, in ticks.
    pub(super) longest: u32,
    /// What the trie's map holds.
    pub(super) trie: Trie,
    /// Edges that the trie's map has room for.
    pub(super) room: usize,
    /// Edges that the program before this one still needs.
    pub(super) stale: Vec<Edge>,
    /// By index of the interface.
    pub(super) links: BTreeMap<u32, Attached>,
    pub(super) pins: Option<Pins>,
    /// Files made for this program. They are removed if it is dropped before it is settled.
    pub(super) created: Vec<PathBuf>,
    /// Whether it has taken over from the program before it.
    pub(super) settled: bool,
    /// What was lost because a pinned map did not fit.
    pub(super) lost: Vec<&'static str>,
}

impl Detector {
    pub(super) fn program(&mut self) -> Result<&mut Xdp, DetectorError> {
        let program =
            self.ebpf.program_mut(self.program).ok_or(DetectorError::Missing("program"))?;
        program.try_into().map_err(DetectorError::from)
    }

    /// Returns how packets have ended so far, summed over all CPUs.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn totals(&self) -> Result<Totals, DetectorError> {
        Totals::read(&self.ebpf)
    }

    /// Runs the program on `frame` as `BPF_PROG_TEST_RUN` does, `repeat` times. Returns its last
    /// verdict and the mean duration of a run.
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
        remove_files(&self.created);
    }
}

pub(super) fn remove_files(paths: &[PathBuf]) {
    for path in paths {
        if let Err(error) = pins::remove(path) {
            warn!(%error, "left behind");
        }
    }
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

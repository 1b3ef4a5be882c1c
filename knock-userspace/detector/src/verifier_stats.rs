//! The size of the loaded program, and how much of it the verifier had to read.

use aya::programs::Program;
use knock_common::abi::programs;

use super::{Detector, DetectorError};

/// Instructions that the verifier reads at most (`BPF_COMPLEXITY_LIMIT_INSNS`).
const LIMIT: u32 = 1_000_000;
/// Kernels differ in how much they read of the same program, so a good part stays free.
const BUDGET: u32 = LIMIT / 3;

/// Statistics of a loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierStats {
    /// Its name.
    pub program: &'static str,
    /// Instructions that the verifier read on all ways through it. Kernels before 5.16
    /// (aba64c7da983) do not say.
    pub verified: Option<u32>,
    /// Its size as the kernel holds it, in bytes.
    pub translated: u32,
    /// Its machine code, in bytes.
    pub machine_code: u32,
}

impl VerifierStats {
    /// Instructions that it may cost at most.
    pub const BUDGET: u32 = BUDGET;
    /// Instructions that the kernel allows.
    pub const LIMIT: u32 = LIMIT;
}

impl Detector {
    /// Returns what the kernel says of the loaded program.
    ///
    /// # Errors
    ///
    /// If it does not say.
    pub fn verifier_stats(&self) -> Result<VerifierStats, DetectorError> {
        for name in [programs::FRAGS, programs::SINGLE_BUFFER] {
            let Some(Program::Xdp(program)) = self.ebpf.program(name) else { continue };
            if program.fd().is_err() {
                continue;
            }
            let info = program.info().map_err(DetectorError::from)?;
            return Ok(VerifierStats {
                program: name,
                verified: info.verified_instruction_count(),
                translated: info.size_translated().unwrap_or(0),
                machine_code: info.size_jitted(),
            });
        }
        Err(DetectorError::Missing("loaded program"))
    }
}

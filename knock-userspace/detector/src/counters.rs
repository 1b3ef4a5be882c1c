//! The counters, summed over all CPUs.

use aya::Ebpf;
use aya::maps::PerCpuArray;
use knock_common::abi::maps::COUNTERS;
use knock_common::counters::{Counter, Counters};

use super::{DetectorError, maps};

/// Numbers of packets by how they ended, over all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals([u64; Counter::COUNT]);

impl Totals {
    pub(super) fn read(ebpf: &Ebpf) -> Result<Self, DetectorError> {
        let map: PerCpuArray<_, Counters> = maps::shared(ebpf, COUNTERS)?;
        let per_cpu = map.get(&0, 0).map_err(DetectorError::map(COUNTERS))?;
        let mut totals = [0u64; Counter::COUNT];
        for Counters(counters) in per_cpu.iter() {
            for (total, counter) in totals.iter_mut().zip(counters) {
                *total += counter;
            }
        }
        Ok(Self(totals))
    }

    /// Returns the number of packets that ended in `counter`.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter.index()]
    }

    /// Returns the number of packets seen. Each ends in one counter.
    pub fn packets(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns every counter that is not zero, with its name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Counter::all().map(|counter| (counter.name(), self.get(counter))).filter(|(_, n)| *n > 0)
    }
}

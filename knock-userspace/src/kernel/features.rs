//! What the detector needs of the kernel, and which of it a kernel lacks.

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported};

/// Something that not every kernel has.
struct Feature {
    name: &'static str,
    /// First version of Linux that has it, and the commit that brought it.
    since: &'static str,
    present: fn() -> bool,
}

/// A probe that fails to answer does not count as a lack: the kernel's own error then
/// says more.
const NEEDED: [Feature; 4] = [
    Feature {
        name: "LRU hash maps",
        since: "4.10, 29ba732acbee",
        present: || is_map_supported(MapType::LruHash).unwrap_or(true),
    },
    Feature {
        name: "the BPF ring buffer",
        since: "5.8, 457f44363a88",
        present: || is_map_supported(MapType::RingBuf).unwrap_or(true),
    },
    Feature {
        name: "the coarse clock for BPF",
        since: "5.11, d05512618056",
        present: || {
            let helper = BpfHelper::BPF_FUNC_ktime_get_coarse_ns;
            is_helper_supported(ProgramType::Xdp, helper).unwrap_or(true)
        },
    },
    Feature {
        // Atomic instructions (5.12, 5ffa25502b5a) have no probe. This stands for them:
        // it came with the floor.
        name: "what the floor of 5.15 brought to BPF (timers, as a sign)",
        since: "5.15, b00628b1c7d5",
        present: || {
            let helper = BpfHelper::BPF_FUNC_timer_init;
            is_helper_supported(ProgramType::SocketFilter, helper).unwrap_or(true)
        },
    },
];

/// The needed features that the running kernel lacks, each with the version that
/// brought it.
pub(super) fn missing() -> Vec<String> {
    let lacking = NEEDED.iter().filter(|feature| !(feature.present)());
    lacking.map(|feature| format!("{} (since Linux {})", feature.name, feature.since)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_is_below_the_floor_or_at_it() {
        for feature in &NEEDED {
            let version = feature.since.split(',').next().expect("a version");
            let (major, minor) = version.split_once('.').expect("major.minor");
            let version: (u32, u32) = (major.parse().unwrap(), minor.parse().unwrap());
            assert!(version <= (5, 15), "{}", feature.name);
        }
    }
}

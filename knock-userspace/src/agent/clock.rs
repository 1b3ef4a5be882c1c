//! The clocks that count.

use std::time::Duration;

pub(super) use knock_firewall::since_boot;
use nix::time::{ClockId, clock_gettime};

/// The clock of events.
pub(super) fn monotonic() -> Duration {
    read(ClockId::CLOCK_MONOTONIC)
}

/// The time of day, in nanoseconds since 1970. Only knocks with keys go by it.
pub(super) fn wall_ns() -> u64 {
    u64::try_from(read(ClockId::CLOCK_REALTIME).as_nanos()).unwrap_or(u64::MAX)
}

fn read(clock: ClockId) -> Duration {
    // clock_gettime(2) fails for clocks that a kernel does not have; these are older than
    // everything else here.
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

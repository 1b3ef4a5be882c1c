//! The clocks that the agent reads.

use std::time::Duration;

pub(super) use knock_firewall::since_boot;
use nix::time::{ClockId, clock_gettime};

/// Returns the time on the clock that events are stamped with.
pub(super) fn monotonic() -> Duration {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Returns how long an event has waited since `time_ns` on the clock of events.
pub(super) fn waited(time_ns: u64) -> Duration {
    monotonic().saturating_sub(Duration::from_nanos(time_ns))
}

/// Returns the time of day, in nanoseconds since 1970. Only keyed knocks go by it.
pub(super) fn wall_ns() -> u64 {
    u64::try_from(read(ClockId::CLOCK_REALTIME).as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the time of day in whole seconds since 1970.
pub(super) fn wall_s() -> u64 {
    wall_ns() / 1_000_000_000
}

fn read(clock: ClockId) -> Duration {
    // clock_gettime(2) fails for clocks that a kernel lacks. Every kernel with BPF has these.
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

//! The wall clock, the only one by which two hosts can compare times.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the time of day in nanoseconds since 1970, 0 for a clock that is set before.
pub fn wall_clock_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the time of day in seconds since 1970, 0 for a clock that is set before.
pub fn wall_clock_s() -> u64 {
    wall_clock_ns() / 1_000_000_000
}

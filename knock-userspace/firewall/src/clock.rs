//! The clock by which trials and grants end.
//!
//! A timeout of a set element is a time that remains, when it is written and when it is read. This
//! crate converts it where the netlink message is made or read, and its callers know moments only. A
//! remaining time that a caller kept while something slow happened would become a later end.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Returns the time since boot (`CLOCK_BOOTTIME`), which goes on while the host sleeps. It cannot be
/// set, so a change of the wall clock moves no end.
pub fn since_boot() -> Duration {
    // clock_gettime(2) fails only for clocks that the kernel does not have. Every kernel that has
    // nftables has this one.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

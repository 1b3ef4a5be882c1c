//! The log lines about knocks and grants. Their rate is limited, because a flood of knocks must not
//! become a flood of log lines.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use knock_keys::Action;
use knock_policy::{Door, Grant};
use tracing::{error, info, warn};

use super::grants::{Earned, Refused};
use crate::keyring::DenialReason;

/// The lines of one kind.
struct Lines {
    limiter: DefaultDirectRateLimiter,
    left_out: u64,
}

impl Lines {
    /// Allows up to `burst` lines at once, and `per_second` in the long run.
    fn new(per_second: u32, burst: u32) -> Self {
        let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(per_second)).allow_burst(at_least_one(burst));
        Self { limiter: RateLimiter::direct(quota), left_out: 0 }
    }

    /// Whether one more line may be written. A line that may not is counted.
    fn may_write(&mut self, kind: &str) -> bool {
        if self.limiter.check().is_err() {
            self.left_out += 1;
            return false;
        }
        self.report_left_out(kind);
        true
    }

    /// Logs how many lines were left out, if any were.
    fn report_left_out(&mut self, kind: &str) {
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 0 {
            warn!(left_out, what = kind, "too many log lines");
        }
    }
}

/// Writes every log line about a knock or a grant.
pub(super) struct Journal {
    opened: Lines,
    closed: Lines,
    refused: Lines,
    late: Lines,
    admitted: Lines,
    denied: Lines,
    lost: Lines,
    event_lost: u64,
    /// Completed knocks that opened nothing because they had waited too long.
    late_total: u64,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            opened: Lines::new(100, 1000),
            closed: Lines::new(100, 1000),
            refused: Lines::new(1, 20),
            late: Lines::new(1, 20),
            admitted: Lines::new(100, 1000),
            denied: Lines::new(1, 20),
            lost: Lines::new(1, 5),
            event_lost: 0,
            late_total: 0,
        }
    }
}

impl Journal {
    /// `door` is its name, if the policy still has it.
    pub(super) fn opened(&mut self, door: Option<&str>, earned: &Earned, left: Duration) {
        if !self.opened.may_write("opened") {
            return;
        }
        let until = std::time::SystemTime::now() + left;
        info!(
            door,
            source = %earned.grant.source,
            service = %earned.grant.service,
            until = %humantime::format_rfc3339_seconds(until),
            extended = earned.extended(),
            "opened"
        );
    }

    pub(super) fn closed(&mut self, door: Option<&str>, grant: Grant) {
        if self.closed.may_write("closed") {
            info!(door, source = %grant.source, service = %grant.service, "closed");
        }
    }

    pub(super) fn refused(&mut self, door: &Door, source: IpAddr, why: Refused) {
        if self.refused.may_write("refused") {
            warn!(door = door.name, %source, reason = %why, "refused");
        }
    }

    /// Logs and counts a knock that had waited too long when the agent read it.
    pub(super) fn late(&mut self, door: &Door, source: IpAddr, waited: Duration) {
        self.late_total += 1;
        if self.late.may_write("late") {
            let waited = humantime::format_duration(Duration::from_millis(
                u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
            ));
            warn!(door = door.name, %source, %waited, "late: opens nothing; knock again");
        }
    }

    /// Logs a keyed knock that may do what it asks for.
    pub(super) fn admitted(
        &mut self,
        key: &str,
        from: IpAddr,
        source: IpAddr,
        action: Action,
        doors: &str,
    ) {
        if self.admitted.may_write("knocked with a key") {
            let action = match action {
                Action::Open => "open",
                Action::Close => "close",
            };
            info!(key, %from, %source, action, doors, "knocked with a key");
        }
    }

    /// Logs a keyed knock that may not do what it asks for. Without a key's name, any host can have
    /// sent it.
    pub(super) fn denied(&mut self, key: Option<&str>, from: IpAddr, why: &DenialReason) {
        if self.denied.may_write("denied") {
            warn!(key, %from, reason = %why, "denied");
        }
    }

    /// Logs a knock on a door that was removed while the knock was under way.
    pub(super) fn door_removed(&mut self, source: IpAddr) {
        if self.late.may_write("late") {
            warn!(%source, "knocked on a door that is no more");
        }
    }

    pub(super) fn failed(&mut self, grants: usize, why: &dyn std::error::Error) {
        if self.refused.may_write("refused") {
            error!(lost = grants, error = %why, "grants refused by the kernel; knock again");
        }
    }

    /// Logs how many completed knocks have found the ring buffer full, if they have become more.
    /// Their tracks are kept, so the last step alone completes them again.
    pub(super) fn event_lost(&mut self, so_far: u64) {
        let new = so_far.saturating_sub(self.event_lost);
        if new > 0 && self.lost.may_write("lost") {
            self.event_lost = so_far;
            warn!(
                new,
                so_far, "knocks came faster than they were read; their last step counts again"
            );
        }
    }

    /// Returns how many completed knocks opened nothing because they had waited too long.
    pub(super) const fn late_total(&self) -> u64 {
        self.late_total
    }

    /// Logs how many lines were left out since the last one of each kind, when the agent stops.
    pub(super) fn finish(&mut self) {
        self.opened.report_left_out("opened");
        self.closed.report_left_out("closed");
        self.refused.report_left_out("refused");
        self.late.report_left_out("late");
        self.admitted.report_left_out("knocked with a key");
        self.denied.report_left_out("denied");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_lines_become_a_burst_and_a_count() {
        let mut lines = Lines::new(1, 20);
        let written = (0..1_000_000).filter(|_| lines.may_write("test")).count();
        assert!((20..40).contains(&written), "{written}");
        assert!(lines.left_out > 900_000);
    }
}

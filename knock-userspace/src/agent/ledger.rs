//! The grant ledger: from completed knocks to grants, and the end of each.
//!
//! Two orders hold here and nowhere else:
//!
//! - **Record before ring.** [`GrantLedger::take`] and [`GrantLedger::open`] return when what they
//!   granted is on record. Only then does the event leave the ring buffer, so an agent that is
//!   killed in between finds the event or the record.
//! - **Record before table.** What the table gets comes from [`GrantLedger::next_batch`], which
//!   hands out what is on record. What leaves the table leaves the record first
//!   ([`GrantLedger::end`]), so that no later agent brings it back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use knock_common::event::Event;
use knock_common::sequence::DoorId;
use knock_detector::{DetectorError, GrantRecord, Recorded};
use knock_firewall::{FirewallError, TimedGrant};
use knock_policy::{Door, Grant, Policy};
use tracing::warn;

use super::active_policy::ActivePolicy;
use super::clock;
use super::expiry_queue::ExpiryQueue;
use super::grants::{Earned, Grants, Refused, RunningGrant};
use super::journal::Journal;

/// The most grants that one transaction gets. A transaction holds up everything that comes after
/// it.
pub(super) const BATCH: usize = 16_384;
/// The most grants that wait for a transaction. More knocks stay in the ring buffer.
const MOST_PENDING: usize = 1 << 18;
/// By how much an element may outlive the time that it was given: the longest jiffy, in which the
/// kernel counts, and the shortest time that is given at all.
const SLACK: Duration = Duration::from_millis(30);
/// The longest time that a grant can have left: what a door gives, or an owner by hand. More was
/// not given by an agent.
pub(super) const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Running grants, their record, and those on their way to the table.
pub(super) struct GrantLedger {
    grants: Grants,
    record: GrantRecord,
    /// Grants on record that are not in the table yet.
    pending: Vec<Earned>,
    expiry_queue: ExpiryQueue,
    journal: Journal,
    /// Whether the record has refused a grant for want of room.
    record_is_full: bool,
}

impl GrantLedger {
    pub(super) fn new(record: GrantRecord) -> Self {
        Self {
            grants: Grants::default(),
            record,
            pending: Vec::new(),
            expiry_queue: ExpiryQueue::default(),
            journal: Journal::default(),
            record_is_full: false,
        }
    }

    /// Takes a completed static sequence. What it earns is on record when this returns.
    pub(super) fn take(&mut self, policy: &ActivePolicy, event: Event) {
        let source = IpAddr::from(event.source);
        let waited = clock::waited(event.time_ns);
        let Some(door) = policy.door_by_id(event.door) else {
            return self.journal.door_removed(source);
        };
        if waited > policy.late_grants {
            return self.journal.late(door, source, waited);
        }
        if let Err(why) = self.open(policy, door, source, door.open_for) {
            self.journal.refused(door, source, why);
        }
    }

    /// Opens a door for a source. What it earns is on record when this returns.
    ///
    /// # Errors
    ///
    /// If the source or the door has as many grants as the policy allows.
    pub(super) fn open(
        &mut self,
        policy: &ActivePolicy,
        door: &Door,
        source: IpAddr,
        lasts: Duration,
    ) -> Result<Vec<Earned>, Refused> {
        let now = clock::since_boot();
        self.end_overdue(policy, door, source, now);
        let earned = self.grants.earn(policy, door, source, lasts, now)?;
        for &Earned { grant, door, until, .. } in &earned {
            self.write(&grant, RunningGrant { door, until });
        }
        self.pending.extend(earned.iter().copied());
        Ok(earned)
    }

    /// Ends the source's grants of this door whose time is over, although their timer has not gone
    /// off yet. They are not extended, and count for no limit.
    fn end_overdue(&mut self, policy: &ActivePolicy, door: &Door, source: IpAddr, now: Duration) {
        for &service in &door.opens {
            let grant = Grant { source, service };
            if self.grants.until(&grant).is_some_and(|until| until <= now) {
                self.expire(policy, grant, now);
            }
        }
    }

    fn write(&mut self, grant: &Grant, RunningGrant { door, until }: RunningGrant) {
        match self.record.put(grant, Recorded { door, until }) {
            Ok(()) => self.record_is_full = false,
            Err(error) if !self.record_is_full => {
                self.record_is_full = true;
                warn!(%error, "grants are not on record: a restart may not know them");
            }
            Err(_) => {}
        }
    }

    fn erase(&mut self, grant: &Grant) {
        if let Err(error) = self.record.remove(grant) {
            warn!(%error, "a grant that has ended stays on record");
        }
    }

    /// Takes over a grant that was running before this agent was.
    pub(super) fn adopt(&mut self, grant: Grant, running: RunningGrant) {
        self.grants.adopt(grant, running);
        self.write(&grant, running);
    }

    /// Takes over what is on record and still running at `now`. The rest is erased.
    ///
    /// # Errors
    ///
    /// If the record cannot be read.
    pub(super) fn adopt_recorded(&mut self, now: Duration) -> Result<(), DetectorError> {
        for (grant, Recorded { door, until }) in self.record.all()? {
            if until > now && until - now <= LONGEST {
                self.grants.adopt(grant, RunningGrant { door, until });
            } else {
                self.erase(&grant);
            }
        }
        Ok(())
    }

    /// Whether so many grants wait for the table that knocks stay in the ring buffer.
    pub(super) fn is_busy(&self) -> bool {
        self.pending.len() >= MOST_PENDING
    }

    /// Returns how many grants wait for the table.
    pub(super) const fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Takes the next grants that the table shall get, oldest first.
    pub(super) fn next_batch(&mut self) -> Vec<Earned> {
        self.pending.drain(..self.pending.len().min(BATCH)).collect()
    }

    /// Notes that the table has these grants since `begun`, counted from boot: their elements run
    /// from then on.
    pub(super) fn granted(&mut self, policy: &ActivePolicy, earned: Vec<Earned>, begun: Duration) {
        let now = clock::since_boot();
        for granted in earned {
            // A grant may have been revoked while the transaction ran.
            if self.grants.until(&granted.grant).is_none() {
                continue;
            }
            // With slack, so that the log does not say `closed` before the port is.
            self.expiry_queue.set(granted.grant, granted.until.saturating_sub(begun) + SLACK);
            let left = granted.until.saturating_sub(now);
            self.journal.opened(policy.door_name(granted.door), &granted, left);
        }
    }

    /// Undoes grants that the table refused, on record too.
    pub(super) fn undo(&mut self, policy: &ActivePolicy, earned: Vec<Earned>, why: &FirewallError) {
        self.journal.failed(earned.len(), why);
        // In reverse order, because the same grant may have been earned twice.
        for refused in earned.into_iter().rev() {
            self.grants.undo(refused);
            match refused.before {
                Some(running) => {
                    self.write(&refused.grant, running);
                    // A restoration meanwhile may have set the timer to the end that was refused.
                    let left = running.until.saturating_sub(clock::since_boot());
                    self.expiry_queue.set(refused.grant, left + SLACK);
                }
                None => self.erase(&refused.grant),
            }
            // Its timer may have gone off while it counted as extended.
            self.close_overdue(policy, refused.grant);
        }
    }

    /// Waits until the time of a grant is over, and returns that grant. Cancel safe: a grant that
    /// is not returned stays.
    pub(super) async fn next_expired(&mut self) -> Grant {
        self.expiry_queue.next().await
    }

    /// Ends a grant whose timer has gone off, unless it was extended since.
    pub(super) fn close_overdue(&mut self, policy: &ActivePolicy, grant: Grant) {
        // The timer wheel counts milliseconds and may be early by less than one.
        self.expire(policy, grant, clock::since_boot() + Duration::from_millis(1));
    }

    fn expire(&mut self, policy: &ActivePolicy, grant: Grant, now: Duration) {
        if let Some(ended) = self.grants.expire(grant, now) {
            self.erase(&grant);
            self.expiry_queue.remove(&grant);
            self.closed(policy, grant, ended);
        }
    }

    /// Ends a grant before its time and returns it as it was running, or `None` if it was not. The
    /// table must lose it after this, not before.
    pub(super) fn end(&mut self, grant: Grant) -> Option<RunningGrant> {
        self.expiry_queue.remove(&grant);
        let ended = self.grants.end(grant)?;
        self.erase(&grant);
        Some(ended)
    }

    /// Logs that a grant is out of the table.
    pub(super) fn closed(&mut self, policy: &ActivePolicy, grant: Grant, ended: RunningGrant) {
        self.journal.closed(policy.door_name(ended.door), grant);
    }

    /// Sets the timer of every grant, for elements whose time began at `begun`, counted from boot.
    pub(super) fn set_all_timers(&mut self, begun: Duration) {
        for (grant, running) in self.grants.iter() {
            self.expiry_queue.set(grant, running.until.saturating_sub(begun) + SLACK);
        }
    }

    /// Sets the timers of these grants, for elements whose time began at `begun`, counted from
    /// boot.
    pub(super) fn set_timers(&mut self, grants: &[Grant], begun: Duration) {
        for grant in grants {
            if let Some(until) = self.grants.until(grant) {
                self.expiry_queue.set(*grant, until.saturating_sub(begun) + SLACK);
            }
        }
    }

    /// Returns the running grants that the table does not hold for the time that they run, with
    /// their ends. An agent that was killed may have written more on record than it could do.
    pub(super) fn missing(&self, in_table: &[TimedGrant]) -> Vec<TimedGrant> {
        /// How far the two ends of one grant may lie apart. The agent reads its clock after the
        /// kernel has answered, so the table seems to end later rather than earlier.
        const LESS: Duration = Duration::from_millis(100);
        const MORE: Duration = Duration::from_secs(2);
        let now = clock::since_boot();
        let held: HashMap<_, _> = in_table.iter().map(|timed| (timed.grant, timed.until)).collect();
        let right = |grant: &Grant, running: &RunningGrant| {
            let canonical = Grant { source: grant.source.to_canonical(), ..*grant };
            held.get(&canonical).is_some_and(|&end| {
                running.until <= end.saturating_add(LESS)
                    && end <= running.until.saturating_add(MORE)
            })
        };
        let running = self.grants.iter().filter(|(_, running)| running.until > now);
        let lost = running.filter(|(grant, running)| !right(grant, running));
        lost.map(|(grant, running)| TimedGrant { grant, until: running.until }).collect()
    }

    /// Returns the grants of the table that no knock has earned.
    pub(super) fn unearned(&self, in_table: &[TimedGrant]) -> Vec<Grant> {
        let grants = in_table.iter().map(|timed| timed.grant);
        grants.filter(|grant| self.grants.until(grant).is_none()).collect()
    }

    /// Returns the grants whose time is over at `now`.
    pub(super) fn overdue(&self, now: Duration) -> Vec<Grant> {
        let over = self.grants.iter().filter(|(_, running)| running.until <= now);
        over.map(|(grant, _)| grant).collect()
    }

    /// Returns the grants that `policy` does not give any more.
    pub(super) fn no_longer_allowed(&self, policy: &Policy) -> Vec<Grant> {
        self.grants.no_longer_allowed(policy)
    }

    /// Iterates over every grant that has been earned and has not ended.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Grant, RunningGrant)> {
        self.grants.iter()
    }

    /// Returns when a grant ends, counted from boot, or `None` if it is not running.
    pub(super) fn until(&self, grant: &Grant) -> Option<Duration> {
        self.grants.until(grant)
    }

    /// Returns how many running grants a door has given.
    pub(super) fn given_by(&self, door: DoorId) -> usize {
        self.grants.given_by(door)
    }

    pub(super) fn len(&self) -> usize {
        self.grants.len()
    }

    /// Returns the journal, for log lines about knocks.
    pub(super) const fn journal(&mut self) -> &mut Journal {
        &mut self.journal
    }

    /// Returns how many completed knocks opened nothing because they had waited too long.
    pub(super) const fn late(&self) -> u64 {
        self.journal.late_total()
    }
}

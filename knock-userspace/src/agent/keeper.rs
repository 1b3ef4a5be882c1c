//! From completed knocks to grants, written down before anything else happens to them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use knock_common::event::Event;
use knock_common::sequence::DoorId;
use knock_detector::{DetectorError, Record, Recorded};
use knock_policy::{Door, Grant, Policy};
use tracing::warn;

use super::clock;
use super::grants::{Earned, Grants, Refused, Running};
use super::journal::Journal;

/// The policy, the grants that it has led to, and their record.
pub(super) struct Keeper {
    pub policy: Policy,
    /// Places of the doors in the policy.
    places: HashMap<DoorId, usize>,
    pub grants: Grants,
    pub record: Record,
    pub journal: Journal,
    /// Earned, and on their way to the kernel's table.
    pub pending: Vec<Earned>,
    /// Whether the record has refused a grant for want of room.
    full: bool,
}

impl Keeper {
    pub(super) fn new(policy: Policy, record: Record) -> Self {
        let mut keeper = Self {
            policy: Policy::default(),
            places: HashMap::new(),
            grants: Grants::default(),
            record,
            journal: Journal::default(),
            pending: Vec::new(),
            full: false,
        };
        keeper.set_policy(policy);
        keeper
    }

    pub(super) fn set_policy(&mut self, policy: Policy) {
        self.places = policy.doors.iter().enumerate().map(|(at, door)| (door.id(), at)).collect();
        self.policy = policy;
    }

    pub(super) fn door(&self, id: DoorId) -> Option<&Door> {
        self.policy.doors.get(*self.places.get(&id)?)
    }

    /// Takes a completed knock. When this returns, what it earned is on record: should this
    /// process be killed, the next one goes on with it.
    pub(super) fn take(&mut self, event: Event) {
        let source = IpAddr::from(event.source);
        let waited = clock::monotonic().saturating_sub(Duration::from_nanos(event.time_ns));
        let Some(&at) = self.places.get(&event.door) else {
            return self.journal.doorless(source);
        };
        let door = &self.policy.doors[at];
        if waited > self.policy.late_grants {
            return self.journal.late(door, source, waited);
        }
        let now = clock::since_boot();
        self.end_over(at, source, now);
        let door = &self.policy.doors[at];
        match self.grants.earn(&self.policy, door, source, door.open_for, now) {
            Ok(earned) => self.write_down(earned),
            Err(why) => self.journal.refused(door, source, why),
        }
    }

    /// Ends what a source was given by this door if its time is over, though its timer has not
    /// gone off yet: it is no longer extended, and counts for no limit.
    fn end_over(&mut self, at: usize, source: IpAddr, now: Duration) {
        let services = self.policy.doors[at].opens.iter();
        let over: Vec<_> = services
            .map(|&service| Grant { source, service })
            .filter(|grant| self.grants.until(grant).is_some_and(|until| until <= now))
            .collect();
        for grant in over {
            self.expire(grant, now);
        }
    }

    /// Opens a door for a source because the owner says so.
    pub(super) fn open(
        &mut self,
        name: &str,
        source: IpAddr,
        lasts: Duration,
    ) -> Option<Result<Vec<Earned>, Refused>> {
        let now = clock::since_boot();
        let at = *self.places.get(&self.policy.door(name)?.id())?;
        self.end_over(at, source, now);
        let door = &self.policy.doors[at];
        let earned = self.grants.earn(&self.policy, door, source, lasts, now);
        Some(earned.inspect(|earned| self.write_down(earned.clone())))
    }

    /// Opens a door for a source because a knock with a key says so.
    pub(super) fn knocked(&mut self, name: &str, source: IpAddr, lasts: Duration) {
        if let Some(Err(why)) = self.open(name, source, lasts)
            && let Some(door) = self.policy.door(name)
        {
            self.journal.refused(door, source, why);
        }
    }

    fn write_down(&mut self, earned: Vec<Earned>) {
        for one in &earned {
            let running = Running { door: one.door, until: one.until };
            self.put(&one.grant, running);
        }
        self.pending.extend(earned);
    }

    fn put(&mut self, grant: &Grant, Running { door, until }: Running) {
        match self.record.put(grant, Recorded { door, until }) {
            Ok(()) => self.full = false,
            Err(error) if !self.full => {
                self.full = true;
                warn!(%error, "grants are not on record: a restart may not know them");
            }
            Err(_) => {}
        }
    }

    /// Takes down a grant that was running before this agent was.
    pub(super) fn adopt(&mut self, grant: Grant, running: Running) {
        self.grants.adopt(grant, running);
        self.put(&grant, running);
    }

    /// Undoes what the kernel's table refused.
    pub(super) fn take_back(&mut self, earned: Earned) {
        self.grants.take_back(earned);
        match earned.before {
            Some(running) => self.put(&earned.grant, running),
            None => self.forget(&earned.grant),
        }
    }

    /// Ends a grant, whose time may not be over; what was running.
    pub(super) fn end(&mut self, grant: Grant) -> Option<Running> {
        let ended = self.grants.end(grant)?;
        self.forget(&grant);
        Some(ended)
    }

    /// Ends a grant if its time is over.
    pub(super) fn expire(&mut self, grant: Grant, now: Duration) -> bool {
        let Some(ended) = self.grants.expire(grant, now) else { return false };
        self.forget(&grant);
        self.closed(grant, ended);
        true
    }

    /// Says that a grant is out of the table.
    pub(super) fn closed(&mut self, grant: Grant, Running { door, .. }: Running) {
        let name = self.places.get(&door).map(|&at| self.policy.doors[at].name.as_str());
        self.journal.closed(name, grant);
    }

    /// Says that a grant is in place.
    pub(super) fn opened(&mut self, earned: &Earned, left: Duration) {
        let name = self.places.get(&earned.door).map(|&at| self.policy.doors[at].name.as_str());
        self.journal.opened(name, earned, left);
    }

    fn forget(&mut self, grant: &Grant) {
        if let Err(error) = self.record.remove(grant) {
            warn!(%error, "a grant that has ended stays on record");
        }
    }

    /// What the record knows of grants that are still running at `now`; others are removed.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(super) fn recorded(
        &mut self,
        now: Duration,
    ) -> Result<Vec<(Grant, Running)>, DetectorError> {
        let mut running = Vec::new();
        for (grant, Recorded { door, until }) in self.record.grants()? {
            if until > now {
                running.push((grant, Running { door, until }));
            } else {
                self.forget(&grant);
            }
        }
        Ok(running)
    }
}

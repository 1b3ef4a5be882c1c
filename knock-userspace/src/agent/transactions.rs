//! Grants on their way into the kernel's table, and their ends.

use std::time::Duration;

use knock_firewall::{Firewall, FirewallError, TimedGrant};
use knock_policy::Grant;
use tokio::task::JoinHandle;

use super::grants::{Earned, Running};
use super::{Agent, BATCH, clock};

/// A firewall transaction on its way. It gives the socket back when it is done.
pub(super) type Transaction = JoinHandle<Done>;
/// What came of it.
pub(super) struct Done {
    firewall: Firewall,
    earned: Vec<Earned>,
    result: Result<(), FirewallError>,
    /// A moment, since boot, before what remains to its elements was worked out. They run from the
    /// moment at which the kernel has them.
    begun: Duration,
}

/// By how much an element may outlive the time it was given: the longest jiffy, in which the kernel
/// counts, and the shortest time that is given at all.
const SLACK: Duration = Duration::from_millis(30);

impl Agent {
    /// Starts a transaction for everything that waits, if none is under way.
    pub(super) fn begin(&mut self) {
        let pending = &mut self.keeper.pending;
        if pending.is_empty() {
            return;
        }
        let Some(mut firewall) = self.firewall.take() else { return };
        // A transaction of bounded size: it holds up everyone who comes after it.
        let earned: Vec<_> = pending.drain(..pending.len().min(BATCH)).collect();
        self.transaction = Some(tokio::task::spawn_blocking(move || {
            let begun = clock::since_boot();
            let timed: Vec<_> = earned
                .iter()
                .map(|one| TimedGrant { grant: one.grant, until: one.until })
                .collect();
            let result = firewall.grant(&timed);
            Done { firewall, earned, result, begun }
        }));
    }

    /// Notes and logs what a transaction has done.
    pub(super) fn conclude(&mut self, done: Done) {
        let Done { firewall, earned, result, begun } = done;
        self.firewall = Some(firewall);
        self.transaction = None;
        match result {
            Ok(()) => {}
            // It is being restored, and what is on record comes with it.
            Err(FirewallError::NoTable) => {}
            // The same, only that nobody has begun with it.
            Err(error) if error.is_full() => self.restore_at = Some(clock::since_boot()),
            Err(error) => {
                if !matches!(error, FirewallError::Refused { .. }) {
                    // Nobody knows what the kernel has made of it.
                    self.restore_soon();
                }
                self.keeper.journal.failed(earned.len(), &error);
                for one in earned.into_iter().rev() {
                    self.keeper.take_back(one);
                    // Its timer may have gone off while it seemed to be extended.
                    self.close(one.grant);
                }
                return;
            }
        }
        let now = clock::since_boot();
        for one in earned {
            // It may have been revoked while it was on its way.
            if self.keeper.grants.until(&one.grant).is_some() {
                let left = one.until.saturating_sub(now);
                // The log says that the port is closed when it is.
                self.set_timer(one.grant, one.until.saturating_sub(begun) + SLACK);
                self.keeper.opened(&one, left);
            }
        }
    }

    /// The firewall, once the transaction under way is through.
    pub(super) async fn firewall(&mut self) -> &mut Firewall {
        loop {
            if self.transaction.is_some() {
                let done = finished(&mut self.transaction).await;
                self.conclude(done);
            }
            if self.firewall.is_some() {
                break;
            }
        }
        self.firewall.as_mut().expect("no transaction has it")
    }

    /// Waits until every grant that has been earned is in the table.
    pub(super) async fn flush(&mut self) {
        loop {
            self.begin();
            self.firewall().await;
            if self.keeper.pending.is_empty() {
                return;
            }
        }
    }

    fn set_timer(&mut self, grant: Grant, left: Duration) {
        match self.timers.get(&grant) {
            Some(timer) => self.ends.reset(timer, left),
            None => _ = self.timers.insert(grant, self.ends.insert(grant, left)),
        }
    }

    /// For grants that were running before this agent was, and those that were put into the table
    /// again. `begun` is a moment, since boot, before what remains to them was worked out.
    pub(super) fn set_all_timers(&mut self, begun: Duration) {
        let running: Vec<_> = self.keeper.grants.iter().collect();
        for (grant, running) in running {
            self.set_timer(grant, running.until.saturating_sub(begun) + SLACK);
        }
    }

    /// Notes that a grant has ended, unless it was extended meanwhile.
    pub(super) fn close(&mut self, grant: Grant) {
        // The timer wheel works in milliseconds and may be early by less than one.
        let now = clock::since_boot() + Duration::from_millis(1);
        if self.keeper.expire(grant, now)
            && let Some(timer) = self.timers.remove(&grant)
        {
            self.ends.remove(&timer);
        }
    }

    /// Ends grants before their time, in the table too.
    pub(super) async fn revoke(&mut self, grants: &[Grant]) -> Result<(), FirewallError> {
        self.flush().await;
        // Out of the record first: whoever is killed now must not bring them back.
        let mut ended = Vec::new();
        for grant in grants {
            ended.extend(self.keeper.end(*grant).map(|running| (*grant, running)));
            if let Some(timer) = self.timers.remove(grant) {
                self.ends.remove(&timer);
            }
        }
        match self.firewall().await.revoke(grants) {
            // Without a table, it is being restored without them.
            Ok(()) | Err(FirewallError::NoTable) => {}
            Err(error) => return Err(error),
        }
        for (grant, running) in ended {
            self.keeper.closed(grant, running);
        }
        Ok(())
    }

    /// The kernel's timeouts stand still while the host sleeps. A trial or grant whose time was over
    /// meanwhile ends now, and the others get the time that remains to them.
    pub(super) async fn after_jump(&mut self) {
        if self.trial.is_some()
            && let Err(error) = self.install(self.ruleset.clone()).await
        {
            tracing::error!(%error, "without this agent the trial may outlive its time by as long as the host slept");
        }
        let now = clock::since_boot();
        let over = self.keeper.grants.iter().filter(|(_, running)| running.until <= now);
        let over: Vec<_> = over.map(|(grant, _)| grant).collect();
        if !over.is_empty()
            && let Err(error) = self.revoke(&over).await
        {
            tracing::error!(%error, "grants whose time is over could not be ended");
        }
        let timed = |(grant, Running { until, .. })| TimedGrant { grant, until };
        let running: Vec<_> = self.keeper.grants.iter().map(timed).collect();
        let firewall = self.firewall().await;
        let begun = clock::since_boot();
        if let Err(error) = firewall.grant(&running) {
            tracing::error!(%error, "grants may outlive their time by as long as the host slept");
            self.restore_soon();
        }
        self.set_all_timers(begun);
    }
}

/// Waits for the transaction under way, for ever if there is none.
pub(super) async fn finished(transaction: &mut Option<Transaction>) -> Done {
    match transaction {
        Some(handle) => match handle.await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        },
        None => std::future::pending().await,
    }
}

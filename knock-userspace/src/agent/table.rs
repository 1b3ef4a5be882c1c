//! The agent's side of the table `inet xknock`: what it should hold, and the one way to change it.
//!
//! At most one transaction with grants is under way, on a thread of its own: a large one takes
//! hundreds of milliseconds, and the event loop goes on reading knocks meanwhile. Everything else
//! waits for it first and then runs on the event loop, because it is short or because nothing may
//! happen before it is done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use knock_firewall::{Culprit, Firewall, FirewallError, Ruleset, Status, TimedGrant};
use knock_policy::Grant;
use tokio::task::JoinHandle;
use tracing::{error, warn};

use super::active_policy::ActivePolicy;
use super::clock;
use super::enforcement::Enforcement;
use super::grants::{Earned, RunningGrant};
use super::ledger::GrantLedger;

/// How many attempts a restoration makes if the kernel refuses.
const TRIES: u32 = 5;
/// The pause between two of them.
const PAUSE: Duration = Duration::from_millis(20);
/// The time until the next restoration if all of them failed. It is long enough not to keep a
/// kernel busy that is out of memory.
const RETRY: Duration = Duration::from_millis(500);

/// The table, and what the agent wants it to hold.
pub(super) struct Table {
    /// Locked by the transaction that is under way.
    firewall: Arc<Mutex<Firewall>>,
    transaction: Option<JoinHandle<Transacted>>,
    /// The ruleset of the policy. What [`Enforcement`] adds is worked out when it is installed.
    ruleset: Ruleset,
    /// How often the table was restored.
    restored: u64,
    /// When to look at the table again, counted from boot.
    retry_at: Option<Duration>,
}

/// The result of a transaction with grants.
pub(super) struct Transacted {
    earned: Vec<Earned>,
    result: Result<(), FirewallError>,
    /// A moment before what remains to its elements was worked out, counted from boot. They run
    /// from the moment at which the kernel has them.
    begun: Duration,
}

/// The content of the kernel's table when it was read.
pub(super) struct Held(Result<Option<Status>, FirewallError>);

impl Held {
    /// Reads the table.
    pub(super) fn read(firewall: &mut Firewall) -> Self {
        Self(firewall.status())
    }

    /// Whether there was no table.
    pub(super) const fn is_absent(&self) -> bool {
        matches!(self.0, Ok(None))
    }

    /// Returns the grants that were there.
    pub(super) fn grants(&self) -> &[TimedGrant] {
        match &self.0 {
            Ok(Some(status)) => &status.grants,
            Ok(None) | Err(_) => &[],
        }
    }

    /// Returns the end of a trial that the table held, counted from boot.
    pub(super) fn trial_end(&self) -> Option<Duration> {
        self.0.as_ref().ok()?.as_ref()?.trial_until
    }
}

/// The changes that made the table whole.
pub(super) struct Completed {
    /// The grants that were put into it.
    pub(super) grants: Vec<Grant>,
    /// Why it was made anew, if it was.
    pub(super) made_anew: Option<String>,
}

impl Completed {
    fn new(grants: &[TimedGrant], made_anew: Option<String>) -> Self {
        Self { grants: grants.iter().map(|timed| timed.grant).collect(), made_anew }
    }
}

/// Returns `ruleset` with the mode and the trial of `enforcement`.
fn enforced(ruleset: &Ruleset, enforcement: Enforcement) -> Ruleset {
    Ruleset {
        mode: enforcement.mode_without_trial(ruleset.mode),
        trial_until: enforcement.trial_end(),
        ..ruleset.clone()
    }
}

impl Table {
    /// Takes over the firewall. The kernel's table stays as it is until [`Table::complete`].
    pub(super) fn new(firewall: Firewall, ruleset: Ruleset) -> Self {
        Self {
            firewall: Arc::new(Mutex::new(firewall)),
            transaction: None,
            ruleset,
            restored: 0,
            retry_at: None,
        }
    }

    /// Makes the kernel's table, of which `held` was read, hold the ruleset and the grants of
    /// `ledger`, and no other grant. No transaction may be under way.
    ///
    /// # Errors
    ///
    /// If the kernel refuses. The table is as it was then.
    pub(super) fn complete(
        &self,
        held: &Held,
        enforcement: Enforcement,
        ledger: &GrantLedger,
    ) -> Result<Completed, FirewallError> {
        let mut firewall = lock(&self.firewall);
        let completed = self.make_whole(&mut firewall, held, enforcement, ledger)?;
        firewall.revoke(&ledger.unearned(held.grants()))?;
        Ok(completed)
    }

    fn make_whole(
        &self,
        firewall: &mut Firewall,
        held: &Held,
        enforcement: Enforcement,
        ledger: &GrantLedger,
    ) -> Result<Completed, FirewallError> {
        let ruleset = enforced(&self.ruleset, enforcement);
        let missing = ledger.missing(held.grants());
        let damage = match &held.0 {
            Err(error) => error.to_string(),
            Ok(_) => match firewall.install(&ruleset, &missing) {
                Ok(()) => return Ok(Completed::new(&missing, None)),
                Err(error) => error.to_string(),
            },
        };
        // Another tool has left only a part of the table, or one that cannot be changed into it.
        let all = ledger.missing(&[]);
        firewall.install_anew(&ruleset, &all)?;
        Ok(Completed::new(&all, Some(damage)))
    }

    /// Begins a transaction for the grants that wait, unless one is under way.
    pub(super) fn submit_pending(&mut self, ledger: &mut GrantLedger) {
        if self.transaction.is_some() || ledger.pending() == 0 {
            return;
        }
        let earned = ledger.next_batch();
        let firewall = Arc::clone(&self.firewall);
        self.transaction = Some(tokio::task::spawn_blocking(move || {
            let mut firewall = lock(&firewall);
            let begun = clock::since_boot();
            let timed: Vec<_> = earned
                .iter()
                .map(|earned| TimedGrant { grant: earned.grant, until: earned.until })
                .collect();
            let result = firewall.grant(&timed);
            Transacted { earned, result, begun }
        }));
    }

    /// Waits for the transaction under way, without end if there is none. Its result must go to
    /// [`Table::finish_transaction`]. Cancel safe.
    pub(super) async fn transacted(&mut self) -> Transacted {
        let Some(handle) = &mut self.transaction else { return std::future::pending().await };
        match handle.await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Notes in the ledger what a transaction has done.
    pub(super) fn finish_transaction(
        &mut self,
        Transacted { earned, result, begun }: Transacted,
        policy: &ActivePolicy,
        ledger: &mut GrantLedger,
    ) {
        self.transaction = None;
        match result {
            Ok(()) => {}
            // The table is being restored, and every grant on record comes with it.
            Err(FirewallError::NoTable) => {}
            // Another tool gave the set a size. The table is restored on the next turn of the loop,
            // with every grant on record.
            Err(error) if error.is_full() => self.retry_at = Some(clock::since_boot()),
            Err(error) => {
                if !matches!(error, FirewallError::Refused { .. }) {
                    // It is not known whether the kernel has applied the transaction.
                    self.retry_soon();
                }
                return ledger.undo(policy, earned, &error);
            }
        }
        ledger.granted(policy, earned, begun);
    }

    /// Returns the firewall once the transaction under way is through.
    async fn idle(&mut self, policy: &ActivePolicy, ledger: &mut GrantLedger) -> Idle<'_> {
        if self.transaction.is_some() {
            let transacted = self.transacted().await;
            self.finish_transaction(transacted, policy, ledger);
        }
        Idle(lock(&self.firewall))
    }

    /// Waits until every earned grant is in the table.
    pub(super) async fn drain_pending(&mut self, policy: &ActivePolicy, ledger: &mut GrantLedger) {
        loop {
            self.submit_pending(ledger);
            if self.transaction.is_none() {
                return;
            }
            let transacted = self.transacted().await;
            self.finish_transaction(transacted, policy, ledger);
        }
    }

    /// Ends grants before their time, on record and in the table.
    ///
    /// # Errors
    ///
    /// If the kernel refuses. They are off the record all the same.
    pub(super) async fn revoke(
        &mut self,
        grants: &[Grant],
        policy: &ActivePolicy,
        ledger: &mut GrantLedger,
    ) -> Result<(), FirewallError> {
        // First what waits: a grant on its way would get into the table after it was revoked.
        self.drain_pending(policy, ledger).await;
        // Off the record first: if this agent is killed now, the next one must not restore them.
        let ended: Vec<_> =
            grants.iter().filter_map(|grant| Some((*grant, ledger.end(*grant)?))).collect();
        match self.idle(policy, ledger).await.0.revoke(grants) {
            // A table that is gone is being restored, without these grants.
            Ok(()) | Err(FirewallError::NoTable) => {}
            Err(error) => return Err(error),
        }
        for (grant, running) in ended {
            ledger.closed(policy, grant, running);
        }
        Ok(())
    }

    /// Gives the trial and every grant the time that remains to them, and ends those whose time is
    /// over: the kernel's timeouts stand still while the host sleeps.
    pub(super) async fn renew_times(
        &mut self,
        enforcement: Enforcement,
        policy: &ActivePolicy,
        ledger: &mut GrantLedger,
    ) {
        if enforcement.trial_end().is_some()
            && let Err(error) = self.enforce(enforcement, policy, ledger).await
        {
            error!(%error, "without this agent the trial may outlive its time by as long as the host slept");
        }
        let overdue = ledger.overdue(clock::since_boot());
        if !overdue.is_empty()
            && let Err(error) = self.revoke(&overdue, policy, ledger).await
        {
            error!(%error, "grants whose time is over could not be ended");
        }
        let mut firewall = self.idle(policy, ledger).await;
        // Read before the kernel gets the times: no timer may go off before its element does.
        let begun = clock::since_boot();
        let timed =
            |(grant, running): (Grant, RunningGrant)| TimedGrant { grant, until: running.until };
        let running: Vec<_> = ledger.iter().map(timed).collect();
        let granted = firewall.0.grant(&running);
        drop(firewall);
        if let Err(error) = granted {
            error!(%error, "grants may outlive their time by as long as the host slept");
            self.retry_soon();
        }
        ledger.set_all_timers(begun);
    }

    /// Restores the table with all running grants, because `culprit` changed it.
    pub(super) async fn restore(
        &mut self,
        culprit: &Culprit,
        enforcement: Enforcement,
        policy: &ActivePolicy,
        ledger: &mut GrantLedger,
    ) {
        let started = Instant::now();
        for attempt in 1..=TRIES {
            match self.put_back(enforcement, policy, ledger).await {
                Ok(grants) => {
                    self.restored += 1;
                    let took = started.elapsed().as_secs_f64() * 1000.0;
                    let took = format!("{took:.1}");
                    warn!(by = %culprit, grants, took_ms = took, "restored what was changed in the table inet xknock");
                    return;
                }
                Err(error) if attempt == TRIES => {
                    error!(by = %culprit, %error, "the table was changed and cannot be restored: ports may be open; trying again");
                    self.retry_soon();
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Restores the table once. Returns how many grants were missing.
    async fn put_back(
        &mut self,
        enforcement: Enforcement,
        policy: &ActivePolicy,
        ledger: &mut GrantLedger,
    ) -> Result<usize, FirewallError> {
        let held = Held::read(&mut self.idle(policy, ledger).await.0);
        let begun = clock::since_boot();
        let completed = self.complete(&held, enforcement, ledger)?;
        // Only for new elements. In a large table, setting every timer would take long.
        ledger.set_timers(&completed.grants, begun);
        Ok(completed.grants.len())
    }

    /// Schedules another look at the table, half a second from now.
    pub(super) fn retry_soon(&mut self) {
        self.retry_at = Some(clock::since_boot() + RETRY);
    }

    /// Returns when to look at the table again, counted from boot.
    pub(super) const fn retry_at(&self) -> Option<Duration> {
        self.retry_at
    }

    /// Clears the scheduled look at the table, because it happens now.
    pub(super) const fn clear_retry(&mut self) {
        self.retry_at = None;
    }

    /// Installs the ruleset of another policy, or another enforcement of the same.
    ///
    /// # Errors
    ///
    /// If the kernel refuses. The table holds what it held then.
    pub(super) async fn install(
        &mut self,
        ruleset: Ruleset,
        enforcement: Enforcement,
        policy: &ActivePolicy,
        ledger: &mut GrantLedger,
    ) -> Result<(), FirewallError> {
        let mut firewall = self.idle(policy, ledger).await;
        firewall.0.install(&enforced(&ruleset, enforcement), &[])?;
        drop(firewall);
        self.ruleset = ruleset;
        Ok(())
    }

    /// Installs the same ruleset under another enforcement.
    ///
    /// # Errors
    ///
    /// If the kernel refuses. The table holds what it held then.
    pub(super) async fn enforce(
        &mut self,
        enforcement: Enforcement,
        policy: &ActivePolicy,
        ledger: &mut GrantLedger,
    ) -> Result<(), FirewallError> {
        self.install(self.ruleset.clone(), enforcement, policy, ledger).await
    }

    /// Reads the table. Returns `None` if it is absent.
    ///
    /// # Errors
    ///
    /// If the kernel does not answer, or its answer is not understood.
    pub(super) async fn status(
        &mut self,
        policy: &ActivePolicy,
        ledger: &mut GrantLedger,
    ) -> Result<Option<Status>, FirewallError> {
        self.idle(policy, ledger).await.0.status()
    }

    /// Whether connection tracking is in use on this host.
    ///
    /// # Errors
    ///
    /// If rules or files under `/proc` cannot be read.
    pub(super) async fn conntrack_in_use(
        &mut self,
        policy: &ActivePolicy,
        ledger: &mut GrantLedger,
    ) -> Result<bool, FirewallError> {
        self.idle(policy, ledger).await.0.conntrack_in_use()
    }

    /// Waits for the transaction under way.
    pub(super) async fn wait_until_idle(
        &mut self,
        policy: &ActivePolicy,
        ledger: &mut GrantLedger,
    ) {
        self.idle(policy, ledger).await;
    }

    /// Removes the table. No transaction may be under way.
    pub(super) fn remove(&self) {
        if let Err(error) = lock(&self.firewall).remove() {
            error!(%error, "the table could not be removed");
        }
    }

    /// Returns the ruleset of the policy.
    pub(super) const fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }

    /// Returns how often the table was restored.
    pub(super) const fn restored(&self) -> u64 {
        self.restored
    }
}

/// The firewall while no transaction is under way.
struct Idle<'a>(MutexGuard<'a, Firewall>);

/// Locks the firewall, also after a panic. A transaction is one message, so one that panicked has
/// changed the kernel's table completely or not at all.
fn lock(firewall: &Mutex<Firewall>) -> MutexGuard<'_, Firewall> {
    firewall.lock().unwrap_or_else(PoisonError::into_inner)
}

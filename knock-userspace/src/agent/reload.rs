//! Applies a reloaded policy without dropping knocks in progress.

use knock_control::{Caller, Fault, Problem};
use knock_firewall::Ruleset;
use knock_policy::{Mode, Policy, lockout};
use tracing::{error, info};

use super::active_policy::ActivePolicy;
use super::enforcement::Enforcement;
use super::keys::{FolderWatch, Keys};
use super::watcher::{self, Change};
use super::{Agent, AgentError};
use crate::interfaces::Interface;

/// A policy that can replace the one in force, with everything prepared that it needs. The guard
/// does not follow it yet.
struct Prepared {
    policy: ActivePolicy,
    enforcement: Enforcement,
    present: Vec<Interface>,
    key_folder: FolderWatch,
    /// The keys, if the policy has another folder or window for them.
    keys: Option<Keys>,
    change: Change,
}

impl Agent {
    /// Reloads after SIGHUP. Errors go to the log, because no caller waits for an answer.
    pub(super) async fn reload_on_signal(&mut self) {
        if let Err(problem) = self.reload(&Caller::default()).await {
            error!(error = problem.error, "not reloaded; the old policy stays");
        }
    }

    /// Reads the config and replaces the policy. If the config is wrong, nothing changes.
    ///
    /// # Errors
    ///
    /// If the config is wrong, would lock the caller out, or the kernel refuses.
    pub(super) async fn reload(&mut self, caller: &Caller) -> Result<String, Problem> {
        self.systemd.reloading();
        let result = self.try_reload(caller).await;
        self.systemd.ready();
        result
    }

    async fn try_reload(&mut self, caller: &Caller) -> Result<String, Problem> {
        let policy =
            (self.options.reread)().map_err(|error| Problem::new(Fault::Request, error))?;
        // A confirmed trial goes on under a config that observes.
        let enforcement = self.enforcement.after_reload(policy.mode);
        if enforcement.mode_without_trial(policy.mode) == Mode::Enforce {
            self.refuse_lockout(&policy, caller)?;
        }
        let doors = policy.doors.len();
        match self.change_policy(policy, enforcement).await {
            Ok(revoked) => {
                info!(doors, revoked, "reloaded");
                Ok(format!("{doors} doors; {revoked} grants ended"))
            }
            Err(error) => Err(Problem::new(Fault::Agent, error)),
        }
    }

    /// Refuses to enforce `policy` if the caller could not come back, unless they insist.
    ///
    /// # Errors
    ///
    /// If the caller could not.
    pub(super) fn refuse_lockout(&self, policy: &Policy, caller: &Caller) -> Result<(), Problem> {
        if caller.force {
            return Ok(());
        }
        let granted = |grant: &_| self.ledger.until(grant).is_some();
        lockout::check(policy, caller.session.as_ref(), granted)
            .map_err(|error| Problem::new(Fault::LockOut, error))
    }

    /// Replaces the policy. Returns how many grants were ended because no door gives them any more.
    async fn change_policy(
        &mut self,
        policy: Policy,
        enforcement: Enforcement,
    ) -> Result<usize, AgentError> {
        let prepared = self.prepare(ActivePolicy::new(policy), enforcement).await?;
        match self.install(&prepared).await {
            // The point of no return: the table is the new policy's. Later failures are logged,
            // because going back would open and close ports a second time.
            Ok(()) => Ok(self.commit(prepared).await),
            Err(error) => {
                self.keys.mark_stale();
                self.watcher.abandon(prepared.change);
                Err(error)
            }
        }
    }

    /// Makes all the changes that can fail and can be taken back.
    async fn prepare(
        &mut self,
        policy: ActivePolicy,
        enforcement: Enforcement,
    ) -> Result<Prepared, AgentError> {
        let prepared = self.try_prepare(policy, enforcement).await;
        if prepared.is_err() {
            // The keys may have been read, and sequences computed, that the detector does not have.
            self.keys.mark_stale();
        }
        prepared
    }

    async fn try_prepare(
        &mut self,
        policy: ActivePolicy,
        enforcement: Enforcement,
    ) -> Result<Prepared, AgentError> {
        if policy.interfaces.is_empty() {
            return Err(AgentError::NoInterface);
        }
        let present = self.sources.interfaces.list().await?;
        self.watcher.refuse_occupied(&policy, &present)?;
        // First the watch, then the keys: no change of a file falls in between.
        let key_folder = FolderWatch::open(&policy);
        let mut keys = (!self.keys.fit(&policy)).then(|| Keys::open(&policy, &self.options.paths));
        if keys.is_none() {
            // A change of the files may have gone unnoticed.
            self.keys.read();
        }
        let new_keys = keys.as_mut().unwrap_or(&mut self.keys);
        let compiled = self.watcher.compile(&policy, new_keys, self.state.get())?;
        // Before the kernel gets the new nodes: the next agent must not use their identifiers
        // again.
        self.state.update(|state| state.next_node = compiled.trie.next().0)?;
        let settings = watcher::settings(&policy, self.state.get(), self.options.trace_kernel);
        let change = self.watcher.prepare(compiled, settings)?;
        Ok(Prepared { policy, enforcement, present, key_folder, keys, change })
    }

    /// Makes the guard follow the new policy, in one transaction.
    async fn install(&mut self, prepared: &Prepared) -> Result<(), AgentError> {
        let Self { table, policy, ledger, .. } = self;
        // While the old policy is in force, so that the log names its doors.
        table.drain_pending(policy, ledger).await;
        let conntrack = table.conntrack_in_use(policy, ledger).await?;
        let ruleset = Ruleset::of(&prepared.policy, conntrack);
        Ok(table.install(ruleset, prepared.enforcement, policy, ledger).await?)
    }

    /// Makes everything else follow the guard. Returns how many grants were ended.
    async fn commit(&mut self, prepared: Prepared) -> usize {
        let Prepared { policy, enforcement, present, key_folder, keys, change } = prepared;
        self.policy = policy;
        self.enforcement = enforcement;
        // After the table: a reload that is refused must not lose the confirmation.
        let confirmed = u32::from(enforcement.is_confirmed());
        if let Err(error) = self.state.update(|state| state.confirmed = confirmed) {
            error!(%error, "the record could not follow whether a trial is confirmed");
        }
        self.sources.key_folder = key_folder;
        match keys {
            Some(keys) => self.keys = keys,
            None => self.keys.look_for_misfits(&self.policy),
        }
        // Sequences and gates together: a key must not open a door that only the old config has.
        let applied = self.watcher.apply(change, &mut self.keys);
        let synced = self.watcher.sync_keys(&mut self.keys).map_err(AgentError::from);
        if let Err(error) = applied.and(synced) {
            error!(%error, "the new policy is in force, but the detector follows only a part");
        }
        self.watcher.follow(&self.policy, &present);
        watcher::log_awaited(&self.policy, &present);
        // Last, when the detector has the new doors: a source that loses a grant here can earn it
        // again at once.
        let lost = self.ledger.no_longer_allowed(&self.policy);
        if let Err(error) = self.revoke(&lost).await {
            error!(%error, "grants of doors that are gone could not be ended in the table");
            self.table.retry_soon();
        }
        lost.len()
    }
}

//! The effects of keyed knocks, and the renewal of the detector's keys.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use knock_common::sealed::SealedEvent;
use knock_keys::Action;
use knock_policy::Grant;
use tracing::{debug, error};

use super::{Keys, clock};
use crate::agent::active_policy::ActivePolicy;
use crate::agent::ledger::GrantLedger;
use crate::agent::{Agent, AgentError, watcher};
use crate::keyring::{Admission, Denial};

/// The number of sealed knocks that are judged at once. A knock that opens must find what the one
/// before it has closed, and grants are closed after the batch.
const SEALED_BATCH: usize = 1;

/// A completed keyed knock and its judgement.
pub(in crate::agent) struct Judged {
    /// The source of its packets.
    seen: IpAddr,
    /// How long it waited for the agent.
    waited: Duration,
    result: Result<Admission, Denial>,
}

impl Judged {
    pub(in crate::agent) fn new(
        seen: IpAddr,
        time_ns: u64,
        result: Result<Admission, Denial>,
    ) -> Self {
        Self { seen, waited: clock::waited(time_ns), result }
    }

    /// Opens the doors that the knock may open. Their grants are on record when this returns.
    /// Grants that the knock may close are added to `close`.
    pub(in crate::agent) fn carry_out(
        self,
        policy: &ActivePolicy,
        keys: &mut Keys,
        ledger: &mut GrantLedger,
        close: &mut Vec<Grant>,
    ) {
        let Self { seen, waited, result } = self;
        let Admission { key, action, source, doors } = match result {
            Ok(admission) => admission,
            Err(Denial { key, reason }) => {
                keys.count(reason.name());
                return ledger.journal().denied(key.as_deref(), seen, &reason);
            }
        };
        let named = |name: &str| policy.door(name);
        if waited > policy.late_grants {
            keys.count("late");
            if let Some(door) = doors.first().and_then(|(name, _)| named(name)) {
                ledger.journal().late(door, seen, waited);
            }
            return;
        }
        let names: Vec<_> = doors.iter().map(|(name, _)| name.as_str()).collect();
        ledger.journal().admitted(&key, seen, source, action, &names.join(","));
        let doors = doors.iter().filter_map(|(name, lasts)| Some((named(name)?, *lasts)));
        match action {
            Action::Open => {
                keys.count("opened");
                for (door, lasts) in doors {
                    if let Err(why) = ledger.open(policy, door, source, lasts) {
                        ledger.journal().refused(door, source, why);
                    }
                }
            }
            Action::Close => {
                keys.count("closed");
                let ids: Vec<_> = doors.map(|(door, _)| door.id()).collect();
                let meant = ledger.iter().filter(|(grant, running)| {
                    grant.source == source && ids.contains(&running.door)
                });
                close.extend(meant.map(|(grant, _)| grant));
            }
        }
    }
}

impl Agent {
    /// Takes sealed knocks that wait, judges them and carries them out.
    pub(in crate::agent) async fn take_sealed(&mut self) {
        let Self { watcher, keys, policy, ledger, .. } = self;
        let mut close = Vec::new();
        watcher.take_sealed(SEALED_BATCH, |event: &SealedEvent| {
            let result = keys.judge_sealed(event, policy)?;
            let gate = keys.gate_of(event);
            let judged = Judged::new(IpAddr::from(event.source), event.time_ns, result);
            judged.carry_out(policy, keys, ledger, &mut close);
            gate
        });
        self.close_for_keys(&close).await;
    }

    /// Ends the grants that keyed knocks close.
    pub(in crate::agent) async fn close_for_keys(&mut self, grants: &[Grant]) {
        if !grants.is_empty()
            && let Err(error) = self.revoke(grants).await
        {
            error!(%error, "grants that a key closes stay open until their time is over");
        }
    }

    /// Renews the detector's keys after a slot began, a key ended or files changed.
    pub(in crate::agent) fn renew_keys(&mut self) {
        self.keys.read_if_due(&self.policy);
        let begun = Instant::now();
        let result = self.try_renew_keys();
        let (took_ms, slot) = (begun.elapsed().as_millis(), self.keys.slot());
        debug!(took_ms, slot, "keys renewed in the detector");
        if let Err(error) = result {
            error!(%error, "the detector could not follow a change of keys");
            self.keys.retry_soon();
        }
    }

    fn try_renew_keys(&mut self) -> Result<(), AgentError> {
        // Gates first: even if the sequences fail below, a key that is gone opens nothing.
        self.watcher.sync_keys(&mut self.keys)?;
        // After the last key with sequences has gone, this is true once more, to remove them.
        if !self.keys.need_sequences(&self.policy) {
            return Ok(());
        }
        let compiled = self.watcher.compile(&self.policy, &mut self.keys, self.state.get())?;
        // Before the kernel gets the new nodes: the next agent must not use their identifiers
        // again.
        self.state.update(|state| state.next_node = compiled.trie.next().0)?;
        let settings = watcher::settings(&self.policy, self.state.get(), self.options.trace_kernel);
        let change = self.watcher.prepare(compiled, settings)?;
        self.watcher.apply(change, &mut self.keys)
    }
}

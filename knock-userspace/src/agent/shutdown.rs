//! The agent's shutdown.

use knock_common::counters::Counter;
use knock_common::detect::Outcome;
use tracing::{info, warn};

use super::Agent;
use crate::lock::Lock;

impl Agent {
    /// Logs the totals and shuts down. Pins and table stay for the next agent, unless the owner
    /// wants everything removed.
    pub(super) async fn shut_down(mut self, lock: Lock) {
        self.systemd.stopping();
        // Grants that wait are on record. One more transaction gets most of them into the table.
        self.table.submit_pending(&mut self.ledger);
        self.table.wait_until_idle(&self.policy, &mut self.ledger).await;
        self.log_totals();
        let clean = self.options.clean || self.off;
        let running = self.ledger.len();
        if clean {
            self.remove_everything(lock);
        }
        info!(running_grants = running, clean, "stopped");
    }

    fn log_totals(&mut self) {
        self.ledger.journal().finish();
        match self.watcher.totals() {
            Ok(totals) => {
                let lost = totals.get(Counter::Candidate(Outcome::EventLost));
                self.ledger.journal().event_lost(lost);
                let pair = |(name, n)| format!("{name}={n}");
                let counters: Vec<_> = totals.named().map(pair).collect();
                info!(packets = totals.packets(), counters = counters.join(" "), "counters");
            }
            Err(error) => warn!(%error, "counters could not be read"),
        }
        let knocks: Vec<_> = self.keys.results().map(|(name, n)| format!("{name}={n}")).collect();
        if !knocks.is_empty() {
            info!(counters = knocks.join(" "), "knocks with keys");
        }
    }

    fn remove_everything(self, lock: Lock) {
        let Self { watcher, table, ledger, state, options, .. } = self;
        // The table first, because without an agent its ports could not be opened.
        table.remove();
        drop((ledger, state));
        watcher.remove();
        // The folder stays if the replay store lies in it: used knocks must not count again.
        let _ = std::fs::remove_dir(&options.paths.state);
        lock.remove(&options.paths);
    }
}

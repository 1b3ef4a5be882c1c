//! What another tool changed in the table is put back.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use knock_firewall::{Culprit, FirewallError, Ruleset};
use knock_policy::{Grant, Mode};
use tracing::{error, warn};

use super::{Agent, clock, start};

/// How often the kernel is asked again if it refuses.
const TRIES: u32 = 5;
/// How long is waited before that.
const PAUSE: Duration = Duration::from_millis(20);

impl Agent {
    /// Returns how much longer a trial lasts. It is `None` as soon as the time is over, although
    /// `trial` may still be set.
    pub(super) fn trial_left(&self) -> Option<Duration> {
        let left = self.trial?.saturating_sub(clock::since_boot());
        Some(left).filter(|left| !left.is_zero())
    }

    /// Puts back the table with all running grants, because `culprit` changed it.
    pub(super) async fn restore(&mut self, culprit: &Culprit) {
        let started = Instant::now();
        for attempt in 1..=TRIES {
            match self.put_back().await {
                Ok(grants) => {
                    self.restored += 1;
                    let took = started.elapsed().as_secs_f64() * 1000.0;
                    let took = format!("{took:.1}");
                    warn!(by = %culprit, grants, took_ms = took, "restored what was changed in the table inet xknock");
                    return;
                }
                Err(error) if attempt == TRIES => {
                    error!(by = %culprit, %error, "the table was changed and cannot be restored: ports may be open; trying again");
                    self.restore_soon();
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Has the table looked at once more, in a while.
    pub(super) fn restore_soon(&mut self) {
        /// Long enough not to keep a kernel busy that has no memory left.
        const SOON: Duration = Duration::from_millis(500);
        self.restore_at = Some(clock::since_boot() + SOON);
    }

    /// How many grants were missing.
    async fn put_back(&mut self) -> Result<usize, FirewallError> {
        let ruleset = Ruleset { trial_until: self.trial, ..self.ruleset.clone() };
        // A table of which a part is missing cannot be read, and is made anew.
        let held = self.firewall().await.status().ok().flatten();
        let in_table = held.as_ref().map(|status| status.grants.as_slice()).unwrap_or_default();
        let missing = start::missing(&self.keeper, in_table);
        let ours: HashSet<_> = self.keeper.grants.iter().map(|(grant, _)| grant).collect();
        let strange: Vec<Grant> = in_table
            .iter()
            .map(|timed| timed.grant)
            .filter(|grant| !ours.contains(grant))
            .collect();
        let whole = held.is_some();
        let firewall = self.firewall().await;
        let begun = clock::since_boot();
        if !(whole && firewall.install(&ruleset, &missing).is_ok()) {
            let all = start::missing(&self.keeper, &[]);
            self.firewall().await.install_anew(&ruleset, &all)?;
        }
        self.firewall().await.revoke(&strange)?;
        if !missing.is_empty() {
            self.set_all_timers(begun);
        }
        Ok(missing.len())
    }

    /// Puts `ruleset` in the place of what is there.
    pub(super) async fn install(&mut self, ruleset: Ruleset) -> Result<(), FirewallError> {
        self.firewall().await.install(&ruleset, &[])?;
        self.ruleset = ruleset;
        Ok(())
    }

    /// The time of a trial is over, and nobody has confirmed it. The kernel has ended it by
    /// itself; its rule goes too.
    pub(super) async fn end_trial(&mut self) {
        self.trial = None;
        let ruleset = Ruleset { mode: Mode::Observe, trial_until: None, ..self.ruleset.clone() };
        match self.install(ruleset).await {
            Ok(()) => warn!("the trial is over and was not confirmed: observing again"),
            Err(error) => error!(%error, "the trial is over, but its rule cannot be removed"),
        }
    }
}

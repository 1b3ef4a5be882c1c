//! The agent's event loop. It turns completed knocks into grants and reacts to signals, control
//! requests, interface changes and foreign edits of the nftables table.
//!
//! Waiting and acting are apart: [`Agent::next_event`] only waits, and every source in it is
//! cancel safe, so an event that loses the race is there on the next turn. What an event leads to
//! happens after `select!` has released its borrows.
//!
//! Everything runs on this one thread, in the order in which it is seen, but for transactions with
//! grants ([`super::table`]). Some steps make the loop wait in place, on purpose, because what comes
//! next must not happen before they are done: the load of a program, a change of the trie that waits
//! for packets under way, the disk sync of a keyed knock, the restoration of a table that the kernel
//! refuses at first, and, in requests and reloads, the transaction under way.

use std::time::Duration;

use knock_common::counters::Counter;
use knock_common::detect::Outcome;
use knock_detector::ClockWatch;
use knock_firewall::{Culprit, Watch};
use knock_policy::Grant;
use tokio::sync::mpsc;
use tracing::{error, warn};

use super::keys::{FolderWatch, Judged};
use super::ledger::BATCH;
use super::table::Transacted;
use super::watcher::Ready;
use super::{Agent, AgentError, Signal, clock};
use crate::control_socket::{Call, Inbox};
use crate::interfaces::Interfaces;

/// The host's event sources.
pub(super) struct EventSources {
    pub(super) key_folder: FolderWatch,
    pub(super) table_watch: Watch,
    pub(super) interfaces: Interfaces,
    pub(super) inbox: Inbox,
    pub(super) signals: mpsc::Receiver<Signal>,
}

/// An event that the loop handles after `select!` has released its borrows.
enum Event {
    Signal(Option<Signal>),
    Detector(Ready),
    Transacted(Transacted),
    Expired(Grant),
    TableChanged(Culprit),
    RetryTable,
    TrialOver,
    InterfacesChanged,
    Call(Call),
    ClockJumped,
    KeyFilesChanged,
    KeysDue,
    Watchdog,
}

impl Agent {
    /// Serves until a signal or a request says stop.
    ///
    /// # Errors
    ///
    /// If an event source breaks.
    pub(super) async fn serve(&mut self) -> Result<(), AgentError> {
        let mut clock_watch = ClockWatch::open()?;
        // The clock may have been set between start-up and the line above.
        self.watcher.sync_keys(&mut self.keys)?;
        while !self.off {
            match self.next_event(&mut clock_watch).await? {
                Event::Signal(Some(Signal::Stop) | None) => return Ok(()),
                event => self.handle(event).await,
            }
            self.look_for_lost_knocks();
            self.table.submit_pending(&mut self.ledger);
        }
        Ok(())
    }

    /// Waits for the next event. Cancel safe.
    async fn next_event(&mut self, clock_watch: &mut ClockWatch) -> Result<Event, AgentError> {
        let until = |end: Duration| end.saturating_sub(clock::since_boot());
        let trial_left = self.enforcement.trial_end().map(until);
        let retry_in = self.table.retry_at().map(until);
        let keys_due = self.keys.due(&self.policy);
        let busy = self.ledger.is_busy();
        let Self { sources, watcher, ledger, table, systemd, .. } = self;
        let event = tokio::select! {
            signal = sources.signals.recv() => Event::Signal(signal),
            report = watcher.report(busy) => Event::Detector(report?),
            () = sources.key_folder.changed() => Event::KeyFilesChanged,
            () = sleep(keys_due) => Event::KeysDue,
            transacted = table.transacted() => Event::Transacted(transacted),
            expired = ledger.next_expired() => Event::Expired(expired),
            culprit = sources.table_watch.changed() => Event::TableChanged(culprit?),
            changed = sources.interfaces.changed() => {
                changed?;
                Event::InterfacesChanged
            }
            Some(call) = sources.inbox.recv() => Event::Call(call),
            () = systemd.watchdog() => Event::Watchdog,
            jumped = clock_watch.next() => {
                jumped?;
                Event::ClockJumped
            }
            () = sleep(trial_left) => Event::TrialOver,
            () = sleep(retry_in) => Event::RetryTable,
        };
        Ok(event)
    }

    async fn handle(&mut self, event: Event) {
        match event {
            // Stop is handled by the loop.
            Event::Signal(Some(Signal::Reload)) => self.reload_on_signal().await,
            Event::Signal(_) | Event::Watchdog => {}
            Event::Detector(Ready::Events) => self.take_events().await,
            Event::Detector(Ready::Sealed) => self.take_sealed().await,
            Event::Transacted(done) => {
                self.table.finish_transaction(done, &self.policy, &mut self.ledger);
            }
            Event::Expired(grant) => self.ledger.close_overdue(&self.policy, grant),
            Event::TableChanged(culprit) => self.restore_table(&culprit).await,
            Event::RetryTable => {
                self.table.clear_retry();
                self.restore_table(&Culprit::default()).await;
            }
            Event::TrialOver => self.end_trial().await,
            Event::InterfacesChanged => self.follow_interfaces().await,
            Event::Call(call) => self.answer(call).await,
            Event::ClockJumped => {
                let Self { table, enforcement, policy, ledger, .. } = &mut *self;
                table.renew_times(*enforcement, policy, ledger).await;
                self.keys.clock_was_set();
                self.renew_keys();
            }
            Event::KeyFilesChanged => self.keys.read_soon(),
            Event::KeysDue => self.renew_keys(),
        }
    }

    /// Takes completed sequences that wait. The grants of each are on record before it leaves the
    /// ring buffer.
    async fn take_events(&mut self) {
        let Self { watcher, keys, policy, ledger, .. } = self;
        let mut close = Vec::new();
        watcher.take_events(BATCH, |event| match keys.judge_sequence(&event, policy) {
            Some(result) => {
                let judged = Judged::new(event.source.into(), event.time_ns, result);
                judged.carry_out(policy, keys, ledger, &mut close);
            }
            None => ledger.take(policy, event),
        });
        self.close_for_keys(&close).await;
    }

    async fn restore_table(&mut self, culprit: &Culprit) {
        let Self { table, enforcement, policy, ledger, .. } = self;
        table.restore(culprit, *enforcement, policy, ledger).await;
    }

    /// Removes the rule of a trial whose time is over. The kernel has ended the trial already.
    async fn end_trial(&mut self) {
        self.enforcement = self.enforcement.after_trial();
        let Self { table, enforcement, policy, ledger, .. } = self;
        match table.enforce(*enforcement, policy, ledger).await {
            Ok(()) => warn!("the trial is over and was not confirmed: observing again"),
            Err(error) => error!(%error, "the trial is over, but its rule cannot be removed"),
        }
    }

    async fn follow_interfaces(&mut self) {
        match self.sources.interfaces.list().await {
            Ok(present) => self.watcher.follow(&self.policy, &present),
            Err(error) => error!(%error, "interfaces could not be listed"),
        }
    }

    /// Logs knocks that found the ring buffer full. The counters are read only during a flood of
    /// completed knocks, so a quiet agent makes no system call for them.
    fn look_for_lost_knocks(&mut self) {
        const MANY: usize = 1024;
        if self.ledger.pending() < MANY {
            return;
        }
        if let Ok(totals) = self.watcher.totals() {
            let lost = totals.get(Counter::Candidate(Outcome::EventLost));
            self.ledger.journal().event_lost(lost);
        }
    }
}

/// Sleeps for `time`, or without end if it is `None`.
async fn sleep(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

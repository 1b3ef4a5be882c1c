//! The event loop: completed knocks in, grants out.

mod error;
mod grants;
mod journal;
mod start;

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use knock_common::counters::Counter;
use knock_common::detect::Outcome;
use knock_common::event::Event;
use tokio::task::JoinHandle;
use tokio_util::time::{DelayQueue, delay_queue};
use tracing::{error, info, warn};

pub use self::error::AgentError;
use self::grants::{Earned, Grants};
use self::journal::Journal;
use self::start::{Started, start};
use crate::firewall::{Firewall, FirewallError, Ruleset, TimedGrant};
use crate::kernel::{Detector, Events, Trace};
use crate::policy::{Grant, Policy};

/// What the command line adds to a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Log what the kernel program sees.
    pub trace_kernel: bool,
    /// Remove the table and all grants when the agent stops.
    pub clean: bool,
}

/// Most knocks that are taken from the ring buffer at once, so that signals are seen
/// during a flood.
const BATCH: usize = 16_384;
/// Most knocks that wait for a transaction. More stay in the ring buffer.
const WAITING: usize = 1 << 18;

/// Guards the doors of `policy` until `shutdown` is ready. `on_ready` is called once
/// everything is in place.
///
/// # Errors
///
/// If start-up fails, in which case nothing is left behind, or the event loop breaks.
pub async fn run(
    policy: Policy,
    options: Options,
    on_ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let Started { mut detector, firewall, ruleset } = start(&policy, options.trace_kernel).await?;
    let events = detector.events()?;
    let trace = if options.trace_kernel { Some(detector.trace()?) } else { None };
    info!(
        interfaces = policy.interfaces.join(","),
        mode = %policy.mode,
        doors = policy.doors.len(),
        "ready"
    );
    on_ready();
    let mut agent = Agent {
        policy,
        grants: Grants::default(),
        ends: DelayQueue::new(),
        timers: HashMap::new(),
        journal: Journal::default(),
        waiting: Vec::new(),
        firewall: Some(firewall),
        ruleset: Arc::new(ruleset),
        transaction: None,
    };
    let result = agent.serve(&detector, events, trace, shutdown).await;
    agent.stop(&detector, options.clean).await;
    result
}

/// A firewall transaction on its way. It gives the socket back when it is done.
type Transaction = JoinHandle<(Firewall, Vec<Earned>, Result<(), FirewallError>)>;

struct Agent {
    policy: Policy,
    grants: Grants,
    /// When to say that a grant has ended.
    ends: DelayQueue<Grant>,
    /// The place of each grant in `ends`.
    timers: HashMap<Grant, delay_queue::Key>,
    journal: Journal,
    /// Events that wait for the transaction before theirs.
    waiting: Vec<Event>,
    /// `None` while a transaction has it.
    firewall: Option<Firewall>,
    transaction: Option<Transaction>,
    /// What the table holds besides grants, for when another tool removed it.
    ruleset: Arc<Ruleset>,
}

impl Agent {
    async fn serve(
        &mut self,
        detector: &Detector,
        mut events: Events,
        mut trace: Option<Trace>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), AgentError> {
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                result = events.read(&mut self.waiting, BATCH), if self.waiting.len() < WAITING => {
                    result?;
                    self.look_for_lost(detector);
                }
                done = finished(&mut self.transaction) => self.conclude(done),
                Some(ended) = self.ends.next() => {
                    let grant = ended.into_inner();
                    self.timers.remove(&grant);
                    self.close(grant);
                }
                result = traced(&mut trace) => { result?; }
            }
            self.begin();
        }
    }

    /// Starts a transaction for everything that waits, if none is under way.
    fn begin(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let Some(mut firewall) = self.firewall.take() else { return };
        let now = Instant::now();
        // A transaction of bounded size: it holds up everyone who comes after it.
        let batch = self.waiting.len().min(BATCH);
        let mut earned = Vec::with_capacity(batch);
        for event in self.waiting.drain(..batch) {
            let (source, index) = (IpAddr::from(event.source), event.door as usize);
            match self.grants.earn(&self.policy, source, index, now) {
                Ok(grants) => earned.extend(grants),
                Err(why) => self.journal.refused(&self.policy.doors[index], source, why),
            }
        }
        if earned.is_empty() {
            self.firewall = Some(firewall);
            return;
        }
        let ruleset = Arc::clone(&self.ruleset);
        self.transaction = Some(tokio::task::spawn_blocking(move || {
            let timed: Vec<_> = earned
                .iter()
                .map(|one| TimedGrant { grant: one.grant, lasts: one.until.duration_since(now) })
                .collect();
            let mut result = firewall.grant(&timed);
            if matches!(result, Err(FirewallError::NoTable)) {
                warn!("another tool removed the table inet xknock; installing it again");
                result = firewall.install(&ruleset).and_then(|()| firewall.grant(&timed));
            }
            (firewall, earned, result)
        }));
    }

    /// Notes and logs what a transaction has done.
    fn conclude(
        &mut self,
        (firewall, earned, result): (Firewall, Vec<Earned>, Result<(), FirewallError>),
    ) {
        self.firewall = Some(firewall);
        self.transaction = None;
        if let Err(error) = result {
            self.journal.failed(earned.len(), &error);
            for one in earned.into_iter().rev() {
                self.grants.take_back(one);
                // Its timer may have gone off while it seemed to be extended.
                self.close(one.grant);
            }
            return;
        }
        let now = Instant::now();
        for one in earned {
            let left = one.until.saturating_duration_since(now);
            match self.timers.get(&one.grant) {
                Some(timer) => self.ends.reset(timer, left),
                None => {
                    self.timers.insert(one.grant, self.ends.insert(one.grant, left));
                }
            }
            self.journal.opened(&self.policy.doors[one.door], &one, left);
        }
    }

    /// Says that a grant has ended, unless it was extended meanwhile.
    fn close(&mut self, grant: Grant) {
        // The timer wheel works in milliseconds and may be early by less than one.
        let now = Instant::now() + Duration::from_millis(1);
        if let Some(door) = self.grants.expire(grant, now) {
            self.journal.closed(&self.policy.doors[door], grant);
        }
    }

    /// During a flood of completed knocks only: a quiet agent asks the kernel nothing.
    fn look_for_lost(&mut self, detector: &Detector) {
        const MANY: usize = 1024;
        if self.waiting.len() < MANY {
            return;
        }
        if let Ok(totals) = detector.totals() {
            self.journal.event_lost(totals.get(Counter::Candidate(Outcome::EventLost)));
        }
    }

    async fn stop(mut self, detector: &Detector, clean: bool) {
        if self.transaction.is_some() {
            let done = finished(&mut self.transaction).await;
            self.conclude(done);
        }
        self.journal.finish();
        match detector.totals() {
            Ok(totals) => {
                self.journal.event_lost(totals.get(Counter::Candidate(Outcome::EventLost)));
                let counters: Vec<_> =
                    totals.named().map(|(name, n)| format!("{name}={n}")).collect();
                info!(packets = totals.packets(), counters = counters.join(" "), "counters");
            }
            Err(error) => warn!(%error, "counters could not be read"),
        }
        if clean
            && let Some(firewall) = &mut self.firewall
            && let Err(error) = firewall.remove()
        {
            error!(%error, "the table could not be removed");
        }
        info!(running_grants = self.grants.len(), clean, "stopped");
    }
}

/// Waits for the transaction under way, for ever if there is none.
async fn finished(
    transaction: &mut Option<Transaction>,
) -> (Firewall, Vec<Earned>, Result<(), FirewallError>) {
    match transaction {
        Some(handle) => match handle.await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        },
        None => std::future::pending().await,
    }
}

/// Forwards kernel messages, for ever without doing anything if they are off.
async fn traced(trace: &mut Option<Trace>) -> std::io::Result<std::convert::Infallible> {
    match trace {
        Some(trace) => trace.run().await,
        None => std::future::pending().await,
    }
}

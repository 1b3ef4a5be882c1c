//! The event loop: completed knocks in, grants out; and whatever else happens to a host.

mod clock;
mod confine;
mod error;
mod grants;
mod journal;
mod keeper;
mod keys;
mod links;
mod policy_change;
mod requests;
mod restore;
mod start;
mod supervisor;
mod transactions;
mod unmade;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use knock_common::counters::Counter;
use knock_common::detect::Outcome;
use knock_common::sealed::SealedEvent;
use knock_detector::{ClockWatch, Detector, Events, Pins, SealedEvents, State, Trace};
use knock_firewall::{Firewall, Ruleset, Watch};
use knock_policy::{Grant, Policy};
use tokio::sync::mpsc;
use tokio_util::time::{DelayQueue, delay_queue};
use tracing::{error, info, warn};

pub use self::error::AgentError;
use self::keeper::Keeper;
use self::keys::{Changes, Keys};
use self::start::{Started, start};
use self::supervisor::Supervisor;
use self::transactions::Transaction;
use self::unmade::Unmade;
use crate::control_socket;
use crate::interfaces::Interfaces;
use crate::lock::Lock;
use crate::places::Places;

/// What the command line adds to a policy.
pub struct Options {
    /// Where the agent keeps what it leaves on the host.
    pub places: Places,
    /// Log what the kernel program sees.
    pub trace_kernel: bool,
    /// Remove everything when the agent stops.
    pub clean: bool,
    /// Observe, whatever was confirmed before.
    pub observe: bool,
    /// Reads the config again; what is wrong with it, if it is wrong.
    pub reread: Box<dyn FnMut() -> Result<Policy, String>>,
    /// Files and folders that reading it again takes.
    pub config: Vec<std::path::PathBuf>,
}

/// Most knocks that are taken from the ring buffer at once, so that signals are seen
/// during a flood.
const BATCH: usize = 16_384;
/// Most grants that wait for a transaction. More knocks stay in the ring buffer.
const WAITING: usize = 1 << 18;
/// Requests that wait for the event loop.
const REQUESTS: usize = 16;

/// What makes the agent stop, or read its config again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Stop.
    Stop,
    /// Read the config again.
    Reload,
}

/// Guards the doors of `policy` until a signal or a request says stop. `on_ready` is called
/// once everything is in place.
///
/// # Errors
///
/// If start-up fails, or the event loop breaks. Where there was nothing before, a start-up that
/// fails leaves nothing behind but the folder of keys. Where there was something, it leaves that as it was if it fails
/// before the table is in place, and else the new table and the new program.
pub async fn run(
    policy: Policy,
    options: Options,
    on_ready: impl FnOnce(),
    signals: mpsc::Receiver<Signal>,
) -> Result<(), AgentError> {
    let lock = Lock::take(&options.places)?;
    let unmade = Unmade::of(&policy.keys, &options.places);
    let (started, ends) = match begin(policy, &options).await {
        Ok(begun) => begun,
        Err(error) => {
            unmade.take_back();
            lock.remove(&options.places);
            return Err(error);
        }
    };
    let Started {
        detector,
        firewall,
        watch,
        ruleset,
        interfaces,
        keeper,
        keys,
        key_changes,
        state,
        pins,
        trial,
        ..
    } = started;
    let Ends { events, sealed, trace, control, inbox } = ends;
    info!(
        interfaces = keeper.policy.interfaces.join(","),
        mode = %keeper.policy.mode,
        doors = keeper.policy.doors.len(),
        grants = keeper.grants.len(),
        "ready"
    );
    let mut agent = Agent {
        keeper,
        keys,
        ends: DelayQueue::new(),
        timers: HashMap::new(),
        firewall: Some(firewall),
        ruleset,
        transaction: None,
        detector,
        state,
        pins,
        trial,
        restored: 0,
        restore_at: None,
        options,
        supervisor: Supervisor::new(),
        complained: HashSet::new(),
        off: false,
    };
    agent.set_all_timers(clock::since_boot());
    agent.supervisor.ready();
    on_ready();
    let sources = Sources { events, sealed, key_changes, trace, watch, interfaces, inbox, signals };
    let result = agent.serve(sources).await;
    control.end().await;
    agent.stop(lock).await;
    result
}

async fn begin(policy: Policy, options: &Options) -> Result<(Started, Ends), AgentError> {
    let mut started = start(policy, options).await?;
    match open_ends(&mut started, options) {
        Ok(ends) => Ok((started, ends)),
        Err(error) => {
            if started.is_first {
                // Ports must not stay closed that no agent could open.
                take_back(started);
            }
            Err(error)
        }
    }
}

/// What opens once detector and table are in place.
struct Ends {
    events: Events,
    sealed: SealedEvents,
    trace: Option<Trace>,
    control: control_socket::Server,
    inbox: control_socket::Inbox,
}

fn open_ends(started: &mut Started, options: &Options) -> Result<Ends, AgentError> {
    let Started { detector, keeper, .. } = started;
    let events = detector.events()?;
    let sealed = detector.sealed()?;
    let trace = if options.trace_kernel { Some(detector.trace()?) } else { None };
    let (outbox, inbox) = mpsc::channel(REQUESTS);
    let control = control_socket::serve(&options.places.socket(), outbox)?;
    confine::confine(options, &keeper.policy)?;
    Ok(Ends { events, sealed, trace, control, inbox })
}

/// Undoes a start.
fn take_back(started: Started) {
    let Started { detector, mut firewall, pins, keeper, .. } = started;
    if let Err(error) = firewall.remove() {
        error!(%error, "the table could not be removed");
    }
    drop((detector, keeper));
    if let Some(Err(error)) = pins.map(|pins| pins.remove_all()) {
        error!(%error, "what is pinned could not be removed");
    }
}

/// Where things come from that happen.
struct Sources {
    events: Events,
    sealed: SealedEvents,
    key_changes: Changes,
    trace: Option<Trace>,
    watch: Watch,
    interfaces: Interfaces,
    inbox: control_socket::Inbox,
    signals: mpsc::Receiver<Signal>,
}

struct Agent {
    keeper: Keeper,
    keys: Keys,
    /// When grants end.
    ends: DelayQueue<Grant>,
    /// The place of each grant in `ends`.
    timers: HashMap<Grant, delay_queue::Key>,
    /// `None` while a transaction has it.
    firewall: Option<Firewall>,
    transaction: Option<Transaction>,
    /// What the table holds besides grants.
    ruleset: Ruleset,
    detector: Detector,
    state: State,
    pins: Option<Pins>,
    /// When a trial ends, counted from boot.
    trial: Option<Duration>,
    /// How often the table was restored.
    restored: u64,
    /// When to do that once more, counted from boot.
    restore_at: Option<Duration>,
    options: Options,
    supervisor: Supervisor,
    /// Interface and foreign program of which the log has been told.
    complained: HashSet<(u32, u32)>,
    /// Whether everything shall go.
    off: bool,
}

/// What happened.
enum Happened {
    /// Something that needs no more than the next transaction to begin.
    Handled,
    Signal(Option<Signal>),
    Changed(knock_firewall::Culprit),
    Links,
    Call(control_socket::Call),
    Jumped,
    TrialOver,
    Sealed(Box<SealedEvent>),
    KeysChanged,
    KeysDue,
}

impl Agent {
    async fn serve(&mut self, mut sources: Sources) -> Result<(), AgentError> {
        let mut jumps = ClockWatch::open()?;
        // The clock may have been set since the detector was told the time.
        self.keys.install(&mut self.detector)?;
        loop {
            let full = self.keeper.pending.len() >= WAITING;
            let until = |end: Duration| end.saturating_sub(clock::since_boot());
            let (trial_left, restore_in) = (self.trial.map(until), self.restore_at.map(until));
            let keys_due = self.keys.due(&self.keeper.policy);
            let happened = tokio::select! {
                signal = sources.signals.recv() => Happened::Signal(signal),
                result = sources.events.read(BATCH, |event| {
                    if !self.keys.takes(&event, &self.keeper.policy) {
                        self.keeper.take(event);
                    }
                }), if !full => {
                    result?;
                    Happened::Handled
                }
                sealed = sources.sealed.next(), if !full => Happened::Sealed(Box::new(sealed?)),
                () = sources.key_changes.next() => Happened::KeysChanged,
                () = sleep(keys_due) => Happened::KeysDue,
                done = transactions::finished(&mut self.transaction) => {
                    self.conclude(done);
                    Happened::Handled
                }
                Some(ended) = self.ends.next() => {
                    let grant = ended.into_inner();
                    self.timers.remove(&grant);
                    self.close(grant);
                    Happened::Handled
                }
                culprit = sources.watch.changed() => Happened::Changed(culprit?),
                changed = sources.interfaces.changed() => { changed?; Happened::Links }
                Some(call) = sources.inbox.recv() => Happened::Call(call),
                () = self.supervisor.watchdog() => Happened::Handled,
                jumped = jumps.next() => { jumped?; Happened::Jumped }
                () = sleep(trial_left) => Happened::TrialOver,
                () = sleep(restore_in) => {
                    self.restore_at = None;
                    Happened::Changed(knock_firewall::Culprit::default())
                }
                result = traced(&mut sources.trace) => { result?; Happened::Handled }
            };
            match happened {
                Happened::Handled => {}
                Happened::Signal(Some(Signal::Reload)) => self.reload_on_signal(&mut sources).await,
                Happened::Signal(Some(Signal::Stop) | None) => return Ok(()),
                Happened::Changed(culprit) => self.restore(&culprit).await,
                Happened::Links => self.follow_links(&sources.interfaces).await,
                Happened::Call(call) => self.answer(call, &mut sources).await,
                Happened::Jumped => {
                    self.after_jump().await;
                    self.renew_keys_after_jump(&mut sources);
                }
                Happened::Sealed(event) => self.take_sealed(*event).await,
                Happened::KeysChanged => self.keys_changed(),
                Happened::KeysDue => self.renew_keys(&mut sources),
                Happened::TrialOver => self.end_trial().await,
            }
            if self.off {
                return Ok(());
            }
            self.take_rolled().await;
            self.look_for_lost();
            self.begin();
        }
    }

    /// During a flood of completed knocks only: a quiet agent asks the kernel nothing.
    fn look_for_lost(&mut self) {
        const MANY: usize = 1024;
        if self.keeper.pending.len() < MANY {
            return;
        }
        if let Ok(totals) = self.detector.totals() {
            let lost = totals.get(Counter::Candidate(Outcome::EventLost));
            self.keeper.journal.event_lost(lost);
        }
    }

    async fn stop(mut self, lock: Lock) {
        self.supervisor.stopping();
        // Grants that wait are on record; most of them still get into the table.
        self.begin();
        self.firewall().await;
        self.keeper.journal.finish();
        match self.detector.totals() {
            Ok(totals) => {
                let lost = totals.get(Counter::Candidate(Outcome::EventLost));
                self.keeper.journal.event_lost(lost);
                let pair = |(name, n)| format!("{name}={n}");
                let counters: Vec<_> = totals.named().map(pair).collect();
                info!(packets = totals.packets(), counters = counters.join(" "), "counters");
            }
            Err(error) => warn!(%error, "counters could not be read"),
        }
        let knocks: Vec<_> = self.keys.ends().map(|(name, n)| format!("{name}={n}")).collect();
        if !knocks.is_empty() {
            info!(counters = knocks.join(" "), "knocks with keys");
        }
        let clean = self.options.clean || self.off;
        let running = self.keeper.grants.len();
        if clean {
            self.remove_everything(lock).await;
        }
        info!(running_grants = running, clean, "stopped");
    }

    async fn remove_everything(mut self, lock: Lock) {
        if let Err(error) = self.firewall().await.remove() {
            error!(%error, "the table could not be removed");
        }
        let Self { detector, pins, keeper, options, .. } = self;
        drop((detector, keeper));
        if let Some(pins) = pins
            && let Err(error) = pins.remove_all()
        {
            error!(%error, "what is pinned could not be removed");
        }
        // What must not be forgotten stays in there if a key was ever used.
        let _ = std::fs::remove_dir(&options.places.state);
        lock.remove(&options.places);
    }
}

/// For this time, or for ever.
async fn sleep(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
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

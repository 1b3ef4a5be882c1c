//! Keys of devices: kept as their folder has them, and what knocks with them do.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use knock_common::event::Event;
use knock_common::sealed::{Clock, SealedEvent};
use knock_detector::{Detector, DetectorError, MAX_KEYS};
use knock_keys::{Action, Folder, Newest, create_private, slot_of, until_next_slot};
use knock_policy::compile::{LiveSequence, Served, taken};
use knock_policy::{Method, Policy};
use tracing::{debug, error, info, warn};

use super::{Agent, AgentError, Sources, clock, start};
use crate::keyring::{Admission, Denial, Keyring, Misfit, ReplayStore, misfits};
use crate::places::Places;

/// What is done at once when one file after another changes.
const TOGETHER: Duration = Duration::from_millis(50);

/// The keys that the agent knows.
pub(super) struct Keys {
    /// Nothing while no door asks for keys.
    ring: Option<Keyring>,
    folder: PathBuf,
    window: Duration,
    /// When the folder is to be read again.
    reread: Option<Instant>,
    /// What was wrong with its files when it was read last.
    complaints: HashSet<String>,
    /// What of the keys opens nothing beside the config.
    misfits: BTreeSet<Misfit>,
    /// Whether the trie has sequences of keys.
    rolled_before: bool,
    /// The slot in which they were computed.
    slot: u64,
    /// Whether this process found that the file of newest times was lost.
    lost: bool,
    /// The newest time that was too far ahead when that was last told.
    told_ahead: Option<u64>,
    /// Completed sequences of keys, judged, with the time that they waited.
    rolled: Vec<(Duration, IpAddr, Result<Admission, Denial>)>,
    /// How knocks with keys ended.
    ends: BTreeMap<&'static str, u64>,
}

impl Keys {
    /// Reads the keys, if a door of `policy` asks for any.
    pub(super) fn open(policy: &Policy, places: &Places) -> Self {
        let mut keys = Self {
            ring: None,
            folder: policy.keys.clone(),
            window: policy.clock_window,
            reread: None,
            complaints: HashSet::new(),
            misfits: BTreeSet::new(),
            rolled_before: false,
            slot: 0,
            lost: false,
            told_ahead: None,
            rolled: Vec::new(),
            ends: BTreeMap::new(),
        };
        if !wanted(policy) {
            // A later policy may ask for keys, and this process cannot make the folder then.
            let _ = std::fs::DirBuilder::new().recursive(true).create(&places.state);
            return keys;
        }
        if let Err(error) = create_private(&keys.folder) {
            warn!(%error, folder = %keys.folder.display(), "the folder of keys is not there");
        }
        if Folder::new(&keys.folder).is_empty() {
            // Without keys, nothing can have been lost.
            let _ = ReplayStore::found(&places.newest());
        }
        let lost = Newest::lost(clock::wall_ns(), policy.clock_window).0;
        let (replay_store, problem) = ReplayStore::open(&places.newest(), lost);
        if let Some(problem) = problem {
            keys.lost = true;
            let window = humantime::format_duration(policy.clock_window);
            warn!(
                %problem,
                "which knocks with keys were made before is not known: knocks are refused for {window}"
            );
        }
        keys.ring = Some(Keyring::new(Vec::new(), replay_store, policy.clock_window));
        keys.read();
        keys.look_for_misfits(policy);
        keys
    }

    /// Says of each door once that keys know it otherwise than `policy`.
    pub(super) fn look_for_misfits(&mut self, policy: &Policy) {
        let mut found = BTreeMap::new();
        for key in self.ring.iter().flat_map(Keyring::keys) {
            for misfit in misfits(key, policy) {
                let (count, _) = found.entry(misfit).or_insert((0_usize, &key.name));
                *count += 1;
            }
        }
        for (misfit, (count, first)) in &found {
            if !self.misfits.contains(misfit) {
                warn!(
                    problem = %misfit, keys = count, first = first.as_str(),
                    "keys that open nothing there: remove them and add them anew"
                );
            }
        }
        self.misfits = found.into_keys().collect();
    }

    /// Whether these are the keys that `policy` asks for.
    pub(super) fn fit(&self, policy: &Policy) -> bool {
        self.ring.is_some() == wanted(policy)
            && self.folder == policy.keys
            && self.window == policy.clock_window
    }

    pub(super) fn len(&self) -> usize {
        self.ring.as_ref().map_or(0, Keyring::len)
    }

    /// How knocks with keys ended, by name.
    pub(super) fn ends(&self) -> impl Iterator<Item = (String, u64)> {
        self.ends.iter().map(|(name, count)| (format!("key_{name}"), *count))
    }

    fn count(&mut self, name: &'static str) {
        *self.ends.entry(name).or_default() += 1;
    }

    /// Reads all key files. What is wrong with one is said once.
    pub(super) fn read(&mut self) {
        self.reread = None;
        let Some(ring) = &mut self.ring else { return };
        let (mut keys, errors) = Folder::new(&self.folder).read_all();
        // A key that is being rotated has two.
        let most = MAX_KEYS / 2;
        if keys.len() > most {
            error!(keys = keys.len(), most, "too many keys; those that come last are left out");
            keys.truncate(most);
        }
        let complaints: HashSet<_> = errors.iter().map(ToString::to_string).collect();
        for complaint in complaints.difference(&self.complaints) {
            error!(problem = complaint, "a key is refused");
        }
        let refused = complaints.len();
        self.complaints = complaints;
        ring.replace(keys, self.window);
        ring.forget_old(clock::wall_ns());
        info!(keys = ring.len(), refused, "keys read");
    }

    fn rolls(&self, policy: &Policy) -> bool {
        self.ring.as_ref().is_some_and(|ring| ring.rolls(policy))
    }

    /// The sequences that are alive.
    pub(super) fn ways(&mut self, policy: &Policy, served: &Served) -> Vec<LiveSequence> {
        let Some(ring) = &mut self.ring else { return Vec::new() };
        let now_ns = clock::wall_ns();
        let ways = ring.live_sequences(policy, &taken(policy, served), now_ns);
        self.slot = slot_of(now_ns);
        self.rolled_before = !ways.is_empty();
        ways
    }

    /// The detector has not become what the sequences were computed for.
    pub(super) fn compute_again(&mut self) {
        self.rolled_before = true;
        self.reread = Some(Instant::now());
    }

    /// The wall clock was set, or the host has slept.
    fn clock_was_set(&mut self) {
        if self.lost
            && let Some(ring) = &mut self.ring
        {
            ring.lost_until(clock::wall_ns());
        }
    }

    /// Says that a key cannot knock for long, because it was used in what is the future now.
    fn tell_if_ahead(&mut self) {
        let ahead = self.ring.as_ref().and_then(|ring| ring.ahead(clock::wall_ns()));
        if let Some(newest_ns) = ahead
            && self.told_ahead != ahead
        {
            let until = knock_keys::time_to_text(newest_ns / 1_000_000_000);
            error!(
                until,
                "keys count as used up to a time that is far ahead, so the clock was wrong then or is \
                 now: docs/operations.md says what to do"
            );
        }
        self.told_ahead = ahead;
    }

    /// Lets the kernel know what it must, and learns what it knows better.
    ///
    /// # Errors
    ///
    /// If a map cannot be read or written.
    pub(super) fn install(&mut self, detector: &mut Detector) -> Result<(), DetectorError> {
        set_clock(detector, self.window)?;
        self.tell_if_ahead();
        let held = detector.gates()?;
        let Some(ring) = &mut self.ring else {
            return held.keys().try_for_each(|id| detector.remove_gate(*id));
        };
        for (id, gate) in &held {
            ring.learn(*id, gate.newest_ns);
        }
        let gates = ring.gates(clock::wall_ns() / 1_000_000_000);
        for id in held.keys().filter(|id| !gates.contains_key(id)) {
            detector.remove_gate(*id)?;
        }
        for (id, gate) in gates {
            if held.get(&id) != Some(&gate) {
                detector.set_gate(id, gate)?;
            }
        }
        Ok(())
    }

    /// How long until something is to be done: a slot begins, a key ends, or files have changed.
    pub(super) fn due(&self, policy: &Policy) -> Option<Duration> {
        let ring = self.ring.as_ref()?;
        let now_ns = clock::wall_ns();
        let end = ring.next_end(now_ns / 1_000_000_000);
        let end = end.map(|end| {
            Duration::from_nanos(end.saturating_mul(1_000_000_000).saturating_sub(now_ns))
        });
        // A slot may have begun while the sequences of the one before were being written.
        let slot = ring.rolls(policy).then(|| match slot_of(now_ns) == self.slot {
            true => until_next_slot(now_ns),
            false => Duration::ZERO,
        });
        let reread = self.reread.map(|at| at.saturating_duration_since(Instant::now()));
        [end, slot, reread].into_iter().flatten().min()
    }

    /// Judges a completed sequence, if it is one of a key.
    pub(super) fn takes(&mut self, event: &Event, policy: &Policy) -> bool {
        let Some(ring) = &mut self.ring else { return false };
        let source = IpAddr::from(event.source);
        match ring.roll(event.door, source, policy, clock::wall_ns()) {
            None => false,
            Some(result) => {
                self.rolled.push((waited(event.time_ns), source, result));
                true
            }
        }
    }
}

/// Whether any door of `policy` asks for keys.
fn wanted(policy: &Policy) -> bool {
    policy.doors.iter().any(|door| door.method != Method::Sequence)
}

/// Tells the detector the time of day.
fn set_clock(detector: &mut Detector, window: Duration) -> Result<(), DetectorError> {
    let offset_ns = clock::wall_ns().wrapping_sub(nanoseconds(clock::monotonic()));
    detector.set_clock(Clock { offset_ns, window_ns: nanoseconds(window) })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How long an event has waited.
fn waited(time_ns: u64) -> Duration {
    clock::monotonic().saturating_sub(Duration::from_nanos(time_ns))
}

/// Hears of changes in the folder of keys.
pub(super) struct Changes {
    folder: PathBuf,
    stream: Option<EventStream<[u8; 4096]>>,
}

impl Changes {
    /// Listens from now on; the keys are to be read after that.
    pub(super) fn of(policy: &Policy) -> Self {
        let mut changes = Self { folder: policy.keys.clone(), stream: None };
        if wanted(policy) {
            // What cannot be made is told when the keys are read.
            let _ = create_private(&changes.folder);
            changes.listen();
        }
        changes
    }

    fn listen(&mut self) {
        let stream = watch(&self.folder);
        if let Err(error) = &stream {
            warn!(%error, "changed keys are not seen until the agent is told to reload");
        }
        self.stream = stream.ok();
    }

    /// Waits until a file of a key has changed; for ever if nothing can be heard.
    pub(super) async fn next(&mut self) {
        loop {
            let Some(stream) = &mut self.stream else { return std::future::pending().await };
            match stream.next().await {
                Some(Ok(event)) => {
                    let gone = EventMask::MOVE_SELF | EventMask::DELETE_SELF | EventMask::IGNORED;
                    if event.mask.intersects(gone) {
                        // Another folder may be in its place by now.
                        self.listen();
                        return;
                    }
                    let name = event.name.as_deref().map(Path::new);
                    // Without a name, it is the folder itself, or too much has happened.
                    if name.is_none_or(|name| name.extension().is_some_and(|e| e == "toml")) {
                        return;
                    }
                }
                Some(Err(error)) => {
                    warn!(%error, "changed keys are not seen any more");
                    self.stream = None;
                }
                None => self.stream = None,
            }
        }
    }
}

fn watch(folder: &Path) -> std::io::Result<EventStream<[u8; 4096]>> {
    let inotify = Inotify::init()?;
    let changes = WatchMask::CLOSE_WRITE | WatchMask::MOVE | WatchMask::DELETE | WatchMask::ATTRIB;
    let changes = changes | WatchMask::MOVE_SELF | WatchMask::DELETE_SELF;
    inotify.watches().add(folder, changes)?;
    inotify.into_event_stream([0; 4096])
}

impl Agent {
    /// A file of a key has changed; more may follow at once.
    pub(super) fn keys_changed(&mut self) {
        self.keys.reread = Some(Instant::now() + TOGETHER);
    }

    /// The wall clock was set, or the host has slept.
    pub(super) fn renew_keys_after_jump(&mut self, sources: &mut Sources) {
        self.keys.clock_was_set();
        self.renew_keys(sources);
    }

    /// A slot has begun, a key has ended, or files have changed.
    pub(super) fn renew_keys(&mut self, sources: &mut Sources) {
        if self.keys.reread.is_some_and(|at| at <= Instant::now()) {
            self.keys.read();
            self.keys.look_for_misfits(&self.keeper.policy);
        }
        let begun = Instant::now();
        let result = self.try_renew_keys(sources);
        let (took_ms, slot) = (begun.elapsed().as_millis(), self.keys.slot);
        debug!(took_ms, slot, "keys renewed in the detector");
        if let Err(error) = result {
            error!(%error, "the detector does not know the keys as they are");
        }
    }

    fn try_renew_keys(&mut self, sources: &mut Sources) -> Result<(), AgentError> {
        // Whatever becomes of sequences: a key that is gone opens nothing.
        self.keys.install(&mut self.detector)?;
        let policy = &self.keeper.policy;
        let rolls = self.keys.rolls(policy);
        // Once more after the last key that rolls has gone.
        if rolls || self.keys.rolled_before {
            let compiled =
                start::compile_for(self.detector.trie(), policy, &mut self.keys, &self.state)?;
            let settings = start::settings(policy, &self.state, self.options.trace_kernel);
            let mut state = self.state;
            state.next_node = compiled.trie.next().0;
            self.keeper.record.set_state(state)?;
            self.state = state;
            let next = self.next_detector(&compiled, settings)?;
            self.use_detector(next, &compiled, sources)?;
        }
        Ok(())
    }

    /// What a sealed knock asks for is done, if it may ask for that.
    pub(super) async fn take_sealed(&mut self, event: SealedEvent) {
        let Some(ring) = &mut self.keys.ring else { return };
        let result = ring.open(&event, &self.keeper.policy, clock::wall_ns());
        if let Some((id, gate)) = ring.gate_of(&event, clock::wall_ns() / 1_000_000_000)
            && let Err(error) = self.detector.set_gate(id, gate)
        {
            error!(%error, "the detector lets a knock pass that was made before");
        }
        self.admit(waited(event.time_ns), IpAddr::from(event.source), result).await;
    }

    /// The same for sequences that were judged.
    pub(super) async fn take_rolled(&mut self) {
        for (waited, source, result) in std::mem::take(&mut self.keys.rolled) {
            self.admit(waited, source, result).await;
        }
    }

    async fn admit(&mut self, waited: Duration, seen: IpAddr, result: Result<Admission, Denial>) {
        let Admission { key, action, source, doors } = match result {
            Ok(admission) => admission,
            Err(Denial { key, reason }) => {
                self.keys.count(reason.name());
                return self.keeper.journal.denied(key.as_deref(), seen, &reason);
            }
        };
        if waited > self.keeper.policy.late_grants {
            self.keys.count("late");
            if let Some(door) = doors.first().and_then(|(name, _)| self.keeper.policy.door(name)) {
                self.keeper.journal.late(door, seen, waited);
            }
            return;
        }
        let names: Vec<_> = doors.iter().map(|(name, _)| name.as_str()).collect();
        self.keeper.journal.admitted(&key, seen, source, action, &names.join(","));
        match action {
            Action::Open => {
                self.keys.count("opened");
                for (name, lasts) in &doors {
                    self.keeper.knocked(name, source, *lasts);
                }
            }
            Action::Close => {
                self.keys.count("closed");
                let ids: Vec<_> = doors
                    .iter()
                    .filter_map(|(name, _)| Some(self.keeper.policy.door(name)?.id()))
                    .collect();
                let meant = self.keeper.grants.iter().filter(|(grant, running)| {
                    grant.source == source && ids.contains(&running.door)
                });
                let grants: Vec<_> = meant.map(|(grant, _)| grant).collect();
                if let Err(error) = self.revoke(&grants).await {
                    error!(%error, key, "what a key closes stays open until its time is over");
                }
            }
        }
    }
}

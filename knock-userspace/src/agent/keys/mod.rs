//! The keys of devices. This module reads their folder, keeps their sequences current, and judges
//! the knocks that were made with them.

mod folder_watch;
mod knocks;
mod sync;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use knock_common::event::Event;
use knock_common::sealed::{Gate, SealedEvent};
use knock_detector::MAX_KEYS;
use knock_keys::{Folder, Newest, create_private, slot_of, until_next_slot};
use knock_policy::compile::{LiveSequence, Served, taken};
use knock_policy::{Method, Policy};
use tracing::{error, info, warn};

pub(super) use self::folder_watch::FolderWatch;
pub(super) use self::knocks::Judged;
use super::clock;
use crate::instance_paths::InstancePaths;
use crate::keyring::{Admission, Denial, Keyring, Misfit, ReplayStore, misfits};

/// The time from a file's change to the reading of the folder, because several may change at once.
const TOGETHER: Duration = Duration::from_millis(50);

/// The keys that the agent knows.
pub(super) struct Keys {
    /// `None` while no door takes keyed knocks.
    ring: Option<Keyring>,
    folder: PathBuf,
    window: Duration,
    /// When the folder is to be read again.
    reread: Option<Instant>,
    /// The problems of its files when it was last read.
    complaints: HashSet<String>,
    /// The misfits that the log has named.
    misfits: BTreeSet<Misfit>,
    /// Whether the trie has sequences of keys.
    has_sequences: bool,
    /// The slot for which they were computed.
    slot: u64,
    /// Whether this process found the replay store lost.
    replay_state_lost: bool,
    /// The time that the log last named as too far ahead.
    logged_ahead: Option<u64>,
    /// How many keyed knocks had each result.
    results: BTreeMap<&'static str, u64>,
}

impl Keys {
    /// Reads the keys, if a door of `policy` asks for any.
    pub(super) fn open(policy: &Policy, paths: &InstancePaths) -> Self {
        let mut keys = Self {
            ring: None,
            folder: policy.keys.clone(),
            window: policy.clock_window,
            reread: None,
            complaints: HashSet::new(),
            misfits: BTreeSet::new(),
            has_sequences: false,
            slot: 0,
            replay_state_lost: false,
            logged_ahead: None,
            results: BTreeMap::new(),
        };
        if !wanted(policy) {
            // A later policy may ask for keys, and this process cannot make the folder then.
            let _ = std::fs::DirBuilder::new().recursive(true).create(&paths.state);
            return keys;
        }
        if let Err(error) = create_private(&keys.folder) {
            warn!(%error, folder = %keys.folder.display(), "the folder of keys is not there");
        }
        if Folder::new(&keys.folder).is_empty() {
            // Without keys, nothing can have been lost.
            let _ = ReplayStore::create_if_absent(&paths.newest());
        }
        let lost = Newest::lost(clock::wall_ns(), policy.clock_window).0;
        let (replay_store, problem) = ReplayStore::open(&paths.newest(), lost);
        if let Some(problem) = problem {
            keys.replay_state_lost = true;
            let window = humantime::format_duration(policy.clock_window);
            warn!(
                %problem,
                "replay state lost; refusing keyed knocks for {window}"
            );
        }
        keys.ring = Some(Keyring::new(Vec::new(), replay_store, policy.clock_window));
        keys.read();
        keys.look_for_misfits(policy);
        keys
    }

    /// Logs each misfit between keys and `policy` once.
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

    /// Returns how many keyed knocks had each result, by name.
    pub(super) fn results(&self) -> impl Iterator<Item = (String, u64)> {
        self.results.iter().map(|(name, count)| (format!("key_{name}"), *count))
    }

    /// Counts the result of a keyed knock.
    pub(super) fn count(&mut self, name: &'static str) {
        *self.results.entry(name).or_default() += 1;
    }

    /// Reads all key files. The log names each problem once.
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

    /// Computes and returns the sequences that are alive now, and notes their slot.
    pub(super) fn refresh_sequences(
        &mut self,
        policy: &Policy,
        served: &Served,
    ) -> Vec<LiveSequence> {
        let Some(ring) = &mut self.ring else { return Vec::new() };
        let now_ns = clock::wall_ns();
        let live = ring.live_sequences(policy, &taken(policy, served), now_ns);
        self.slot = slot_of(now_ns);
        self.has_sequences = !live.is_empty();
        live
    }

    /// Marks the sequences stale, because the detector could not take them. They are computed again
    /// on the next turn of the event loop.
    pub(super) fn mark_stale(&mut self) {
        self.has_sequences = true;
        self.reread = Some(Instant::now());
    }

    /// Schedules another renewal of the detector's keys after a pause, because it refused them.
    pub(super) fn retry_soon(&mut self) {
        /// Long enough not to keep a kernel busy that has no memory left.
        const RETRY: Duration = Duration::from_millis(500);
        // A slot that begins is due at once, and would be for as long as the detector refuses.
        self.slot = slot_of(clock::wall_ns());
        self.has_sequences = true;
        self.reread = Some(Instant::now() + RETRY);
    }

    /// Schedules a reading of the folder, because a file in it has changed. Others may change with
    /// it.
    pub(super) fn read_soon(&mut self) {
        self.reread = Some(Instant::now() + TOGETHER);
    }

    /// Reads the folder again if that is due.
    pub(super) fn read_if_due(&mut self, policy: &Policy) {
        if self.reread.is_some_and(|at| at <= Instant::now()) {
            self.read();
            self.look_for_misfits(policy);
        }
    }

    /// Whether the detector's sequences must be renewed: it has some, or a key should have some.
    pub(super) fn need_sequences(&self, policy: &Policy) -> bool {
        self.has_sequences || self.ring.as_ref().is_some_and(|ring| ring.has_rolling_doors(policy))
    }

    /// Returns the slot for which the sequences were computed.
    pub(super) const fn slot(&self) -> u64 {
        self.slot
    }

    /// Raises the floor of a replay store that was lost, after the wall clock was set or the host
    /// has slept. The clock may have been wrong when the floor was chosen.
    pub(super) fn clock_was_set(&mut self) {
        if self.replay_state_lost
            && let Some(ring) = &mut self.ring
        {
            ring.raise_floor(clock::wall_ns());
        }
    }

    /// Returns how long it is until keys must be renewed: a slot begins, a key ends, or files have
    /// changed.
    pub(super) fn due(&self, policy: &Policy) -> Option<Duration> {
        let ring = self.ring.as_ref()?;
        let now_ns = clock::wall_ns();
        let end = ring.next_expiry(clock::wall_s()).map(|end_s| {
            Duration::from_nanos(end_s.saturating_mul(1_000_000_000).saturating_sub(now_ns))
        });
        // A slot may have begun while the sequences of the one before were being written.
        let slot = ring.has_rolling_doors(policy).then(|| match slot_of(now_ns) == self.slot {
            true => until_next_slot(now_ns),
            false => Duration::ZERO,
        });
        let reread = self.reread.map(|at| at.saturating_duration_since(Instant::now()));
        [end, slot, reread].into_iter().flatten().min()
    }

    /// Judges a completed sequence. Returns `None` if no key has it. If it is admitted, its slot is
    /// used up on disk when this returns.
    pub(super) fn judge_sequence(
        &mut self,
        event: &Event,
        policy: &Policy,
    ) -> Option<Result<Admission, Denial>> {
        let ring = self.ring.as_mut()?;
        ring.judge_sequence(event.door, IpAddr::from(event.source), policy, clock::wall_ns())
    }

    /// Judges a sealed knock. Returns `None` if no door takes keyed knocks. If it counts, its time
    /// is used up on disk when this returns.
    pub(super) fn judge_sealed(
        &mut self,
        event: &SealedEvent,
        policy: &Policy,
    ) -> Option<Result<Admission, Denial>> {
        Some(self.ring.as_mut()?.judge_sealed(event, policy, clock::wall_ns()))
    }

    /// Returns how packets with the key of `event` are checked from now on, if that key is alive.
    pub(super) fn gate_of(&self, event: &SealedEvent) -> Option<(u64, Gate)> {
        self.ring.as_ref()?.gate_of(event, clock::wall_s())
    }
}

/// Whether any door of `policy` takes keyed knocks.
fn wanted(policy: &Policy) -> bool {
    policy.doors.iter().any(|door| door.method != Method::Sequence)
}

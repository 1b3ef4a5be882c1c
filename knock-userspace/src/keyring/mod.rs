//! The host's keys while the agent runs. This module computes the gates that the kernel checks
//! packets with and the rolling sequences that are alive, and judges keyed knocks. Time comes from
//! the caller.

mod admission;
mod fit;
mod replay_store;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use knock_common::sealed::{Gate, SealedEvent, key_id};
use knock_common::sequence::{DoorId, Step};
use knock_keys::{
    Action, Key, KeyDoor, KeyId, Newest, OpenError, Opener, Roller, SLOT, Verifier, check_time,
    slot_of,
};
use knock_policy::compile::LiveSequence;
use knock_policy::{Door, Method, Policy};
use sha2::{Digest as _, Sha256};

pub use self::admission::{Admission, Denial, DenialReason};
use self::admission::{judge, limit};
pub use fit::{Misfit, has_knocked, misfits};
pub use replay_store::{ReplayStore, ReplayStoreError};

/// The greatest number that can be a slot. Greater ones are times in nanoseconds.
const LAST_SLOT: u64 = u64::MAX / SLOT.as_nanos() as u64;
/// How long the replay store remembers a key that no longer exists.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);

/// All keys, with what is derived from them.
#[derive(Debug)]
pub struct Keyring {
    keys: Vec<Key>,
    secrets: HashMap<KeyId, LiveSecret>,
    /// The sequences that are alive, by the identifier that events carry.
    sequences: HashMap<DoorId, Sequence>,
    replay_store: ReplayStore,
    /// Owners whose newest number could not be written, so that only this process knows it.
    unwritten: HashSet<u64>,
    window: Duration,
}

/// One secret of a key. A key that is being rotated has two.
#[derive(Debug)]
struct LiveSecret {
    /// Index of its key.
    key: usize,
    /// When it expires, in seconds since 1970, if that is before its key does.
    until: Option<u64>,
    opener: Opener,
    /// `None` for a key pair.
    roller: Option<Roller>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sequence {
    secret_id: KeyId,
    /// Index among the doors of its key.
    door: usize,
    slot: u64,
    steps: Vec<Step>,
}

impl Keyring {
    /// Makes a ring of these keys. `window` is how far the clock of a device may be off.
    pub fn new(keys: Vec<Key>, replay_store: ReplayStore, window: Duration) -> Self {
        let mut ring = Self {
            keys: Vec::new(),
            secrets: HashMap::new(),
            sequences: HashMap::new(),
            replay_store,
            unwritten: HashSet::new(),
            window,
        };
        ring.replace(keys, window);
        ring
    }

    /// Replaces the keys. The replay store stays, so what was used before does not count again.
    pub fn replace(&mut self, keys: Vec<Key>, window: Duration) {
        self.secrets.clear();
        for (index, key) in keys.iter().enumerate() {
            let previous = key.previous.as_ref().map(|(secret, until)| (secret, Some(*until)));
            for (secret, until) in [Some((&key.current, None)), previous].into_iter().flatten() {
                // Key files with an invalid public key are refused when they are read.
                let Some(opener) = Opener::new(&secret.verifier) else { continue };
                let roller = match &secret.verifier {
                    Verifier::Shared(secret) => Some(Roller::shared(secret)),
                    Verifier::Public { .. } => None,
                };
                self.secrets.insert(secret.id, LiveSecret { key: index, until, opener, roller });
            }
        }
        (self.keys, self.window) = (keys, window);
    }

    /// Counts everything up to a window from `now_ns` as used. This is for a replay store that was
    /// lost while the clock may have been wrong.
    pub fn raise_floor(&mut self, now_ns: u64) {
        let lost = Newest::lost(now_ns, self.window).0;
        if let Err(error) = self.replay_store.raise_floor(lost) {
            tracing::warn!(%error, "the floor of the replay store cannot be written");
        }
    }

    /// Returns the newest time that a key was used for, in nanoseconds since 1970, if it is further
    /// ahead than any clock may be. Knocks with that key are refused until then. The clock of the
    /// host or of the device was wrong.
    pub fn blocked_until(&self, now_ns: u64) -> Option<u64> {
        let newest = self.secrets.keys().map(|id| self.replay_store.get(id.number()));
        newest.max().filter(|&newest| newest > Newest::lost(now_ns, self.window).0)
    }

    /// Removes the records of keys that no longer exist, 30 days after their last use. A key file
    /// that is damaged now may be repaired later, and its key must not accept old knocks then.
    pub fn forget_old(&mut self, now_ns: u64) {
        let mut owners: HashSet<u64> = self.secrets.keys().map(|id| id.number()).collect();
        for (id, secret) in &self.secrets {
            owners
                .extend(self.keys[secret.key].doors.iter().map(|door| slot_owner(*id, &door.name)));
        }
        let old = now_ns.saturating_sub(FORGOTTEN_AFTER.as_nanos() as u64);
        self.replay_store.retain(|owner, number| {
            let time_ns = if number > LAST_SLOT { number } else { number * SLOT.as_nanos() as u64 };
            owners.contains(&owner) || time_ns > old
        });
    }

    /// Returns all keys.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Returns the number of keys.
    pub const fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are no keys.
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the gates that the kernel checks sealed knocks with at `now_s`, in seconds since
    /// 1970, by the number of the key's id.
    pub fn gates(&self, now_s: u64) -> HashMap<u64, Gate> {
        let alive = self.secrets.iter().filter(|(_, secret)| self.is_alive(secret, now_s));
        alive.map(|(id, secret)| (id.number(), self.gate(*id, secret))).collect()
    }

    fn gate(&self, id: KeyId, secret: &LiveSecret) -> Gate {
        Gate { prefilter: secret.opener.prefilter(), newest_ns: self.replay_store.get(id.number()) }
    }

    /// Returns when the next key or secret expires after `now_s`, both in seconds since 1970.
    pub fn next_expiry(&self, now_s: u64) -> Option<u64> {
        let expiries =
            self.secrets.values().flat_map(|secret| [secret.until, self.keys[secret.key].expires]);
        expiries.flatten().filter(|&expiry| expiry > now_s).min()
    }

    fn is_alive(&self, secret: &LiveSecret, now_s: u64) -> bool {
        !self.keys[secret.key].has_expired(now_s) && secret.until.is_none_or(|until| until > now_s)
    }

    /// Whether any key opens a rolling door of `policy`.
    pub fn has_rolling_doors(&self, policy: &Policy) -> bool {
        let is_rolling = |door: &&Door| matches!(door.method, Method::Rolling { .. });
        let doors: HashSet<&str> =
            policy.doors.iter().filter(is_rolling).map(|door| door.name.as_str()).collect();
        let known = self.keys.iter().flat_map(|key| &key.doors);
        !doors.is_empty() && known.into_iter().any(|door| doors.contains(door.name.as_str()))
    }

    /// Returns the sequences that are alive at `now_ns`, in nanoseconds since 1970: those of the
    /// previous, the current and the next slot that were not used. Sequences with a port in `taken`
    /// are left out, because the host uses that port otherwise by now.
    pub fn live_sequences(
        &mut self,
        policy: &Policy,
        taken: &HashSet<Step>,
        now_ns: u64,
    ) -> Vec<LiveSequence> {
        let now_s = seconds(now_ns);
        let current = slot_of(now_ns);
        let doors: HashMap<&str, &Door> =
            policy.doors.iter().map(|door| (door.name.as_str(), door)).collect();
        let mut before = std::mem::take(&mut self.sequences);
        let mut live = Vec::new();
        for (&id, secret) in &self.secrets {
            let (Some(roller), true) = (&secret.roller, self.is_alive(secret, now_s)) else {
                continue;
            };
            for (index, door) in self.keys[secret.key].doors.iter().enumerate() {
                let Some(policy_door) = doors.get(door.name.as_str()) else { continue };
                let Some(settings) = rolling(policy_door, door) else { continue };
                let used = self.newest_slot(id, door);
                for slot in current.saturating_sub(1)..=current + 1 {
                    if slot <= used {
                        continue;
                    }
                    let name = sequence_id(id, door, slot);
                    let sequence = before.remove(&name).unwrap_or_else(|| Sequence {
                        secret_id: id,
                        door: index,
                        slot,
                        steps: roller.steps(&door.name, slot, settings),
                    });
                    if !sequence.steps.iter().any(|step| taken.contains(step)) {
                        let steps = sequence.steps.clone();
                        live.push(LiveSequence { id: name, steps, within: policy_door.within });
                    }
                    self.sequences.insert(name, Sequence { door: index, ..sequence });
                }
            }
        }
        live
    }

    fn newest_slot(&self, id: KeyId, door: &KeyDoor) -> u64 {
        let number = self.replay_store.get(slot_owner(id, &door.name));
        // After the store was lost, the number may be its floor, which is a time.
        if number > LAST_SLOT { slot_of(number) + 1 } else { number }
    }

    /// Judges the completed sequence that events call `id`. Returns `None` if no key has such a
    /// sequence.
    ///
    /// # Errors
    ///
    /// If it opens nothing.
    pub fn judge_sequence(
        &mut self,
        id: DoorId,
        source: IpAddr,
        policy: &Policy,
        now_ns: u64,
    ) -> Option<Result<Admission, Denial>> {
        let Sequence { secret_id, door, slot, .. } = self.sequences.get(&id)?.clone();
        let secret = self.secrets.get(&secret_id)?;
        let key = &self.keys[secret.key];
        let name = key.name.clone();
        let deny = |reason| Some(Err(Denial { key: Some(name.clone()), reason }));
        if !self.is_alive(secret, seconds(now_ns)) {
            return deny(DenialReason::Expired);
        }
        let key_door = key.doors.get(door)?;
        let found = policy.doors.iter().find(|door| door.name == key_door.name);
        let Some(policy_door) = found.filter(|found| rolling(found, key_door).is_some()) else {
            return deny(DenialReason::Door);
        };
        if slot.abs_diff(slot_of(now_ns)) > 1 {
            return deny(DenialReason::Slot);
        }
        if slot <= self.newest_slot(secret_id, key_door) {
            return deny(DenialReason::Used);
        }
        let lasts = limit(policy_door, key);
        let doors = vec![(policy_door.name.clone(), lasts)];
        let owner = slot_owner(secret_id, &key_door.name);
        let lost = slot_of(Newest::lost(now_ns, self.window).0) + 1;
        // Before it opens anything: a sequence that was used must not count again.
        if let Err(reason) = self.write_down(owner, slot, lost) {
            return deny(reason);
        }
        Some(Ok(Admission { key: name, action: Action::Open, source, doors }))
    }

    /// Judges a sealed packet that passed the kernel's check.
    ///
    /// # Errors
    ///
    /// If it opens nothing.
    pub fn judge_sealed(
        &mut self,
        event: &SealedEvent,
        policy: &Policy,
        now_ns: u64,
    ) -> Result<Admission, Denial> {
        let id = KeyId::from(key_id(&event.packet));
        let Some(secret) = self.secrets.get(&id) else {
            return Err(Denial { key: None, reason: DenialReason::UnknownKey });
        };
        let key = &self.keys[secret.key];
        let name = key.name.clone();
        let deny = |reason| Denial { key: Some(name.clone()), reason };
        let request = secret.opener.open(&event.packet).map_err(|error| Denial {
            // Without a valid tag, any host may have sent it.
            key: (error != OpenError::Tag).then(|| name.clone()),
            reason: error.into(),
        })?;
        let alive = self.is_alive(secret, seconds(now_ns));
        check_time(request.time_ns, now_ns, self.window).map_err(|error| deny(error.into()))?;
        let source = IpAddr::from(event.source);
        let judged = judge(&request, source, key, policy);
        // From here on the packet counts as used, whatever it asks for.
        let mut newest = Newest(self.replay_store.get(id.number()));
        newest.accept(request.time_ns).map_err(|error| deny(error.into()))?;
        let lost = Newest::lost(now_ns, self.window).0;
        self.write_down(id.number(), request.time_ns, lost).map_err(&deny)?;
        if !alive {
            return Err(deny(DenialReason::Expired));
        }
        judged.map_err(deny)
    }

    /// Writes down the newest number of `owner` on disk.
    ///
    /// The first time that this fails, everything up to `lost` counts as used. After that only this
    /// process knows what is new, so later failures are no errors.
    fn write_down(&mut self, owner: u64, number: u64, lost: u64) -> Result<(), DenialReason> {
        let written = self.replay_store.set(owner, number).and_then(|()| self.replay_store.sync());
        match written {
            Ok(()) => {
                self.unwritten.remove(&owner);
                Ok(())
            }
            Err(error) => {
                if !self.unwritten.insert(owner) {
                    return Ok(());
                }
                tracing::warn!(%error, "the newest knock of a key cannot be written to disk");
                let _ = self.replay_store.set(owner, lost);
                Err(DenialReason::NotKept)
            }
        }
    }

    /// Returns the gate of the key that a packet names, by the number of the key's id, if that key
    /// is alive at `now_s`, in seconds since 1970.
    pub fn gate_of(&self, event: &SealedEvent, now_s: u64) -> Option<(u64, Gate)> {
        let id = KeyId::from(key_id(&event.packet));
        let secret = self.secrets.get(&id).filter(|secret| self.is_alive(secret, now_s))?;
        Some((id.number(), self.gate(id, secret)))
    }

    /// Raises the newest time of the key `id` to the one that the kernel has kept, which may be
    /// newer than the one in the file.
    pub fn raise_newest(&mut self, id: u64, newest_ns: u64) {
        if self.replay_store.get(id) < newest_ns && self.secrets.contains_key(&KeyId::from(id)) {
            let _ = self.replay_store.set(id, newest_ns);
        }
    }
}

/// Returns the settings of a key's sequences at `door`, if that is a rolling door and was one when
/// the key was made.
fn rolling<'a>(door: &Door, known: &'a KeyDoor) -> Option<&'a knock_keys::Rolling> {
    match (&door.method, &known.method) {
        (Method::Rolling { .. }, knock_keys::KeyMethod::Rolling(settings)) => Some(settings),
        _ => None,
    }
}

const fn seconds(ns: u64) -> u64 {
    ns / 1_000_000_000
}

/// Returns the number under which the replay store has the newest slot of a key at a door.
fn slot_owner(id: KeyId, door: &str) -> u64 {
    let hash = Sha256::new()
        .chain_update(b"xknock v1 slot")
        .chain_update(id.0)
        .chain_update(door)
        .finalize();
    let mut number = [0; 8];
    number.copy_from_slice(&hash[..8]);
    u64::from_le_bytes(number).max(1)
}

/// Returns the identifier that events carry for the sequence of a key at a door in a slot. It is
/// the same after a restart, when knocks from before may still wait in the ring buffer.
fn sequence_id(id: KeyId, door: &KeyDoor, slot: u64) -> DoorId {
    DoorId::of(&format!("{id}/{slot}/{}", door.name))
}

#[cfg(test)]
mod tests;

//! The host's keys while the agent runs: which packets the kernel lets through, which
//! sequences are alive, and what a knock with a key opens. Time comes from the caller.

mod fit;
mod numbers;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use knock_common::sealed::{Gate, SealedEvent, key_id};
use knock_common::sequence::{DoorId, Step};
use sha2::{Digest as _, Sha256};

pub use fit::{Misfit, has_knocked, misfits};
pub use numbers::{Numbers, NumbersError};

use crate::compile::Way;
use crate::keys::{
    self, Action, Address, Addresses, DoorTag, Key, KeyDoor, KeyId, Newest, OpenError, Opener,
    Request, Roller, SLOT, Stale, Verifier, check_time, slot_of,
};
use crate::policy::{Door, Method, Policy};

/// The greatest number that can be a slot; greater ones are times in nanoseconds.
const LAST_SLOT: u64 = u64::MAX / SLOT.as_nanos() as u64;
/// How long it is known what a key was used for that is no more.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// All keys that are alive.
#[derive(Debug)]
pub struct Keyring {
    keys: Vec<Key>,
    parts: HashMap<KeyId, Part>,
    /// Sequences that are alive, by what events call them.
    sequences: HashMap<DoorId, Sequence>,
    numbers: Numbers,
    /// Numbers that could not be written: they are known to this process alone.
    unwritten: HashSet<u64>,
    window: Duration,
}

/// One secret of a key.
#[derive(Debug)]
struct Part {
    /// Its key.
    key: usize,
    /// When it ends before its key, in seconds since 1970.
    until: Option<u64>,
    opener: Opener,
    /// None of a key pair.
    roller: Option<Roller>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sequence {
    part: KeyId,
    /// Place among the doors of its key.
    door: usize,
    slot: u64,
    steps: Vec<Step>,
}

/// What a knock with a key is allowed to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The key's name.
    pub key: String,
    /// To open or to close.
    pub action: Action,
    /// For whom.
    pub source: IpAddr,
    /// Which doors, and for how long.
    pub doors: Vec<(String, Duration)>,
}

/// A knock with a key that opens nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The key's name, if the knock was made with what belongs to it.
    pub key: Option<String>,
    /// Why.
    pub reason: Reason,
}

/// Why a knock with a key opens nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No key has the id that it names.
    #[error("no key has this id")]
    UnknownKey,
    /// It was not made with the key that it names.
    #[error(transparent)]
    NotOpened(#[from] OpenError),
    /// Its time is not to be believed.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// What makes it new cannot be kept, so it could come again.
    #[error(
        "that it was made cannot be kept; knocks of this key are refused until none of those \
         made before could be replayed"
    )]
    NotKept,
    /// The key has ended.
    #[error("the key has ended")]
    Expired,
    /// The key does not open such a door.
    #[error("the key opens no such door")]
    Door,
    /// The door does not take the address.
    #[error("it is for {0}, which the door does not open for")]
    Address(IpAddr),
    /// The door does not take knocks that name no address.
    #[error("it names no address, which the door asks for")]
    NoAddress,
    /// The door or the key does not open for so long.
    #[error("it wants {wanted} s, but {limit} s are the limit")]
    TooLong {
        /// Seconds that it asked for.
        wanted: u32,
        /// Seconds that are allowed.
        limit: u64,
    },
    /// The sequence has opened a door before.
    #[error("a sequence that was used before")]
    Used,
    /// The sequence belongs to another time.
    #[error("a sequence of another time")]
    Slot,
}

impl Reason {
    /// Short name for counters.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown_key",
            Self::NotOpened(OpenError::Version(_)) => "wrong_version",
            Self::NotOpened(OpenError::Signature) => "wrong_signature",
            Self::NotOpened(OpenError::Malformed(_) | OpenError::TwoTimes) => "malformed",
            Self::NotOpened(_) => "wrong_key",
            Self::Stale(Stale::Clock(_)) => "wrong_time",
            Self::Stale(Stale::Replayed) => "replayed",
            Self::NotKept => "not_kept",
            Self::Expired => "expired",
            Self::Door => "wrong_door",
            Self::Address(_) | Self::NoAddress => "wrong_address",
            Self::TooLong { .. } => "too_long",
            Self::Used => "used",
            Self::Slot => "wrong_slot",
        }
    }
}

impl Keyring {
    /// A ring of these keys. `window` is how far the clock of a device may be off.
    pub fn new(keys: Vec<Key>, numbers: Numbers, window: Duration) -> Self {
        let mut ring = Self {
            keys: Vec::new(),
            parts: HashMap::new(),
            sequences: HashMap::new(),
            numbers,
            unwritten: HashSet::new(),
            window,
        };
        ring.replace(keys, window);
        ring
    }

    /// Takes these keys in the place of those that it has. What was used stays used.
    pub fn replace(&mut self, keys: Vec<Key>, window: Duration) {
        self.parts.clear();
        for (place, key) in keys.iter().enumerate() {
            let previous = key.previous.as_ref().map(|(part, until)| (part, Some(*until)));
            for (part, until) in [Some((&key.current, None)), previous].into_iter().flatten() {
                // Key files with a public key that is none are refused when they are read.
                let Some(opener) = Opener::new(&part.verifier) else { continue };
                let roller = match &part.verifier {
                    Verifier::Shared(secret) => Some(Roller::shared(secret)),
                    Verifier::Public { .. } => None,
                };
                self.parts.insert(part.id, Part { key: place, until, opener, roller });
            }
        }
        (self.keys, self.window) = (keys, window);
    }

    /// The file of what was used was lost and the clock was set since: it may have been wrong
    /// then, so everything up to a window from `now_ns` counts as used.
    pub fn lost_until(&mut self, now_ns: u64) {
        let lost = Newest::lost(now_ns, self.window).0;
        if let Err(error) = self.numbers.raise_floor(lost) {
            tracing::warn!(%error, "what may have been used of keys cannot be written down");
        }
    }

    /// What a key was used for that is further ahead than any clock may be, in nanoseconds since
    /// 1970: knocks are refused until then. Either clock was wrong.
    pub fn ahead(&self, now_ns: u64) -> Option<u64> {
        let newest = self.parts.keys().map(|id| self.numbers.get(id.number()));
        newest.max().filter(|&newest| newest > Newest::lost(now_ns, self.window).0)
    }

    /// Frees what is known of keys that are no more. Not at once: a file that is damaged today
    /// may be mended tomorrow, and what it was used for still counts then.
    pub fn forget_old(&mut self, now_ns: u64) {
        let mut owners: HashSet<u64> = self.parts.keys().map(|id| id.number()).collect();
        for (id, part) in &self.parts {
            owners.extend(self.keys[part.key].doors.iter().map(|door| slot_owner(*id, &door.name)));
        }
        let old = now_ns.saturating_sub(KEPT.as_nanos() as u64);
        self.numbers.retain(|owner, number| {
            let time_ns = if number > LAST_SLOT { number } else { number * SLOT.as_nanos() as u64 };
            owners.contains(&owner) || time_ns > old
        });
    }

    /// All of them.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// How many keys there are.
    pub const fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What the kernel checks sealed knocks with at `now_s`, in seconds since 1970.
    pub fn gates(&self, now_s: u64) -> HashMap<u64, Gate> {
        let alive = self.parts.iter().filter(|(_, part)| self.is_alive(part, now_s));
        alive.map(|(id, part)| (id.number(), self.gate(*id, part))).collect()
    }

    fn gate(&self, id: KeyId, part: &Part) -> Gate {
        Gate { prefilter: part.opener.prefilter(), newest_ns: self.numbers.get(id.number()) }
    }

    /// When the next key or part of one ends after `now_s`, both in seconds since 1970.
    pub fn next_end(&self, now_s: u64) -> Option<u64> {
        let ends = self.parts.values().flat_map(|part| [part.until, self.keys[part.key].expires]);
        ends.flatten().filter(|&end| end > now_s).min()
    }

    fn is_alive(&self, part: &Part, now_s: u64) -> bool {
        !self.keys[part.key].has_expired(now_s) && part.until.is_none_or(|until| until > now_s)
    }

    /// Whether any key opens a rolling door of `policy`.
    pub fn rolls(&self, policy: &Policy) -> bool {
        let rolls = |door: &&Door| matches!(door.method, Method::Rolling { .. });
        let doors: HashSet<&str> =
            policy.doors.iter().filter(rolls).map(|door| door.name.as_str()).collect();
        let known = self.keys.iter().flat_map(|key| &key.doors);
        !doors.is_empty() && known.into_iter().any(|door| doors.contains(door.name.as_str()))
    }

    /// The sequences that are alive at `now_ns`, in nanoseconds since 1970: of the previous,
    /// the current and the next slot, but those that were used. `taken` are ports that are
    /// something else to the host now, although they were not when the key was made.
    pub fn ways(&mut self, policy: &Policy, taken: &HashSet<Step>, now_ns: u64) -> Vec<Way> {
        let now_s = seconds(now_ns);
        let current = slot_of(now_ns);
        let doors: HashMap<&str, &Door> =
            policy.doors.iter().map(|door| (door.name.as_str(), door)).collect();
        let mut before = std::mem::take(&mut self.sequences);
        let mut ways = Vec::new();
        for (&id, part) in &self.parts {
            let (Some(roller), true) = (&part.roller, self.is_alive(part, now_s)) else { continue };
            for (place, door) in self.keys[part.key].doors.iter().enumerate() {
                let Some(policy_door) = doors.get(door.name.as_str()) else { continue };
                let Some(settings) = rolling(policy_door, door) else { continue };
                let used = self.newest_slot(id, door);
                for slot in current.saturating_sub(1)..=current + 1 {
                    if slot <= used {
                        continue;
                    }
                    let name = sequence_id(id, door, slot);
                    let sequence = before.remove(&name).unwrap_or_else(|| Sequence {
                        part: id,
                        door: place,
                        slot,
                        steps: roller.steps(&door.name, slot, settings),
                    });
                    if !sequence.steps.iter().any(|step| taken.contains(step)) {
                        let steps = sequence.steps.clone();
                        ways.push(Way { id: name, steps, within: policy_door.within });
                    }
                    self.sequences.insert(name, Sequence { door: place, ..sequence });
                }
            }
        }
        ways
    }

    fn newest_slot(&self, id: KeyId, door: &KeyDoor) -> u64 {
        let number = self.numbers.get(slot_owner(id, &door.name));
        // What was never written may be a time, because sealed knocks have one.
        if number > LAST_SLOT { slot_of(number) + 1 } else { number }
    }

    /// Judges a completed sequence that an event calls `id`; `None` if it is none of a key.
    ///
    /// # Errors
    ///
    /// Why it opens nothing.
    pub fn roll(
        &mut self,
        id: DoorId,
        source: IpAddr,
        policy: &Policy,
        now_ns: u64,
    ) -> Option<Result<Admission, Denial>> {
        let Sequence { part: part_id, door, slot, .. } = self.sequences.get(&id)?.clone();
        let part = self.parts.get(&part_id)?;
        let key = &self.keys[part.key];
        let name = key.name.clone();
        let deny = |reason| Some(Err(Denial { key: Some(name.clone()), reason }));
        if !self.is_alive(part, seconds(now_ns)) {
            return deny(Reason::Expired);
        }
        let key_door = key.doors.get(door)?;
        let found = policy.doors.iter().find(|door| door.name == key_door.name);
        let Some(policy_door) = found.filter(|found| rolling(found, key_door).is_some()) else {
            return deny(Reason::Door);
        };
        if slot.abs_diff(slot_of(now_ns)) > 1 {
            return deny(Reason::Slot);
        }
        if slot <= self.newest_slot(part_id, key_door) {
            return deny(Reason::Used);
        }
        let lasts = limit(policy_door, key);
        let doors = vec![(policy_door.name.clone(), lasts)];
        let owner = slot_owner(part_id, &key_door.name);
        let lost = slot_of(Newest::lost(now_ns, self.window).0) + 1;
        if let Err(reason) = self.keep(owner, slot, lost) {
            return deny(reason);
        }
        Some(Ok(Admission { key: name, action: Action::Open, source, doors }))
    }

    /// Judges a packet that passed the kernel's check.
    ///
    /// # Errors
    ///
    /// Why it opens nothing.
    pub fn open(
        &mut self,
        event: &SealedEvent,
        policy: &Policy,
        now_ns: u64,
    ) -> Result<Admission, Denial> {
        let id = KeyId::from(key_id(&event.packet));
        let Some(part) = self.parts.get(&id) else {
            return Err(Denial { key: None, reason: Reason::UnknownKey });
        };
        let key = &self.keys[part.key];
        let name = key.name.clone();
        let deny = |reason| Denial { key: Some(name.clone()), reason };
        let request = part.opener.open(&event.packet).map_err(|error| Denial {
            // Without a valid tag, anybody may have sent it.
            key: (error != OpenError::Tag).then(|| name.clone()),
            reason: error.into(),
        })?;
        let alive = self.is_alive(part, seconds(now_ns));
        check_time(request.time_ns, now_ns, self.window).map_err(|error| deny(error.into()))?;
        let source = IpAddr::from(event.source);
        let judged = judge(&request, source, key, policy);
        // It counts from here on, whatever it asks for.
        let mut newest = Newest(self.numbers.get(id.number()));
        newest.accept(request.time_ns).map_err(|error| deny(error.into()))?;
        let lost = Newest::lost(now_ns, self.window).0;
        self.keep(id.number(), request.time_ns, lost).map_err(&deny)?;
        if !alive {
            return Err(deny(Reason::Expired));
        }
        judged.map_err(deny)
    }

    /// Notes a number for good. If it cannot be written, everything up to `lost` counts as used
    /// the first time, so that this process alone can know what is new after that.
    fn keep(&mut self, owner: u64, number: u64, lost: u64) -> Result<(), Reason> {
        let written = self.numbers.set(owner, number).and_then(|()| self.numbers.sync());
        match written {
            Ok(()) => {
                self.unwritten.remove(&owner);
                Ok(())
            }
            Err(error) => {
                if !self.unwritten.insert(owner) {
                    return Ok(());
                }
                tracing::warn!(%error, "the newest knock of a key cannot be written down");
                let _ = self.numbers.set(owner, lost);
                Err(Reason::NotKept)
            }
        }
    }

    /// The gate of the key that a packet names, if that is alive at `now_s`, in seconds since
    /// 1970.
    pub fn gate_of(&self, event: &SealedEvent, now_s: u64) -> Option<(u64, Gate)> {
        let id = KeyId::from(key_id(&event.packet));
        let part = self.parts.get(&id).filter(|part| self.is_alive(part, now_s))?;
        Some((id.number(), self.gate(id, part)))
    }

    /// Notes what the kernel has kept of a key: it may know more than the file.
    pub fn learn(&mut self, id: u64, newest_ns: u64) {
        if self.numbers.get(id) < newest_ns && self.parts.contains_key(&KeyId::from(id)) {
            let _ = self.numbers.set(id, newest_ns);
        }
    }
}

/// The settings of a key's sequences at `door`, if that is a rolling door and was one when
/// the key was made.
fn rolling<'a>(door: &Door, known: &'a KeyDoor) -> Option<&'a keys::Rolling> {
    match (&door.method, &known.method) {
        (Method::Rolling { .. }, keys::Method::Rolling(settings)) => Some(settings),
        _ => None,
    }
}

/// How long a key opens a door for at most.
fn limit(door: &Door, key: &Key) -> Duration {
    key.longest.map_or(door.open_for, |longest| longest.min(door.open_for))
}

/// What a request is allowed, but for its time.
fn judge(request: &Request, seen: IpAddr, key: &Key, policy: &Policy) -> Result<Admission, Reason> {
    let mut doors = Vec::with_capacity(request.doors.len());
    let mut source = seen;
    for tag in &request.doors {
        let named = key.doors.iter().find(|door| DoorTag::of(&door.name) == *tag);
        let named = named.ok_or(Reason::Door)?;
        let door = policy.doors.iter().find(|door| door.name == named.name);
        let door = door.ok_or(Reason::Door)?;
        let Method::Sealed { addresses, .. } = door.method else { return Err(Reason::Door) };
        source = admit(request.address, seen, addresses)?;
        let limit = limit(door, key);
        let wanted = Duration::from_secs(request.wanted_s.into());
        if wanted > limit && request.action == Action::Open {
            return Err(Reason::TooLong { wanted: request.wanted_s, limit: limit.as_secs() });
        }
        let lasts = if wanted.is_zero() { limit } else { wanted };
        doors.push((door.name.clone(), lasts));
    }
    Ok(Admission { key: key.name.clone(), action: request.action, source, doors })
}

/// For whom a knock opens a door that accepts these addresses.
fn admit(address: Address, seen: IpAddr, addresses: Addresses) -> Result<IpAddr, Reason> {
    match (address, addresses) {
        (Address::Seen, Addresses::Own) => Err(Reason::NoAddress),
        (Address::Seen, Addresses::Seen | Addresses::Any) => Ok(seen),
        (Address::Named(named), Addresses::Any) => match named.to_canonical() {
            named if named.is_unspecified() || named.is_multicast() => Err(Reason::Address(named)),
            named => Ok(named),
        },
        (Address::Named(named), _) if named.to_canonical() == seen => Ok(seen),
        (Address::Named(named), _) => Err(Reason::Address(named)),
    }
}

const fn seconds(ns: u64) -> u64 {
    ns / 1_000_000_000
}

/// What the newest slot of a key at a door is kept under.
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

/// What events call the sequence of a key at a door in a slot. It is the same after the agent
/// was started anew, when knocks may wait that were made before.
fn sequence_id(id: KeyId, door: &KeyDoor, slot: u64) -> DoorId {
    DoorId::of(&format!("{id}/{slot}/{}", door.name))
}

/// Time from `now_ns`, in nanoseconds since 1970, to the next slot.
pub fn until_next_slot(now_ns: u64) -> Duration {
    let slot = SLOT.as_nanos() as u64;
    Duration::from_nanos(slot - now_ns % slot)
}

#[cfg(test)]
mod tests;

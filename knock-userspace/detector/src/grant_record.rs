//! What the agent must know when it starts anew: secrets of the detector, and who holds which
//! grant. It lies in maps that no program reads and that, pinned, live as long as the host.

use std::time::Duration;

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use knock_common::sequence::{DoorId, NodeId, Protocol};
use knock_common::source::Source;
use knock_policy::{Grant, Service};

use super::{DetectorError, Pins};

const STATE: &str = "STATE";
const GRANTS: &str = "GRANTS";
/// Grants that the record has room for. What is beyond still opens, but ends when the agent is
/// started anew: the next one takes it for something that nobody has earned.
const MAX_GRANTS: u32 = 1 << 18;
/// `BPF_F_NO_PREALLOC` of `linux/bpf.h`: memory is taken as grants come.
const NO_PREALLOC: u32 = 1;

/// One for the host. All zero: never written.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Places first steps; see [`super::Settings`].
    pub hash_key: [u64; 2],
    /// Chooses the decoys.
    pub decoy_seed: [u8; 32],
    /// Inode of the network namespace in which the agent runs.
    pub netns: u64,
    /// What the trie's next new node is called.
    pub next_node: u32,
    /// Not 0 if `enforce` was tried and confirmed, whatever the config says.
    pub confirmed: u32,
}

// SAFETY: plain integers without padding: 16 + 32 + 8 + 4 + 4 bytes.
unsafe impl Pod for State {}
const _: () = assert!(size_of::<State>() == 64);

impl State {
    /// Whether it was ever written.
    pub const fn is_new(&self) -> bool {
        self.netns == 0
    }

    /// Where the trie goes on to allocate.
    pub const fn next_node(&self) -> NodeId {
        if self.next_node < NodeId::DEEPER.0 { NodeId::DEEPER } else { NodeId(self.next_node) }
    }
}

/// Which door gave a grant, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The door.
    pub door: DoorId,
    /// When it ends: `CLOCK_BOOTTIME`, which goes on while the host sleeps.
    pub until: Duration,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Key {
    source: Source,
    port: u16,
    protocol: u8,
    reserved: [u8; 5],
}

// SAFETY: integers without padding: 16 + 2 + 1 + 5 bytes.
unsafe impl Pod for Key {}
const _: () = assert!(size_of::<Key>() == 24);

#[repr(C)]
#[derive(Clone, Copy)]
struct Value {
    until_ns: u64,
    door: u64,
}

// SAFETY: two integers.
unsafe impl Pod for Value {}

/// What one agent leaves for the next, in two maps with one writer each.
pub struct Record {
    /// The agent's state.
    pub state: StateRecord,
    /// The running grants.
    pub grants: GrantRecord,
}

/// The map of the agent's [`State`].
pub struct StateRecord(Array<MapData, State>);

/// The map of running grants.
pub struct GrantRecord(HashMap<MapData, Key, Value>);

impl Record {
    /// Opens the record among `pins`, or creates it. Without pins it lives as long as this value.
    ///
    /// # Errors
    ///
    /// If the kernel refuses a map.
    pub fn open(pins: Option<&Pins>) -> Result<Self, DetectorError> {
        if let Some(pins) = pins
            && let Some(found) = Self::existing(pins)?
        {
            return Ok(found);
        }
        let state = Array::create(1, 0).map_err(DetectorError::map(STATE))?;
        let grants =
            HashMap::create(MAX_GRANTS, NO_PREALLOC).map_err(DetectorError::map(GRANTS))?;
        let Some(pins) = pins else {
            return Ok(Self { state: StateRecord(state), grants: GrantRecord(grants) });
        };
        let pin = |what| move |source| DetectorError::Pin { what, source };
        // Grants first: a state that is there means that both are.
        super::pins::remove(&pins.map(GRANTS))?;
        grants.pin(pins.map(GRANTS)).map_err(pin(GRANTS))?;
        state.pin(pins.map(STATE)).map_err(pin(STATE))?;
        Self::existing(pins)?.ok_or(DetectorError::Missing("record"))
    }

    /// Opens the record among `pins`. Returns `None` if there is none.
    ///
    /// # Errors
    ///
    /// If what is pinned there has another layout.
    pub fn existing(pins: &Pins) -> Result<Option<Self>, DetectorError> {
        if !pins.map(STATE).exists() {
            return Ok(None);
        }
        let open = |name| MapData::from_pin(pins.map(name)).map_err(DetectorError::map(name));
        let (state, grants) = (open(STATE)?, open(GRANTS)?);
        Ok(Some(Self {
            state: StateRecord(Map::Array(state).try_into().map_err(DetectorError::map(STATE))?),
            grants: GrantRecord(
                Map::HashMap(grants).try_into().map_err(DetectorError::map(GRANTS))?,
            ),
        }))
    }
}

impl StateRecord {
    /// Reads the state.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn get(&self) -> Result<State, DetectorError> {
        self.0.get(&0, 0).map_err(DetectorError::map(STATE))
    }

    /// Writes the state.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub fn set(&mut self, state: State) -> Result<(), DetectorError> {
        self.0.set(0, state, 0).map_err(DetectorError::map(STATE))
    }
}

impl GrantRecord {
    /// Writes a grant.
    ///
    /// # Errors
    ///
    /// If there is no room for more.
    pub fn put(&mut self, grant: &Grant, recorded: Recorded) -> Result<(), DetectorError> {
        let value = Value {
            until_ns: u64::try_from(recorded.until.as_nanos()).unwrap_or(u64::MAX),
            door: recorded.door.0,
        };
        self.0.insert(key(grant), value, 0).map_err(DetectorError::map(GRANTS))
    }

    /// Removes a grant. An absent one is no error.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub fn remove(&mut self, grant: &Grant) -> Result<(), DetectorError> {
        match self.0.remove(&key(grant)) {
            Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                Ok(())
            }
            result => result.map_err(DetectorError::map(GRANTS)),
        }
    }

    /// Reads every grant, including those that have ended since they were written.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn all(&self) -> Result<Vec<(Grant, Recorded)>, DetectorError> {
        let entries: Result<Vec<_>, _> = self.0.iter().collect();
        let entries = entries.map_err(DetectorError::map(GRANTS))?;
        Ok(entries
            .into_iter()
            .filter_map(|(key, value)| Some((grant(key)?, recorded(value))))
            .collect())
    }
}

fn key(grant: &Grant) -> Key {
    let Service { protocol, port } = grant.service;
    Key { source: grant.source.into(), port, protocol: protocol.number(), reserved: [0; 5] }
}

fn grant(Key { source, port, protocol, reserved: _ }: Key) -> Option<Grant> {
    let protocol = Protocol::ALL.into_iter().find(|known| known.number() == protocol)?;
    Some(Grant { source: source.into(), service: Service::new(protocol, port) })
}

const fn recorded(Value { until_ns, door }: Value) -> Recorded {
    Recorded { door: DoorId(door), until: Duration::from_nanos(until_ns) }
}

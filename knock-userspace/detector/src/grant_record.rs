//! The record: what the agent must know when it is restarted. It holds the secrets of the detector
//! and the running grants.
//!
//! It lies in maps that no program reads. Pinned, they live as long as the host.

use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, MapError};
pub use knock_common::abi::State;
use knock_common::abi::maps::{GRANTS, STATE};
use knock_common::abi::{GrantKey, GrantValue};
use knock_common::sequence::{DoorId, Protocol};
use knock_policy::{Grant, Service};

use super::{DetectorError, Pins};

/// Grants that the record has room for. Further ones still open, but end when the agent is
/// restarted, because the next agent finds no record of them.
const MAX_GRANTS: u32 = 1 << 18;
/// `BPF_F_NO_PREALLOC` of `linux/bpf.h`: memory is taken as grants come.
const NO_PREALLOC: u32 = 1;

/// The door that gave a grant, and the end of the grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The door.
    pub door: DoorId,
    /// When it ends, by `CLOCK_BOOTTIME`, which goes on while the host sleeps.
    pub until: Duration,
}

/// The record that one agent leaves for the next, in two maps with one writer each.
pub struct Record {
    /// The agent's state.
    pub state: StateRecord,
    /// The running grants.
    pub grants: GrantRecord,
}

/// The map of the agent's [`State`].
pub struct StateRecord(Array<MapData, State>);

/// The map of running grants.
pub struct GrantRecord(HashMap<MapData, GrantKey, GrantValue>);

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
        let value = GrantValue {
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

fn key(grant: &Grant) -> GrantKey {
    let Service { protocol, port } = grant.service;
    GrantKey { source: grant.source.into(), port, protocol: protocol.number(), reserved: [0; 5] }
}

fn grant(GrantKey { source, port, protocol, reserved: _ }: GrantKey) -> Option<Grant> {
    let protocol = Protocol::ALL.into_iter().find(|known| known.number() == protocol)?;
    Some(Grant { source: source.into(), service: Service::new(protocol, port) })
}

const fn recorded(GrantValue { until_ns, door }: GrantValue) -> Recorded {
    Recorded { door: DoorId(door), until: Duration::from_nanos(until_ns) }
}

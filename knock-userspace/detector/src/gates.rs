//! The gates: what the detector checks sealed knocks with.

use std::collections::HashMap as StdHashMap;
use std::io;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};
use knock_common::abi::maps::{CLOCK, KEYS};
use knock_common::sealed::{Clock, Gate};

use super::{Detector, DetectorError, maps};

/// Number of keys that the detector can hold. A rotated key counts twice for a while.
pub const MAX_KEYS: usize = 1 << 16;

impl Detector {
    /// Adds or replaces the gate of a key id. Packets with this id are checked with it.
    ///
    /// # Errors
    ///
    /// If the kernel has no room for another key.
    pub fn set_gate(&mut self, id: u64, gate: Gate) -> Result<(), DetectorError> {
        keys(&mut self.ebpf)?.insert(id, gate, 0).map_err(DetectorError::map(KEYS))
    }

    /// Returns the present gates by key id.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn gates(&mut self) -> Result<StdHashMap<u64, Gate>, DetectorError> {
        let gates: Result<_, _> = keys(&mut self.ebpf)?.iter().collect();
        gates.map_err(DetectorError::map(KEYS))
    }

    /// Removes the gate of a key id, so that no packet with this id passes any more. Does nothing
    /// if there is none.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub fn remove_gate(&mut self, id: u64) -> Result<(), DetectorError> {
        match keys(&mut self.ebpf)?.remove(&id) {
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            result => result.map_err(DetectorError::map(KEYS)),
        }
    }

    /// Sets the detector's wall clock.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub fn set_clock(&mut self, clock: Clock) -> Result<(), DetectorError> {
        let mut map: Array<_, Clock> = maps::exclusive(&mut self.ebpf, CLOCK)?;
        map.set(0, clock, 0).map_err(DetectorError::map(CLOCK))
    }
}

fn keys(ebpf: &mut Ebpf) -> Result<HashMap<&mut MapData, u64, Gate>, DetectorError> {
    maps::exclusive(ebpf, KEYS)
}

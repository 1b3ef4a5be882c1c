//! The agent's pinned state, and its only writer.

use knock_detector::{DetectorError, State, StateRecord};

use super::AgentError;
use crate::sockets;

/// The state on record, and a copy of it. Nothing else writes the record, so the copy is accurate.
pub(super) struct StateStore {
    record: StateRecord,
    state: State,
}

impl StateStore {
    /// Reads the state that the last agent left.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub(super) fn open(record: StateRecord) -> Result<Self, DetectorError> {
        let state = record.get()?;
        Ok(Self { record, state })
    }

    /// Whether no agent has written a state before.
    pub(super) const fn is_new(&self) -> bool {
        self.state.is_new()
    }

    /// Draws the secrets for a host on which no agent ran before. The first [`StateStore::update`]
    /// puts them on record.
    ///
    /// # Errors
    ///
    /// If procfs does not name the network namespace.
    pub(super) fn draw(&mut self) -> Result<(), AgentError> {
        self.state = State {
            hash_key: rand::random(),
            decoy_seed: rand::random(),
            netns: sockets::network_namespace()?,
            next_node: 0,
            confirmed: 0,
        };
        Ok(())
    }

    pub(super) const fn get(&self) -> &State {
        &self.state
    }

    /// Changes the state on record, and then the copy.
    ///
    /// # Errors
    ///
    /// If the map cannot be written. Nothing has changed then.
    pub(super) fn update(&mut self, change: impl FnOnce(&mut State)) -> Result<(), DetectorError> {
        let mut state = self.state;
        change(&mut state);
        self.record.set(state)?;
        self.state = state;
        Ok(())
    }
}

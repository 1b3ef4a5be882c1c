//! The first phase of a start. It checks whether this agent may start here, and opens what another
//! one left.

use std::collections::HashSet;

use knock_detector::{DetectorError, Pins, PinsError, Record, missing_capabilities};
use knock_policy::Policy;
use tracing::{error, warn};

use crate::agent::ledger::GrantLedger;
use crate::agent::state_store::StateStore;
use crate::agent::{AgentError, Options, watcher};
use crate::interfaces::{Interface, Interfaces};
use crate::sockets;

/// An agent that may start. The host has not changed yet, except for the folder of pins and the
/// record in it.
pub(super) struct Preflight {
    pub(super) interfaces: Interfaces,
    pub(super) present: Vec<Interface>,
    pub(super) pins: Option<Pins>,
    pub(super) state: StateStore,
    pub(super) ledger: GrantLedger,
    /// Whether no agent of this layout ran before.
    pub(super) is_first: bool,
    /// Whether no agent of any layout has left anything among the pins.
    pins_are_new: bool,
}

impl Preflight {
    /// Checks privileges and interfaces, and opens the record.
    ///
    /// # Errors
    ///
    /// If this agent may not start here. Nothing is left behind then.
    pub(super) async fn check(policy: &Policy, options: &Options) -> Result<Self, AgentError> {
        check_privileges()?;
        if policy.interfaces.is_empty() {
            return Err(AgentError::NoInterface);
        }
        let interfaces = Interfaces::open()?;
        let present = interfaces.list().await?;
        let (pins, record) = open_record(options)?;
        let state = StateStore::open(record.state)?;
        let is_first = state.is_new();
        let ledger = GrantLedger::new(record.grants);
        let pins_are_new = is_first && pins.as_ref().is_none_or(Pins::hold_one_layout);
        let preflight = Self { interfaces, present, pins, state, ledger, is_first, pins_are_new };
        match preflight.refuse_occupied(policy) {
            Ok(()) => Ok(preflight),
            Err(error) => {
                preflight.abandon();
                Err(error.into())
            }
        }
    }

    fn refuse_occupied(&self, policy: &Policy) -> Result<(), DetectorError> {
        let ours: HashSet<u32> = self.linked()?.into_iter().collect();
        watcher::refuse_occupied(policy, &self.present, &ours)
    }

    /// Returns the indices of the interfaces to which an earlier agent has left a link.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read.
    pub(super) fn linked(&self) -> Result<Vec<u32>, DetectorError> {
        let linked = self.pins.as_ref().map(Pins::linked).transpose()?;
        Ok(linked.unwrap_or_default())
    }

    /// Removes the pins that this agent has made: all of them if there were none, and those of its
    /// layout if an agent of another layout ran before. That one's detector goes on.
    pub(super) fn abandon(self) {
        let Self { pins, is_first, pins_are_new, .. } = self;
        let Some(pins) = pins else { return };
        let removed = match (pins_are_new, is_first) {
            (true, _) => pins.remove_all(),
            (false, true) => pins.remove_layout(),
            (false, false) => Ok(()),
        };
        if let Err(error) = removed {
            error!(%error, "pinned maps and links could not be removed");
        }
    }
}

fn check_privileges() -> Result<(), AgentError> {
    // If the capabilities cannot be read, the kernel refuses a later step with an error of its own.
    let missing = missing_capabilities().unwrap_or_default();
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<_> =
        missing.iter().map(|(name, what_for)| format!("{name} ({what_for})")).collect();
    Err(AgentError::Privilege(missing.join(", ")))
}

/// Opens the pins, if there can be any, and the record among them.
fn open_record(options: &Options) -> Result<(Option<Pins>, Record), AgentError> {
    let pins = match Pins::open(&options.paths.pins) {
        Ok(pins) => Some(pins),
        Err(error @ PinsError::Held(_)) => return Err(DetectorError::from(error).into()),
        Err(error) => {
            warn!(%error, "nothing but the table will outlive this agent");
            None
        }
    };
    let record = Record::open(pins.as_ref())?;
    let Some(pins) = pins else { return Ok((None, record)) };
    let state = record.state.get()?;
    if state.is_new() || state.netns == sockets::network_namespace()? {
        return Ok((Some(pins), record));
    }
    warn!("the pins belong to another network namespace, and are removed");
    drop(record);
    pins.remove_all().map_err(DetectorError::from)?;
    drop(pins);
    let pins = Pins::open(&options.paths.pins).map_err(DetectorError::from)?;
    let record = Record::open(Some(&pins))?;
    Ok((Some(pins), record))
}

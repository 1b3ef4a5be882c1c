//! The watcher: the detector, where it is attached, and the ring buffers of its program.
//!
//! A reload may replace the program that runs. The new one has ring buffers of its own, so nothing
//! outside of this module holds a ring buffer.

use std::collections::HashSet;
use std::io;

use knock_common::event::Event;
use knock_common::sealed::{Gate, SealedEvent};
use knock_detector::{
    AttachedMode, Detector, DetectorError, Pins, Rings, Settings, State, Totals, Trace,
    program_name,
};
use knock_policy::Policy;
use knock_policy::compile::{Compiled, compile_onto};
use knock_policy::trie::Trie;
use tracing::{error, info, warn};

use super::AgentError;
use super::keys::Keys;
use crate::interfaces::Interface;
use crate::sockets;

/// The detector, attached, with readers for what it reports.
pub(super) struct Watcher {
    detector: Detector,
    pins: Option<Pins>,
    rings: Rings,
    /// Pairs of interface and foreign program that the log has named already.
    complained: HashSet<(u32, u32)>,
}

/// The kind of report that waits in a ring buffer.
pub(super) enum Ready {
    /// Completed sequences, for [`Watcher::take_events`].
    Events,
    /// Sealed knocks, for [`Watcher::take_sealed`].
    Sealed,
}

/// A prepared change of the detector: an update in place, or another program that replaces it.
pub(super) struct Change {
    compiled: Compiled,
    next: Option<Detector>,
}

impl Watcher {
    /// Takes over a detector that is attached, and opens its ring buffers.
    ///
    /// # Errors
    ///
    /// If the ring buffers cannot be polled.
    pub(super) fn new(mut detector: Detector, pins: Option<Pins>) -> Result<Self, DetectorError> {
        let rings = detector.rings()?;
        Ok(Self { detector, pins, rings, complained: HashSet::new() })
    }

    /// Waits until the detector reports something, and forwards its messages to the log meanwhile.
    /// While `paused`, reports stay where they are. Cancel safe.
    ///
    /// # Errors
    ///
    /// If a ring buffer cannot be polled.
    pub(super) async fn report(&mut self, paused: bool) -> io::Result<Ready> {
        let Rings { events, sealed, trace } = &mut self.rings;
        tokio::select! {
            ready = events.ready(), if !paused => ready.map(|()| Ready::Events),
            ready = sealed.ready(), if !paused => ready.map(|()| Ready::Sealed),
            ended = forward(trace) => ended.map(|never| match never {}),
        }
    }

    /// Hands up to `limit` completed sequences to `take`. Each leaves the ring buffer when `take`
    /// has returned.
    pub(super) fn take_events(&mut self, limit: usize, take: impl FnMut(Event)) {
        self.rings.events.take(limit, take);
    }

    /// Hands up to `limit` sealed knocks to `take`, which returns how packets with the same key are
    /// checked from now on. Each leaves the ring buffer when `take` has returned.
    pub(super) fn take_sealed(
        &mut self,
        limit: usize,
        mut take: impl FnMut(&SealedEvent) -> Option<(u64, Gate)>,
    ) {
        let Self { detector, rings, .. } = self;
        rings.sealed.take(limit, |event| {
            if let Some((id, gate)) = take(event)
                && let Err(error) = detector.set_gate(id, gate)
            {
                error!(%error, "the detector still lets copies of this knock pass");
            }
        });
    }

    /// Gives the detector the keys and the time of day.
    ///
    /// # Errors
    ///
    /// If a map cannot be read or written.
    pub(super) fn sync_keys(&mut self, keys: &mut Keys) -> Result<(), DetectorError> {
        keys.sync(&mut self.detector)
    }

    /// Compiles `policy` with the sequences of `keys` onto the detector's trie.
    ///
    /// # Errors
    ///
    /// If a door cannot be compiled, or procfs does not say which ports this host serves.
    pub(super) fn compile(
        &self,
        policy: &Policy,
        keys: &mut Keys,
        state: &State,
    ) -> Result<Compiled, AgentError> {
        compile(self.detector.trie(), policy, keys, state)
    }

    /// Prepares the detector for `compiled`. If the program that runs cannot become it, another is
    /// loaded, which shares its maps and does not run yet.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the program. The one that runs is as it was then.
    pub(super) fn prepare(
        &mut self,
        compiled: Compiled,
        settings: Settings,
    ) -> Result<Change, AgentError> {
        if self.detector.can_become(&compiled, settings) {
            return Ok(Change { compiled, next: None });
        }
        match Detector::load_among(&compiled, settings, self.pins.as_ref()) {
            Ok(next) => Ok(Change { compiled, next: Some(next) }),
            Err(error) => {
                self.reassert();
                Err(error.into())
            }
        }
    }

    /// Discards a prepared change. The maps hold what the running program expects again.
    pub(super) fn abandon(&mut self, change: Change) {
        let loaded = change.next.is_some();
        drop(change);
        if loaded {
            self.reassert();
        }
    }

    /// Logs an error in place of returning it: the error that led here counts more.
    fn reassert(&mut self) {
        if let Err(error) = self.detector.reassert() {
            error!(%error, "the detector's doors are not what they were before the change");
        }
    }

    /// Applies a prepared change.
    ///
    /// # Errors
    ///
    /// If a map cannot be written or a ring buffer cannot be opened. The detector then runs with
    /// the part of the change that was applied.
    pub(super) fn apply(&mut self, change: Change, keys: &mut Keys) -> Result<(), AgentError> {
        let Change { compiled, next } = change;
        let Some(mut next) = next else {
            self.detector.update(&compiled)?;
            return Ok(());
        };
        // Before the program sees a packet: without their gates, it would refuse valid knocks.
        keys.sync(&mut next)?;
        // From here on the new program is the detector, even if a step below fails.
        let mut before = std::mem::replace(&mut self.detector, next);
        self.detector.take_over(&mut before)?;
        self.settle()?;
        self.rings = self.detector.rings()?;
        Ok(())
    }

    /// Attaches the detector to those of `present` that the policy names, and detaches it from all
    /// others.
    pub(super) fn follow(&mut self, policy: &Policy, present: &[Interface]) {
        let attached: Vec<_> =
            self.detector.attached().map(|(index, name, _)| (index, name.to_owned())).collect();
        for (index, name) in attached {
            match present.iter().find(|interface| interface.index == index) {
                // The kernel has ended the link, as it does when an index is used again.
                Some(found) if found.xdp.is_none() => {
                    self.detach(index, &name, "detached by itself");
                }
                Some(found) if !policy.watches(&found.name) => {
                    self.detach(index, &found.name, "no longer watched");
                }
                Some(found) if found.name != name => {
                    self.detector.rename(index, &found.name);
                    info!(interface = found.name, before = name, "renamed");
                }
                Some(_) => {}
                None => self.detach(index, &name, "the interface is gone"),
            }
        }
        for interface in present.iter().filter(|interface| policy.watches(&interface.name)) {
            if self.detector.attached().any(|(index, ..)| index == interface.index) {
                continue;
            }
            if let Some(xdp) = interface.xdp {
                let error = occupied(interface, xdp.program);
                if self.complained.insert((interface.index, xdp.program)) {
                    error!(%error, "not watched");
                }
                continue;
            }
            match attach(&mut self.detector, policy, interface) {
                Ok(()) => self.complained.retain(|(index, _)| *index != interface.index),
                // The next change of the interface is the next attempt.
                Err(error) => warn!(interface = interface.name, %error, "not watched"),
            }
        }
    }

    fn detach(&mut self, index: u32, name: &str, why: &str) {
        match self.detector.detach(index) {
            Ok(_) => info!(interface = name, why, "detached"),
            Err(error) => error!(interface = name, %error, "cannot detach"),
        }
    }

    /// Refuses a policy that names an interface on which a foreign XDP program runs.
    ///
    /// # Errors
    ///
    /// If there is such an interface.
    pub(super) fn refuse_occupied(
        &self,
        policy: &Policy,
        present: &[Interface],
    ) -> Result<(), DetectorError> {
        let ours = self.detector.attached().map(|(index, ..)| index).collect();
        refuse_occupied(policy, present, &ours)
    }

    /// Iterates over index, name and mode of each interface that the detector is attached to.
    pub(super) fn attached(&self) -> impl Iterator<Item = (u32, &str, AttachedMode)> {
        self.detector.attached()
    }

    /// Sums the counters of all CPUs.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub(super) fn totals(&self) -> Result<Totals, DetectorError> {
        self.detector.totals()
    }

    /// Whether maps and links outlive the agent.
    pub(super) const fn is_pinned(&self) -> bool {
        self.pins.is_some()
    }

    /// Ends the handover to the program that runs. Maps and links that only the one before needed
    /// are removed, those that are pinned outlive this value, and the log says what was lost.
    ///
    /// # Errors
    ///
    /// If a map or a pin cannot be changed.
    pub(super) fn settle(&mut self) -> Result<(), DetectorError> {
        for lost in self.detector.settle()? {
            warn!(lost, "begun anew, because doors, keys or the program need other maps");
        }
        Ok(())
    }

    /// Detaches the detector and removes everything that is pinned.
    pub(super) fn remove(self) {
        let Self { detector, pins, .. } = self;
        drop(detector);
        if let Some(Err(error)) = pins.map(|pins| pins.remove_all()) {
            error!(%error, "pinned maps and links could not be removed");
        }
    }
}

/// Forwards messages of the program to the log. If they are off, waits without end.
async fn forward(trace: &mut Option<Trace>) -> io::Result<std::convert::Infallible> {
    match trace {
        Some(trace) => trace.run().await,
        None => std::future::pending().await,
    }
}

/// Returns the settings that are fixed while a program is loaded.
pub(super) const fn settings(policy: &Policy, state: &State, trace: bool) -> Settings {
    Settings {
        strays: policy.strays,
        max_sources: policy.max_sources,
        knocks: policy.knocks,
        trace,
        hash_key: state.hash_key,
    }
}

/// Compiles `policy` with the sequences of `keys` onto `trie`, for the ports that this host serves
/// now. The result has the trie's next free node, which must be on record before the trie is used.
pub(super) fn compile(
    trie: &Trie,
    policy: &Policy,
    keys: &mut Keys,
    state: &State,
) -> Result<Compiled, AgentError> {
    let served = sockets::served()?;
    let live = keys.refresh_sequences(policy, &served);
    Ok(compile_onto(trie, policy, &live, &served, state.decoy_seed)?)
}

/// Attaches the detector to an interface, or takes over the link where an earlier agent has
/// attached its program.
pub(super) fn attach(
    detector: &mut Detector,
    policy: &Policy,
    interface: &Interface,
) -> Result<(), DetectorError> {
    let running = interface
        .xdp
        .map(|xdp| if xdp.generic { AttachedMode::Generic } else { AttachedMode::Native });
    let mode = detector.attach((interface.index, &interface.name), policy.attach, running)?;
    info!(interface = interface.name, mode = %mode, "attached");
    Ok(())
}

/// Refuses a policy that names an interface on which an XDP program runs, unless the index of the
/// interface is among `ours`.
///
/// # Errors
///
/// If there is such an interface.
pub(super) fn refuse_occupied(
    policy: &Policy,
    present: &[Interface],
    ours: &HashSet<u32>,
) -> Result<(), DetectorError> {
    for interface in present.iter().filter(|interface| policy.watches(&interface.name)) {
        if let Some(xdp) = interface.xdp
            && !ours.contains(&interface.index)
        {
            return Err(occupied(interface, xdp.program));
        }
    }
    Ok(())
}

fn occupied(interface: &Interface, program: u32) -> DetectorError {
    let occupant = program_name(program)
        .map_or(format!("id {program}"), |name| format!("`{name}` (id {program})"));
    DetectorError::Occupied { interface: interface.name.clone(), occupant: Some(occupant) }
}

/// Logs the names and patterns of the policy that match no interface.
pub(super) fn log_awaited(policy: &Policy, present: &[Interface]) {
    let names: Vec<_> = present.iter().map(|interface| interface.name.as_str()).collect();
    for pattern in policy.awaited(&names) {
        warn!(interface = pattern, present = names.join(","), "not there yet; waiting for it");
    }
}

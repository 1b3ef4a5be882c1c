//! Changes of doors and port classes in place, and the handover from one program to the next.
//!
//! Programs share the trie's map. An edge that the new policy does not have is deleted last,
//! because the program before may still follow it.

use std::borrow::Borrow;
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData};
use knock_common::abi::maps::{CLASSES, TRIE};
use knock_common::abi::{Edge, PORTS, Transition};
use knock_policy::compile::Compiled;
use knock_policy::trie::{Change, Edges, Trie};

use super::{Detector, DetectorError, Pins, Settings, adopt, maps, pins};

/// How often a change waits for packets under way. Each wait takes some milliseconds.
const MOST_WAITS: usize = 64;

impl Detector {
    /// Returns the edges of the trie among `pins`; none if it was not pinned.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn pinned_edges(pins: &Pins) -> Result<Edges, DetectorError> {
        let path = pins.map(TRIE);
        if !path.exists() {
            return Ok(Edges::new());
        }
        let map = Map::HashMap(MapData::from_pin(path).map_err(DetectorError::map(TRIE))?);
        read_edges(&HashMap::try_from(&map).map_err(DetectorError::map(TRIE))?)
    }

    /// Returns the edges that the trie's map holds.
    pub(super) fn edges(&self) -> Result<Edges, DetectorError> {
        read_edges::<&MapData>(&maps::shared(&self.ebpf, TRIE)?)
    }

    /// Returns the trie that its map holds.
    pub const fn trie(&self) -> &Trie {
        &self.trie
    }

    /// Returns whether [`Detector::update`] can make this program do what `compiled` and
    /// `settings` say. Another program must be loaded if settings differ or the trie needs more
    /// room.
    pub fn can_become(&self, compiled: &Compiled, settings: Settings) -> bool {
        let inserted = self.trie.change_to(&compiled.trie).insert.len();
        settings == self.settings
            && compiled.longest == self.longest
            // Edges that go are still there while the others come.
            && self.trie.edges.len() + inserted <= self.room
    }

    /// Changes doors and port classes in place, while packets come.
    ///
    /// # Errors
    ///
    /// If a map cannot be written.
    pub fn update(&mut self, compiled: &Compiled) -> Result<(), DetectorError> {
        self.fill(self.trie.change_to(&compiled.trie), compiled)?;
        self.settle()?;
        Ok(())
    }

    /// Makes the maps hold `compiled`, except for edges that go: a program that ran before
    /// may still follow them, until [`Detector::settle`].
    pub(super) fn fill(
        &mut self,
        change: Change,
        compiled: &Compiled,
    ) -> Result<(), DetectorError> {
        // New edges first, so that each class that changes finds the edges behind its port.
        let mut trie = maps::trie(&mut self.ebpf)?;
        for (edge, transition) in change.insert {
            trie.insert(edge, transition, 0).map_err(DetectorError::map(TRIE))?;
        }
        let mut classes: Array<&mut MapData, [u8; PORTS]> =
            maps::exclusive(&mut self.ebpf, CLASSES)?;
        classes.set(0, *compiled.classes, 0).map_err(DetectorError::map(CLASSES))?;
        let mut trie = maps::trie(&mut self.ebpf)?;
        let waits = change.replace.len().div_ceil(MOST_WAITS).max(1);
        for (number, (edge, transition)) in change.replace.into_iter().enumerate() {
            trie.insert(edge, transition, 0).map_err(DetectorError::map(TRIE))?;
            if number % waits == 0 {
                // The kernel gives the place of the old value to the next one.
                wait_for_packets_under_way();
            }
        }
        self.stale.extend(change.delete);
        self.trie = compiled.trie.clone();
        Ok(())
    }

    /// Makes the trie's map hold again what this program expects, after another one was loaded
    /// that did not take over.
    ///
    /// # Errors
    ///
    /// If the map cannot be read or written.
    pub fn reassert(&mut self) -> Result<(), DetectorError> {
        let held = Trie::restored(self.edges()?, self.trie.next());
        let change = held.change_to(&self.trie);
        let mut trie = maps::trie(&mut self.ebpf)?;
        for (edge, transition) in change.insert.into_iter().chain(change.replace) {
            trie.insert(edge, transition, 0).map_err(DetectorError::map(TRIE))?;
        }
        self.stale.extend(change.delete);
        self.settle()?;
        Ok(())
    }

    /// Ends the handover to this program. What the one before needed is deleted, and what is
    /// pinned stays when this value is dropped. Returns what was lost on the way, in words.
    ///
    /// # Errors
    ///
    /// If a map or a pin cannot be changed.
    pub fn settle(&mut self) -> Result<Vec<&'static str>, DetectorError> {
        let mut trie = maps::trie(&mut self.ebpf)?;
        for edge in self.stale.drain(..) {
            trie.remove(&edge).map_err(DetectorError::map(TRIE))?;
        }
        // Before any edge is inserted, which could get the place of a deleted one.
        wait_for_packets_under_way();
        let mut lost = std::mem::take(&mut self.lost);
        if let Some(pins) = &self.pins {
            for name in adopt::pinned() {
                let new = pins.new_map(name);
                if self.created.contains(&new) {
                    pins::replace(&new, &pins.map(name))?;
                }
            }
            // Last of the pins: until here an older agent could still go on with its own.
            for folder in pins.foreign_layouts()? {
                pins::remove_folder(&folder)?;
                lost.push("what a program of another layout had noted");
            }
        }
        self.created.clear();
        self.settled = true;
        lost.dedup();
        Ok(lost)
    }
}

fn read_edges<T: Borrow<MapData>>(
    trie: &HashMap<T, Edge, Transition>,
) -> Result<Edges, DetectorError> {
    let edges: Result<_, _> = trie.iter().collect();
    edges.map_err(DetectorError::map(TRIE))
}

/// Waits until no CPU still works on a packet that it had before.
///
/// The kernel may give the place of a deleted edge to the next one that is inserted, so no
/// program may still be reading it then. `MEMBARRIER_CMD_GLOBAL` waits for a grace period of RCU
/// (kernel/sched/membarrier.c), in which XDP programs run.
fn wait_for_packets_under_way() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: membarrier(2) takes numbers only.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done != 0 {
        // Kernels with CPUs that must not be disturbed (nohz_full) refuse. A packet takes well
        // under a microsecond.
        std::thread::sleep(Duration::from_millis(10));
    }
}

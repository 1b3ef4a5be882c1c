//! The detector on the host, with its maps in memory. For tests and fuzz targets.

use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::boxed::Box;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::vec::Vec;

use crate::detect::{ACTIVITY, Detection, Insert, Limits, Outcome, Report, Store, TRACKS};
use crate::event::Event;
use crate::first::Bucket;
use crate::sequence::{Edge, PORTS, PortClass, Step, Transition};
use crate::source::Source;
use crate::word::Word;

/// Sources past their first step that a simulation remembers. Entries for more are refused.
pub const MAX_SOURCES: usize = 1024;

/// One shared word.
#[derive(Debug, Default)]
pub struct HostWord(AtomicU64);

impl HostWord {
    /// Returns a word that holds `word`.
    pub const fn new(word: u64) -> Self {
        Self(AtomicU64::new(word))
    }
}

impl Word for HostWord {
    fn load(&self) -> u64 {
        self.0.load(SeqCst)
    }

    fn set(&self, new: u64) {
        self.0.store(new, SeqCst);
    }

    fn swap(&self, old: u64, new: u64) -> bool {
        self.0.compare_exchange(old, new, SeqCst, SeqCst).is_ok()
    }

    fn opaque(number: u64) -> u64 {
        number
    }
}

type Entry = (Source, [HostWord; TRACKS]);

/// All maps of one detector. Entries are never evicted.
#[derive(Debug)]
pub struct Simulation {
    limits: Limits,
    classes: Box<[u8]>,
    edges: HashMap<Edge, Transition>,
    sources: Vec<OnceLock<Entry>>,
    activity: Vec<HostWord>,
    buckets: Vec<Bucket<HostWord>>,
    events: Mutex<Vec<Event>>,
    refuse_inserts: AtomicBool,
    ring_full: AtomicBool,
}

impl Simulation {
    /// Creates a detector that has seen nothing yet.
    pub fn new(
        limits: Limits,
        classes: &[u8; PORTS],
        edges: impl IntoIterator<Item = (Edge, Transition)>,
    ) -> Self {
        Self {
            limits,
            classes: classes.as_slice().into(),
            edges: edges.into_iter().collect(),
            sources: (0..MAX_SOURCES).map(|_| OnceLock::new()).collect(),
            activity: (0..ACTIVITY).map(|_| HostWord::default()).collect(),
            buckets: (0..limits.buckets).map(|_| Default::default()).collect(),
            events: Mutex::default(),
            refuse_inserts: AtomicBool::new(false),
            ring_full: AtomicBool::new(false),
        }
    }

    /// Delivers one packet. Returns `None` if its port is of no interest.
    pub fn knock(&self, source: Source, step: Step, now_ns: u64) -> Option<Outcome> {
        let class = PortClass::of(self.classes[usize::from(step.port)], step.protocol);
        let notes = Cell::new(0);
        (!class.is_none())
            .then(|| Detection::new(self, self.limits, step, source, now_ns, &notes).run(class))
    }

    /// Returns the events so far, in order, and forgets them.
    pub fn take_events(&self) -> Vec<Event> {
        core::mem::take(&mut self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets whether the progress map refuses new entries from now on.
    pub fn refuse_inserts(&self, refuse: bool) {
        self.refuse_inserts.store(refuse, SeqCst);
    }

    /// Sets whether the ring buffer has no room from now on.
    pub fn fill_ring(&self, full: bool) {
        self.ring_full.store(full, SeqCst);
    }
}

impl Store for Simulation {
    type Word = HostWord;

    fn transition(&self, edge: &Edge) -> Option<Transition> {
        self.edges.get(edge).copied()
    }

    fn tracks(&self, source: &Source) -> Option<&[HostWord; TRACKS]> {
        let mut entries = self.sources.iter().map_while(OnceLock::get);
        entries.find(|(owner, _)| owner == source).map(|(_, tracks)| tracks)
    }

    fn insert(&self, source: &Source, tracks: &[u64; TRACKS]) -> Insert {
        if self.refuse_inserts.load(SeqCst) {
            return Insert::Failed;
        }
        for slot in &self.sources {
            let words = tracks.map(HostWord::new);
            if slot.set((*source, words)).is_ok() {
                return Insert::Done;
            }
            if slot.get().is_some_and(|(owner, _)| owner == source) {
                return Insert::Exists;
            }
        }
        Insert::Failed
    }

    fn activity(&self, hash: u64) -> Option<&HostWord> {
        self.activity.get(hash as usize % ACTIVITY)
    }

    fn bucket(&self, index: u32) -> Option<&Bucket<HostWord>> {
        self.buckets.get(index as usize)
    }

    fn monotonic_ns(&self, now_ns: u64) -> u64 {
        now_ns
    }

    fn report(&self, event: &Event, claim: impl FnOnce() -> bool) -> Report {
        if self.ring_full.load(SeqCst) {
            return Report::Full;
        }
        if !claim() {
            return Report::Unclaimed;
        }
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(*event);
        Report::Sent
    }
}

#[cfg(test)]
mod tests;

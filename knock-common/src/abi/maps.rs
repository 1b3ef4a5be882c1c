//! Names of the maps, and the sizes of their keys and values.
//!
//! A name is the identifier of the map in `knock-ebpf`. It is the name of its file, too, if the
//! map is pinned. A test of the detector crate compares this list with the object.

use super::{
    ACTIVITY, Bucket, Clock, Counters, Edge, Gate, GrantKey, GrantValue, Pattern, Source, State,
    TRACKS, Transition,
};

/// The trie below its first level: [`Edge`] to [`Transition`].
pub const TRIE: &str = "TRIE";
/// When sources last began: one array of [`ACTIVITY`] words.
pub const RECENT: &str = "RECENT";
/// First steps: an array of [`Bucket`].
pub const FIRST: &str = "FIRST";
/// Sources past their first step: [`Source`] to [`TRACKS`] words.
pub const PROGRESS: &str = "PROGRESS";
/// Ring buffer of [`super::Event`], for the agent.
pub const EVENTS: &str = "EVENTS";
/// How packets ended: [`Counters`] of each CPU.
pub const COUNTERS: &str = "COUNTERS";
/// What sealed knocks are checked with: key id to [`Gate`].
pub const KEYS: &str = "KEYS";
/// Ring buffer of [`super::SealedEvent`], for the agent.
pub const SEALED: &str = "SEALED";
/// The wall clock: one [`Clock`].
pub const CLOCK: &str = "CLOCK";
/// What a CPU knows of the current packet. Only the program uses it.
pub const DESK: &str = "DESK";
/// The next frames of the benchmark: one [`Pattern`].
pub const PATTERN: &str = "PATTERN";

/// The port classes, [`super::PORTS`] bytes. They are the only variable of the program that
/// changes, and the loader makes a map of this name from its section.
pub const CLASSES: &str = ".bss";

/// The agent's [`State`].
pub const STATE: &str = "STATE";
/// Grants that were given: [`GrantKey`] to [`GrantValue`].
pub const GRANTS: &str = "GRANTS";

/// A map with the sizes of its key and value in bytes; both are 0 for a ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Its name.
    pub name: &'static str,
    /// Size of a key.
    pub key: usize,
    /// Size of a value.
    pub value: usize,
    /// Whether it outlives the agent.
    pub pinned: bool,
}

impl Map {
    const fn pinned<K, V>(name: &'static str) -> Self {
        Self { name, key: size_of::<K>(), value: size_of::<V>(), pinned: true }
    }

    const fn with_program<K, V>(name: &'static str) -> Self {
        Self { pinned: false, ..Self::pinned::<K, V>(name) }
    }
}

/// The maps of the object.
pub const OBJECT: [Map; 11] = [
    Map::pinned::<Edge, Transition>(TRIE),
    Map::pinned::<u32, [u64; ACTIVITY]>(RECENT),
    Map::pinned::<u32, Bucket<u64>>(FIRST),
    Map::pinned::<Source, [u64; TRACKS]>(PROGRESS),
    Map::pinned::<(), ()>(EVENTS),
    Map::pinned::<u32, Counters>(COUNTERS),
    Map::pinned::<u64, Gate>(KEYS),
    Map::pinned::<(), ()>(SEALED),
    Map::with_program::<u32, Clock>(CLOCK),
    Map::with_program::<u32, [u64; 2]>(DESK),
    Map::with_program::<u32, Pattern>(PATTERN),
];

/// The maps of the agent's record, which the agent makes itself.
pub const RECORD: [Map; 2] =
    [Map::pinned::<u32, State>(STATE), Map::pinned::<GrantKey, GrantValue>(GRANTS)];

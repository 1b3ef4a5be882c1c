//! The choice of maps that a new program works with: those of the program before it where they
//! fit, new ones elsewhere.

use std::path::PathBuf;

use aya::EbpfLoader;
use aya::maps::MapInfo;
use knock_common::abi::maps::{COUNTERS, EVENTS, FIRST, KEYS, PROGRESS, RECENT, SEALED, TRIE};
use knock_policy::compile::Compiled;

use super::{Pins, Settings};

/// Fewest edges that the trie has room for, so that a reload can add doors in place.
const MIN_EDGES: u32 = 1 << 10;

/// The program's pinned maps, and what is lost if one must be made anew. Nothing is lost where
/// the agent has the contents from somewhere else.
const PINNED: [(&str, Option<&str>); 8] = [
    (TRIE, None),
    (RECENT, Some("knocks under way")),
    (FIRST, Some("first steps")),
    (PROGRESS, Some("knocks under way")),
    (EVENTS, Some("completed knocks that waited")),
    (COUNTERS, Some("counters")),
    (KEYS, None),
    (SEALED, Some("sealed knocks that waited")),
];

/// The chosen maps.
pub(super) struct Adoption {
    /// Where each pinned map is, or will be.
    paths: Vec<(&'static str, PathBuf)>,
    /// Those of the paths that loading makes.
    pub(super) created: Vec<PathBuf>,
    /// What is lost because a map does not fit.
    pub(super) lost: Vec<&'static str>,
    /// Edges that the trie's map has room for.
    pub(super) edges: u32,
}

impl Adoption {
    /// Looks at the pinned maps. Nothing is changed.
    pub(super) fn choose(compiled: &Compiled, settings: Settings, pins: Option<&Pins>) -> Self {
        let needed = u32::try_from(compiled.trie.edges.len()).unwrap_or(u32::MAX);
        let mut chosen = Self {
            paths: Vec::new(),
            created: Vec::new(),
            lost: Vec::new(),
            edges: needed.saturating_mul(2).max(MIN_EDGES),
        };
        let Some(pins) = pins else { return chosen };
        for (name, loss) in PINNED {
            let path = pins.map(name);
            let Some(size) = MapInfo::from_pin(&path).ok().map(|info| info.max_entries()) else {
                chosen.create(name, path);
                continue;
            };
            let fits = match name {
                TRIE => size >= needed,
                FIRST => size == settings.buckets(),
                PROGRESS => size == settings.max_sources,
                _ => true,
            };
            if !fits {
                // The old map stays in its place until the new program has taken over.
                chosen.create(name, pins.new_map(name));
                chosen.lost.extend(loss);
                continue;
            }
            if name == TRIE {
                chosen.edges = size;
            }
            chosen.paths.push((name, path));
        }
        chosen
    }

    fn create(&mut self, name: &'static str, path: PathBuf) {
        self.created.push(path.clone());
        self.paths.push((name, path));
    }

    /// Makes `loader` use the chosen maps.
    pub(super) fn apply(&self, loader: &mut EbpfLoader<'_>) {
        for (name, path) in &self.paths {
            loader.map_pin_path(name, path.clone());
        }
    }
}

/// Returns the names of the program's pinned maps.
pub(super) fn pinned() -> impl Iterator<Item = &'static str> {
    PINNED.into_iter().map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use knock_common::abi::maps::OBJECT;

    #[test]
    fn the_pinned_maps_are_those_of_the_abi() {
        let of_the_abi = OBJECT.iter().filter(|map| map.pinned).map(|map| map.name);
        assert_eq!(super::pinned().collect::<BTreeSet<_>>(), of_the_abi.collect());
    }
}

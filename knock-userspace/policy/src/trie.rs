//! The trie of all sequences, and the changes that turn the one in the kernel into another. Pure.
//!
//! Tracks name nodes. So a node that stays keeps its identifier, and a freed identifier is given to
//! another node only after all others were. By then no track that names it is alive.

use std::collections::{HashMap, HashSet};

use knock_common::sequence::{DoorId, Edge, NodeId, Step, Transition};

/// The edges that the detector looks up, each once.
pub type Edges = HashMap<Edge, Transition>;

/// One sequence that opens a door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledSequence {
    /// The door that it opens.
    pub door: DoorId,
    /// Longest time from the first step to the last, in ticks.
    pub within: u32,
    /// The steps in order; two or more.
    pub steps: Vec<Step>,
}

/// The trie without its first level, which is computed and not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trie {
    /// All edges below the first level.
    pub edges: Edges,
    /// The identifier that the next new node gets, if it is free.
    next: NodeId,
}

impl Default for Trie {
    fn default() -> Self {
        Self { edges: Edges::new(), next: NodeId::DEEPER }
    }
}

/// The number of nodes below the first level that a track can name.
const COUNT: u32 = NodeId::MAX.0 - NodeId::DEEPER.0 + 1;

/// The sequences need more nodes than a track can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sequences have more than {COUNT} different beginnings")]
pub struct TooManyNodes {
    /// The door with the first sequence for which there was no node left.
    pub door: DoorId,
}

/// The changes that turn one trie into another. They are made in three steps, so that a knock
/// under way on a door that stays never meets a missing edge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The edges to add first.
    pub insert: Vec<(Edge, Transition)>,
    /// The edges that get another value after that.
    pub replace: Vec<(Edge, Transition)>,
    /// The edges to remove at last.
    pub delete: Vec<Edge>,
}

impl Trie {
    /// Makes a trie from the edges that were read back and the identifier that was to come next.
    pub const fn restored(edges: Edges, next: NodeId) -> Self {
        Self { edges, next }
    }

    /// Returns the identifier that the next new node gets, if it is free.
    pub const fn next(&self) -> NodeId {
        self.next
    }

    /// Returns the trie of `sequences`. Nodes that this trie has already keep their identifiers.
    ///
    /// # Errors
    ///
    /// If there are too many nodes.
    pub fn rebuilt(&self, sequences: &[CompiledSequence]) -> Result<Self, TooManyNodes> {
        let mut nodes = Nodes { old: &self.edges, used: self.used(), next: self.next };
        // Each edge between two nodes, with the node that it leads to and the longest time of any
        // door behind it. Doors with a common beginning share its edges. The last edge of each
        // door decides by the door's own time.
        let mut middle: HashMap<Edge, (NodeId, u32)> = HashMap::new();
        let mut edges = Edges::new();
        let mut paths = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let Some((&first, rest)) = sequence.steps.split_first() else { continue };
            let Some((&last, between)) = rest.split_last() else { continue };
            let mut node = NodeId::first(first);
            let mut path = Vec::with_capacity(between.len());
            for &step in between {
                let edge = Edge::new(node, step);
                let (next, within) = match middle.get(&edge) {
                    Some(&(next, within)) => (next, within.max(sequence.within)),
                    None => {
                        let next = nodes.after(node, edge);
                        (next.ok_or(TooManyNodes { door: sequence.door })?, sequence.within)
                    }
                };
                middle.insert(edge, (next, within));
                node = next;
                path.push((node, step));
            }
            edges.insert(Edge::new(node, last), Transition::accept(sequence.door, sequence.within));
            paths.push(path);
        }
        for (edge, (next, within)) in middle {
            edges.insert(edge, Transition::advance(next, within));
        }
        let next = nodes.next;
        add_retransmissions(&mut edges, sequences, &paths);
        Ok(Self { edges, next })
    }

    /// Returns every identifier that an edge names.
    fn used(&self) -> HashSet<NodeId> {
        let nodes = self.edges.iter().flat_map(|(edge, transition)| {
            let node = NodeId(edge.node);
            [Some(node), transition.next(node)]
        });
        nodes.flatten().collect()
    }

    /// Returns the changes that turn this trie into `new`.
    pub fn change_to(&self, new: &Self) -> Change {
        let mut change = Change::default();
        for (&edge, &transition) in &new.edges {
            match self.edges.get(&edge) {
                Some(old) if *old == transition => {}
                Some(_) => change.replace.push((edge, transition)),
                None => change.insert.push((edge, transition)),
            }
        }
        change.delete =
            self.edges.keys().filter(|edge| !new.edges.contains_key(edge)).copied().collect();
        change
    }
}

/// The source of identifiers for nodes.
struct Nodes<'a> {
    old: &'a Edges,
    used: HashSet<NodeId>,
    next: NodeId,
}

impl Nodes<'_> {
    /// Returns the node behind `edge`, which leaves `node`: the one that the old trie has there, or
    /// a new one. Returns `None` if all identifiers are in use.
    fn after(&mut self, node: NodeId, edge: Edge) -> Option<NodeId> {
        if let Some(known) = self.old.get(&edge).and_then(|transition| transition.next(node)) {
            return Some(known);
        }
        for _ in 0..COUNT {
            let candidate = self.next;
            self.next = match candidate {
                NodeId::MAX => NodeId::DEEPER,
                NodeId(number) => NodeId(number + 1),
            };
            if self.used.insert(candidate) {
                return Some(candidate);
            }
        }
        None
    }
}

/// Adds an edge for each step that may come again after it was taken, even late. The edge leads
/// to the node where the track is. First steps need none, because they begin a new track wherever
/// they come. A path has the steps between the first and the last, each with the node behind it.
fn add_retransmissions(
    edges: &mut Edges,
    sequences: &[CompiledSequence],
    paths: &[Vec<(NodeId, Step)>],
) {
    let firsts: HashSet<Step> =
        sequences.iter().filter_map(|sequence| sequence.steps.first().copied()).collect();
    for path in paths {
        for (taken, &(node, _)) in path.iter().enumerate() {
            for &(_, step) in &path[..=taken] {
                if !firsts.contains(&step) {
                    edges.entry(Edge::new(node, step)).or_insert(Transition::stay(node));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use knock_common::sequence::Protocol;
    use proptest::prelude::*;

    use super::*;

    fn sequence(name: &str, ports: &[u16]) -> CompiledSequence {
        let step = |&port| Step::new(Protocol::Tcp, port);
        CompiledSequence {
            door: DoorId::of(name),
            within: 100,
            steps: ports.iter().map(step).collect(),
        }
    }

    /// The node that `steps` lead to.
    fn node(trie: &Trie, ports: &[u16]) -> Option<NodeId> {
        let steps = sequence("", ports).steps;
        steps[1..].iter().try_fold(NodeId::first(steps[0]), |node, &step| {
            trie.edges.get(&Edge::new(node, step))?.next(node)
        })
    }

    #[test]
    fn a_door_that_stays_keeps_its_nodes() {
        let (ssh, web) = (sequence("ssh", &[1, 2, 3, 4]), sequence("web", &[1, 2, 5, 6]));
        let before = Trie::default().rebuilt(&[sequence("vpn", &[7, 8, 9]), ssh.clone()]).unwrap();
        let after = before.rebuilt(&[web, ssh]).unwrap();
        for beginning in [&[1, 2][..], &[1, 2, 3]] {
            assert!(node(&after, beginning).is_some());
            assert_eq!(node(&after, beginning), node(&before, beginning));
        }
        let change = before.change_to(&after);
        assert!(!change.delete.is_empty(), "the removed door's edges go");
        let ours = |edge: &Edge| edge.node == NodeId::first(Step::new(Protocol::Tcp, 7)).0;
        assert!(change.delete.iter().any(ours));
    }

    #[test]
    fn a_freed_identifier_is_not_given_away_at_once() {
        let first = Trie::default().rebuilt(&[sequence("ssh", &[1, 2, 3])]).unwrap();
        let none = first.rebuilt(&[]).unwrap();
        let again = none.rebuilt(&[sequence("ssh", &[1, 2, 3])]).unwrap();
        assert_ne!(node(&first, &[1, 2]), node(&again, &[1, 2]));
    }

    #[test]
    fn identifiers_begin_anew_at_the_end_and_leave_out_those_in_use() {
        let first = Trie::default().rebuilt(&[sequence("ssh", &[1, 2, 3])]).unwrap();
        let full = Trie::restored(first.edges, NodeId::MAX);
        let sequences =
            [sequence("ssh", &[1, 2, 3]), sequence("a", &[4, 5, 6]), sequence("b", &[7, 8, 9])];
        let after = full.rebuilt(&sequences).unwrap();
        assert_eq!(node(&after, &[1, 2]), Some(NodeId::DEEPER));
        assert_eq!(node(&after, &[4, 5]), Some(NodeId::MAX));
        assert_eq!(node(&after, &[7, 8]), Some(NodeId(NodeId::DEEPER.0 + 1)));
    }

    proptest! {
        #[test]
        fn a_change_makes_of_one_trie_the_other(
            before in prop::collection::vec(prop::collection::vec(1u16..6, 2..5), 0..6),
            after in prop::collection::vec(prop::collection::vec(1u16..6, 2..5), 0..6),
        ) {
            let sequences = |all: &[Vec<u16>]| -> Vec<_> {
                all.iter().enumerate().map(|(n, ports)| sequence(&format!("{n}"), ports)).collect()
            };
            let before = Trie::default().rebuilt(&sequences(&before)).unwrap();
            let after = before.rebuilt(&sequences(&after)).unwrap();
            let change = before.change_to(&after);
            let mut edges = before.edges;
            for (edge, transition) in change.insert {
                prop_assert_eq!(edges.insert(edge, transition), None);
            }
            for (edge, transition) in change.replace {
                prop_assert!(edges.insert(edge, transition).is_some());
            }
            for edge in change.delete {
                prop_assert!(edges.remove(&edge).is_some());
            }
            prop_assert_eq!(edges, after.edges);
        }
    }
}

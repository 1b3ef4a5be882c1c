//! From doors to what the detector looks up: a class for every port and the
//! transitions of one trie. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;

use knock_common::progress::Ticks;
use knock_common::sequence::{Edge, NodeId, PORTS, PortClass, Protocol, Step, Transition};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use crate::policy::{Door, Policy};
use crate::scan;

/// What the detector's maps hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// Every transition below the first level; each edge once.
    pub edges: HashMap<Edge, Transition>,
    /// One byte a port, see [`PortClass`].
    pub classes: Box<[u8; PORTS]>,
    /// The longest `within` of any door, in ticks.
    pub longest: u32,
}

/// What the host itself uses, and so cannot be a decoy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Ports that something listens on.
    pub listening: HashSet<Step>,
    /// Ports that the host itself sends from, so that answers come to them.
    pub ephemeral: Option<RangeInclusive<u16>>,
}

/// Why doors cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A scanner would open a door without knowing it.
    #[error(
        "door `{door}`: a port scan in {order} order would open it, because it meets only \
         {decoys} decoys between the steps and `strays` allows {strays}; choose steps that are \
         not in {order} order, or further apart"
    )]
    Scannable {
        /// Name of the door.
        door: String,
        /// The order of the scan.
        order: scan::Order,
        /// Decoys on its way.
        decoys: usize,
        /// Decoys that it may hit.
        strays: u8,
    },
    /// The trie is too large for a track to name its nodes.
    #[error("the sequences have more than {} different beginnings", NodeId::MAX.0)]
    TooManyNodes,
}

/// Compiles all doors of `policy`. Door `n` of the policy is door `n` in the events.
///
/// `seed` chooses the decoys; who knows it knows where not to scan.
///
/// # Errors
///
/// See [`CompileError`].
pub fn compile(policy: &Policy, served: &Served, seed: [u8; 32]) -> Result<Compiled, CompileError> {
    let classes = classes(policy, served, seed);
    for door in &policy.doors {
        if let Some((order, decoys)) = scan::opens(door, &classes, policy.strays) {
            let door = door.name.clone();
            return Err(CompileError::Scannable { door, order, decoys, strays: policy.strays });
        }
    }
    let longest = policy.doors.iter().map(|door| Ticks::from_duration(door.within)).max();
    Ok(Compiled { edges: edges(&policy.doors)?, classes, longest: longest.unwrap_or(0) })
}

/// The trie below its first level.
fn edges(doors: &[Door]) -> Result<HashMap<Edge, Transition>, CompileError> {
    let mut edges = HashMap::new();
    let mut within_of = HashMap::new();
    let mut paths = Vec::new();
    let mut next_free = NodeId::DEEPER;
    let orders = doors.iter().enumerate().flat_map(|(index, door)| {
        let within = Ticks::from_duration(door.within);
        door.orders().into_iter().map(move |order| (index, within, order))
    });
    for (index, within, order) in orders {
        let Some((&first, rest)) = order.split_first() else { continue };
        let Some((&last, middle)) = rest.split_last() else { continue };
        let mut node = NodeId::first(first);
        let mut path = Vec::with_capacity(middle.len());
        for &step in middle {
            let (next, longest) = within_of.entry(Edge::new(node, step)).or_insert_with(|| {
                let fresh = next_free;
                next_free.0 += 1;
                (fresh, 0)
            });
            // Doors that share a beginning share its edges; the last edge of each
            // decides by its own time.
            *longest = within.max(*longest);
            node = *next;
            path.push((node, step));
        }
        if next_free > NodeId::MAX {
            return Err(CompileError::TooManyNodes);
        }
        edges.insert(Edge::new(node, last), Transition::accept(index as u32, within));
        paths.push(path);
    }
    for (edge, (next, within)) in within_of {
        edges.insert(edge, Transition::advance(next, within));
    }
    add_retransmissions(&mut edges, doors, &paths);
    Ok(edges)
}

/// A step already taken may come again, even late. It then leads to where the track
/// is. First steps need no such edge: they begin anew wherever they come.
fn add_retransmissions(
    edges: &mut HashMap<Edge, Transition>,
    doors: &[Door],
    paths: &[Vec<(NodeId, Step)>],
) {
    let orders = doors.iter().flat_map(Door::orders);
    let firsts: HashSet<Step> = orders.filter_map(|order| order.first().copied()).collect();
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

/// The class of every port, for both protocols.
fn classes(policy: &Policy, served: &Served, seed: [u8; 32]) -> Box<[u8; PORTS]> {
    let mut classes = Box::new([0u8; PORTS]);
    let mut add = |step: Step, class: PortClass| {
        let entry = &mut classes[step.port as usize];
        *entry = class.add_to(*entry, step.protocol);
    };
    let mut steps = BTreeSet::new();
    for door in &policy.doors {
        for order in door.orders() {
            for (index, &step) in order.iter().enumerate() {
                add(step, if index == 0 { PortClass::FIRST } else { PortClass::LATER });
                steps.insert(step);
            }
        }
    }
    let guarded: HashSet<Step> = policy
        .doors
        .iter()
        .flat_map(|door| &door.opens)
        .map(|service| Step::new(service.protocol, service.port))
        .collect();
    let used = |step: &Step| {
        steps.contains(step) || guarded.contains(step) || served.listening.contains(step)
    };
    for decoy in neighbours(&steps).chain(random(policy.decoys, served, seed)) {
        if !used(&decoy) {
            add(decoy, PortClass::DECOY);
        }
    }
    classes
}

/// The ports that a scan in order meets around each step, for both protocols.
fn neighbours(steps: &BTreeSet<Step>) -> impl Iterator<Item = Step> {
    const REACH: i32 = 2;
    steps.iter().flat_map(|step| {
        let port = i32::from(step.port);
        (port - REACH..=port + REACH)
            .filter_map(|port| u16::try_from(port).ok().filter(|&port| port != 0))
            .flat_map(|port| Protocol::ALL.map(|protocol| Step::new(protocol, port)))
    })
}

/// `percent` of all ports, chosen by `seed`. UDP ports that the host sends from are
/// left out: an answer from a peer is not a knock, but would count as one.
fn random(percent: u8, served: &Served, seed: [u8; 32]) -> impl Iterator<Item = Step> {
    let mut rng = StdRng::from_seed(seed);
    let ephemeral = served.ephemeral.clone();
    (1..=u16::MAX)
        .flat_map(|port| Protocol::ALL.map(|protocol| Step::new(protocol, port)))
        .filter(move |_| rng.random_ratio(u32::from(percent.min(100)), 100))
        .filter(move |step| {
            let answers = ephemeral.as_ref().is_some_and(|range| range.contains(&step.port));
            !(step.protocol == Protocol::Udp && answers)
        })
}

/// A sequence that nobody can guess: `length` different ports between 1024 and 32767,
/// neighbours of none of the others, alternating between TCP and UDP at random.
pub fn draw_sequence(rng: &mut impl Rng, length: usize) -> Vec<Step> {
    const APART: u16 = 8;
    let mut steps: Vec<Step> = Vec::with_capacity(length);
    while steps.len() < length {
        let protocol = if rng.random() { Protocol::Tcp } else { Protocol::Udp };
        let port = rng.random_range(1024..32768);
        if steps.iter().all(|step| step.port.abs_diff(port) >= APART) {
            steps.push(Step::new(protocol, port));
        }
    }
    steps
}

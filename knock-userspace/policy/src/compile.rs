//! The compiler: from doors to a class for every port and one trie. Pure.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use knock_common::progress::Ticks;
use knock_common::sequence::{DoorId, PORTS, PortClass, Protocol, Step};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use crate::policy::{Door, Method, Policy};
use crate::scan;
use crate::trie::{CompiledSequence, TooManyNodes, Trie};

/// The contents of the detector's maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// All sequences.
    pub trie: Trie,
    /// One byte for each port, see [`PortClass`].
    pub classes: Box<[u8; PORTS]>,
    /// The longest `within` of any door, in ticks.
    pub longest: u32,
}

/// The ports that the host itself uses, which cannot be decoys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Ports with a listening socket.
    pub listening: HashSet<Step>,
    /// Ports that the host sends from, so that answers come to them.
    pub ephemeral: Option<RangeInclusive<u16>>,
}

/// A sequence that a key opens a door with for a short time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSequence {
    /// The identifier that its event will carry.
    pub id: DoorId,
    /// The steps in order.
    pub steps: Vec<Step>,
    /// Longest time from the first step to the last.
    pub within: Duration,
}

/// The error for doors that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.problems))]
pub struct CompileError {
    /// All reasons, at least one.
    pub problems: Vec<Problem>,
}

/// One reason why doors cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The door, by its place in the policy; `None` if sequences of keys are the reason.
    pub door: Option<usize>,
    /// The name of the door.
    name: String,
    /// The reason.
    pub reason: Reason,
}

/// The fault of a door's sequence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// A scanner would open the door by accident.
    #[error(
        "a port scan in {order} order would open it, because it meets no more decoys between the \
         steps ({decoys}) than `strays` allows"
    )]
    Scannable {
        /// The order of the scan.
        order: scan::Order,
        /// The decoys that the scan hits.
        decoys: usize,
    },
    /// The trie is too large for a track to name its nodes.
    #[error(transparent)]
    TooManyNodes(#[from] TooManyNodes),
}

impl Reason {
    /// Returns the advice to the user.
    pub fn help(&self) -> String {
        match self {
            Self::Scannable { order, .. } => {
                format!("choose steps that are not in {order} order, or further apart")
            }
            Self::TooManyNodes(_) => {
                "use fewer or shorter sequences, or leave `reorder` out".to_owned()
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.door.is_some() {
            write!(f, "door `{}`: ", self.name)?;
        }
        write!(f, "{}; {}", self.reason, self.reason.help())
    }
}

/// Writes one problem a line. A long list ends with the number of all problems.
fn lines(problems: &[Problem]) -> String {
    const MOST: usize = 20;
    let mut lines: Vec<_> = problems.iter().take(MOST).map(ToString::to_string).collect();
    if problems.len() > MOST {
        lines.push(format!("and so on, {} in all", problems.len()));
    }
    lines.join("\n")
}

/// Compiles all doors of `policy`, from nothing.
///
/// # Errors
///
/// See [`CompileError`].
pub fn compile(policy: &Policy, served: &Served, seed: [u8; 32]) -> Result<Compiled, CompileError> {
    compile_onto(&Trie::default(), policy, &[], served, seed)
}

/// Compiles all doors of `policy` for a detector that has `trie`: doors that stay keep their
/// nodes, and sources that knock on them keep their progress. `live` are the sequences of keys at
/// the moment.
///
/// `seed` chooses the decoys. It is a secret: a scanner that knows it can avoid them.
///
/// # Errors
///
/// See [`CompileError`].
pub fn compile_onto(
    trie: &Trie,
    policy: &Policy,
    live: &[LiveSequence],
    served: &Served,
    seed: [u8; 32],
) -> Result<Compiled, CompileError> {
    // Sequences of keys take the place of decoys, and change every half minute. A door of the
    // config must not be refused in some half minutes only, so it is judged without them.
    let lasting = classes(policy, &[], served, seed);
    let mut problems = scannable(policy, &lasting);
    let trie = match trie.rebuilt(&sequences(&policy.doors, live)) {
        Ok(trie) => trie,
        Err(error) => {
            let door = policy.doors.iter().position(|door| door.id() == error.door);
            problems.push(Problem::new(policy, door, error.into()));
            return Err(CompileError { problems });
        }
    };
    if !problems.is_empty() {
        return Err(CompileError { problems });
    }
    let classes = if live.is_empty() { lasting } else { classes(policy, live, served, seed) };
    let longest = policy.doors.iter().map(|door| Ticks::from_duration(door.within)).max();
    Ok(Compiled { trie, classes, longest: longest.unwrap_or(0) })
}

/// Returns one problem for each door that a port scan would open.
fn scannable(policy: &Policy, classes: &[u8; PORTS]) -> Vec<Problem> {
    let opened = policy.doors.iter().enumerate().filter_map(|(index, door)| {
        let (order, decoys) = scan::opens(door, classes, policy.strays)?;
        let reason = Reason::Scannable { order, decoys };
        Some(Problem::new(policy, Some(index), reason))
    });
    opened.collect()
}

impl Problem {
    fn new(policy: &Policy, door: Option<usize>, reason: Reason) -> Self {
        let name = door.map_or_else(String::new, |door| policy.doors[door].name.clone());
        Self { door, name, reason }
    }
}

/// Returns every sequence that opens a door.
fn sequences(doors: &[Door], live: &[LiveSequence]) -> Vec<CompiledSequence> {
    let orders = |door: &Door| {
        let (id, within) = (door.id(), Ticks::from_duration(door.within));
        door.orders().into_iter().map(move |steps| CompiledSequence { door: id, within, steps })
    };
    let live = live.iter().map(|LiveSequence { id, steps, within }| CompiledSequence {
        door: *id,
        within: Ticks::from_duration(*within),
        steps: steps.clone(),
    });
    doors.iter().flat_map(orders).chain(live).collect()
}

/// Returns what cannot be a step of a key: what the host listens on, what a door opens, and what
/// takes sealed knocks.
pub fn taken(policy: &Policy, served: &Served) -> HashSet<Step> {
    let opened = policy.doors.iter().flat_map(|door| &door.opens);
    let opened = opened.map(|service| Step::new(service.protocol, service.port));
    opened.chain(served.listening.iter().copied()).chain(sealed(policy)).collect()
}

/// Returns the ports of [`taken`] of either protocol. A key leaves them out for all its steps,
/// whether those are TCP or UDP.
pub fn taken_ports(policy: &Policy, served: &Served) -> BTreeSet<u16> {
    taken(policy, served).into_iter().map(|step| step.port).collect()
}

/// Returns the ports that take sealed knocks.
fn sealed(policy: &Policy) -> impl Iterator<Item = Step> {
    policy.doors.iter().filter_map(|door| match door.method {
        Method::Sealed { port, .. } => Some(Step::new(Protocol::Udp, port)),
        _ => None,
    })
}

/// Returns the class of every port, for both protocols.
fn classes(
    policy: &Policy,
    live: &[LiveSequence],
    served: &Served,
    seed: [u8; 32],
) -> Box<[u8; PORTS]> {
    let mut classes = Box::new([0u8; PORTS]);
    let mut add = |step: Step, class: PortClass| {
        let entry = &mut classes[step.port as usize];
        *entry = class.add_to(*entry, step.protocol);
    };
    let mut steps = BTreeSet::new();
    let orders = policy.doors.iter().flat_map(Door::orders);
    for order in orders.chain(live.iter().map(|sequence| sequence.steps.clone())) {
        for (index, &step) in order.iter().enumerate() {
            add(step, if index == 0 { PortClass::FIRST } else { PortClass::LATER });
            steps.insert(step);
        }
    }
    let sealed: HashSet<Step> = sealed(policy).collect();
    for &port in &sealed {
        add(port, PortClass::SEALED);
    }
    let guarded: HashSet<Step> = policy
        .doors
        .iter()
        .flat_map(|door| &door.opens)
        .map(|service| Step::new(service.protocol, service.port))
        .collect();
    let used = |step: &Step| {
        steps.contains(step)
            || guarded.contains(step)
            || sealed.contains(step)
            || served.listening.contains(step)
    };
    for decoy in neighbours(&steps).chain(random(policy.decoys, served, seed)) {
        if !used(&decoy) {
            add(decoy, PortClass::DECOY);
        }
    }
    classes
}

/// Returns the ports around each step, for both protocols. A scan in order meets them.
fn neighbours(steps: &BTreeSet<Step>) -> impl Iterator<Item = Step> {
    const REACH: i32 = 2;
    steps.iter().flat_map(|step| {
        let port = i32::from(step.port);
        (port - REACH..=port + REACH)
            .filter_map(|port| u16::try_from(port).ok().filter(|&port| port != 0))
            .flat_map(|port| Protocol::ALL.map(|protocol| Step::new(protocol, port)))
    })
}

/// Returns `percent` of all ports, chosen by `seed`, without the UDP ports that the host sends
/// from. An answer from a peer to one of those would count as a stray.
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

/// Draws a sequence that is hard to guess: `length` different ports between 1024 and 32767, each
/// at least 8 apart from the others, with TCP or UDP at random.
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

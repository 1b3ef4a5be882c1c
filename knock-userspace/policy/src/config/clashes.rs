//! Mistakes between doors: names, sequences, and ports that two of them use.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use knock_common::sequence::{Protocol, Step};

use super::error::{Mistake, Mistakes};
use crate::policy::{Door, Method};

/// A door as far as it could be read, with the places of what may clash with other doors.
///
/// A value that could not be read is at its default. A door without a readable name is called `#`
/// with its number, which is not a legal name and so differs from all others.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) door: Door,
    /// The name of the door in mistakes.
    pub(super) label: String,
    /// The place of the name, or `None` if the name could not be read.
    pub(super) name: Option<Range<usize>>,
    /// The place of the sequence or the sealed port, or of the door if it has neither.
    pub(super) knock: Range<usize>,
    /// The place of each step.
    pub(super) steps: Vec<Range<usize>>,
    /// Whether the door has a sequence without mistakes, which can be judged as a whole.
    pub(super) whole: bool,
}

/// Adds the mistakes between `doors`.
pub(super) fn find(doors: &[Placed], mistakes: &mut Mistakes) {
    let mut sequences = HashMap::new();
    let mut guarded = HashMap::new();
    let mut sealed = HashMap::new();
    for (index, placed) in doors.iter().enumerate() {
        if let Method::Sealed { port, .. } = placed.door.method {
            sealed.entry(Step::new(Protocol::Udp, port)).or_insert(placed);
        }
        for service in &placed.door.opens {
            guarded.entry(Step::new(service.protocol, service.port)).or_insert(placed);
        }
        if placed.whole {
            for order in placed.door.orders() {
                sequences.entry(order).or_insert(index);
            }
        }
    }
    names(doors, mistakes);
    for placed in doors {
        sealed_port(placed, &guarded, mistakes);
        steps(placed, &guarded, &sealed, mistakes);
    }
    for index in 0..doors.len() {
        completed_before(doors, index, &sequences, mistakes);
    }
}

/// Adds a mistake for each name that another door has, or whose hash another name has. The
/// detector tells doors apart by the hash.
fn names(doors: &[Placed], mistakes: &mut Mistakes) {
    let mut names = HashMap::new();
    let mut identifiers = HashMap::new();
    for placed in doors {
        let Some(place) = &placed.name else { continue };
        let name = placed.door.name.as_str();
        if let Some(first) = names.get(name) {
            let what = format!("there are two doors called `{name}`");
            let mistake = Mistake::new(place.clone(), what, "rename one of them");
            mistakes.add(mistake.and(Range::clone(first), "the first"));
            continue;
        }
        names.insert(name, place.clone());
        if let Some((other, other_place)) =
            identifiers.insert(placed.door.id(), (name, place.clone()))
        {
            let what = format!(
                "the detector could not tell `{name}` from `{other}`: their names have the same \
                 hash"
            );
            let mistake = Mistake::new(place.clone(), what, "rename one of them");
            mistakes.add(mistake.and(other_place, "the other"));
        }
    }
}

/// Adds a mistake if the port for sealed knocks is a service of a door.
fn sealed_port(placed: &Placed, guarded: &HashMap<Step, &Placed>, mistakes: &mut Mistakes) {
    let Method::Sealed { port, .. } = placed.door.method else { return };
    let port = Step::new(Protocol::Udp, port);
    if let Some(other) = guarded.get(&port) {
        let what = format!("{port} takes sealed knocks, but {} opens it", other.label);
        let help = "give another `port`, which nothing serves";
        mistakes.add(Mistake::new(placed.knock.clone(), what, help));
    }
}

/// Adds a mistake for each step that is a service or a sealed port of a door.
fn steps(
    placed: &Placed,
    guarded: &HashMap<Step, &Placed>,
    sealed: &HashMap<Step, &Placed>,
    mistakes: &mut Mistakes,
) {
    for (step, place) in placed.door.sequence.iter().zip(&placed.steps) {
        let (what, help) = if let Some(other) = guarded.get(step) {
            (
                format!("{step} is a step, but {} opens it", other.label),
                "knock on ports that nothing serves; choose another step",
            )
        } else if let Some(other) = sealed.get(step) {
            (
                format!("{step} is a step, but takes the sealed knocks of {}", other.label),
                "choose another step",
            )
        } else {
            continue;
        };
        mistakes.add(Mistake::new(place.clone(), what, help));
    }
}

/// Adds a mistake for each other door whose whole sequence is, or begins, an order of the door at
/// `index`. `sequences` has the first door of each sequence.
fn completed_before(
    doors: &[Placed],
    index: usize,
    sequences: &HashMap<Vec<Step>, usize>,
    mistakes: &mut Mistakes,
) {
    let placed = &doors[index];
    if !placed.whole {
        return;
    }
    let mut others = HashSet::new();
    for order in placed.door.orders() {
        for length in 1..=order.len() {
            let Some(&other) = sequences.get(&order[..length]) else { continue };
            if other == index || !others.insert(other) {
                continue;
            }
            let other = &doors[other];
            let (what, help) = if length == order.len() {
                (
                    "has the same sequence as",
                    "give it another one, or let one door open both services",
                )
            } else {
                (
                    "can never be completed: it begins with the whole sequence of",
                    "change one of the first steps",
                )
            };
            let reordered = placed.door.reorder || other.door.reorder;
            let reordered = if reordered { ", in an order that `reorder` allows" } else { "" };
            let what = format!("{} {what} {}{reordered}", placed.label, other.label);
            let mistake = Mistake::new(placed.knock.clone(), what, help);
            mistakes.add(mistake.and(other.knock.clone(), other.label.clone()));
        }
    }
}

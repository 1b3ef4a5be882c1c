//! Port scans that would open a door by accident. Pure.

use std::fmt;

use knock_common::sequence::{PORTS, PortClass, Protocol, Step};

use crate::policy::Door;

/// An order in which a scanner may touch every port of both protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    descending: bool,
    protocols: Protocols,
}

/// How a scanner combines the two protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocols {
    /// All ports of one, then all of the other.
    OneAfterTheOther { first: Protocol },
    /// Each port with both before the next port.
    Together { first: Protocol },
}

impl Order {
    fn all() -> impl Iterator<Item = Self> {
        let protocols = Protocol::ALL.into_iter().flat_map(|first| {
            [Protocols::OneAfterTheOther { first }, Protocols::Together { first }]
        });
        protocols
            .flat_map(|protocols| [false, true].map(|descending| Self { descending, protocols }))
    }

    /// Returns how many steps the scan touches before `step`.
    fn position(self, step: Step) -> usize {
        let port = usize::from(step.port);
        let port = if self.descending { PORTS - 1 - port } else { port };
        match self.protocols {
            Protocols::OneAfterTheOther { first } => {
                port + if step.protocol == first { 0 } else { PORTS }
            }
            Protocols::Together { first } => 2 * port + usize::from(step.protocol != first),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.descending { "descending" } else { "ascending" })
    }
}

/// Returns the first order in which a scan completes a sequence of `door`, with the number of
/// decoys that it hits between the first step and the last. Returns `None` if there is no such
/// order.
///
/// Steps of other doors, which would end the scan's progress too, are not counted.
pub fn opens(door: &Door, classes: &[u8; PORTS], strays: u8) -> Option<(Order, usize)> {
    let sequences = door.orders();
    let pairs =
        sequences.iter().flat_map(|sequence| Order::all().map(move |order| (sequence, order)));
    pairs.into_iter().find_map(|(sequence, order)| {
        if !sequence.is_sorted_by(|a, b| order.position(*a) < order.position(*b)) {
            return None;
        }
        let (first, last) = (sequence.first()?, sequence.last()?);
        let range = order.position(*first)..order.position(*last);
        let is_decoy = |step: Step| {
            let entry = classes[usize::from(step.port)];
            PortClass::of(entry, step.protocol).has(PortClass::DECOY)
        };
        let mut hit = 0;
        for step in steps_between(*first, *last, order) {
            hit += usize::from(range.contains(&order.position(step)) && is_decoy(step));
            if hit > usize::from(strays) {
                return None;
            }
        }
        Some((order, hit))
    })
}

/// Returns every step that a scan can touch from `first` to `last`, and perhaps some more.
fn steps_between(first: Step, last: Step, order: Order) -> impl Iterator<Item = Step> {
    let (low, high) = match order.protocols {
        Protocols::OneAfterTheOther { .. } if first.protocol != last.protocol => (0, u16::MAX),
        _ => (first.port.min(last.port), first.port.max(last.port)),
    };
    (low..=high).flat_map(|port| Protocol::ALL.map(|protocol| Step::new(protocol, port)))
}

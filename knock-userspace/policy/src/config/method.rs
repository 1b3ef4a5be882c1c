//! The method of a door: the fields that belong to it, and their values.

use std::ops::{Range, RangeInclusive};

use knock_common::sequence::Step;
use knock_keys::{Addresses, Ports, Rolling};
use serde_spanned::Spanned;

use super::error::{Mistake, Mistakes};
use super::field::Field;
use super::raw::{Text, Texts};
use super::values::{self, Wrong};
use crate::policy::Method;

const STEPS: RangeInclusive<usize> = 2..=32;

/// The fields of a door that are about knocking.
pub(super) struct Written {
    /// The place of the door's name, or of the door if it has none.
    pub(super) door: Range<usize>,
    pub(super) method: Field<Text>,
    pub(super) sequence: Field<Texts>,
    pub(super) ports: Field<Text>,
    pub(super) steps: Field<Spanned<i64>>,
    pub(super) mixed: Field<Spanned<bool>>,
    pub(super) port: Field<Spanned<i64>>,
    pub(super) addresses: Field<Text>,
    pub(super) within: Option<Range<usize>>,
    pub(super) reorder: Option<Range<usize>>,
}

/// The checked values of those fields.
pub(super) struct Knocks {
    pub(super) method: Method,
    /// The steps that could be read.
    pub(super) sequence: Vec<Step>,
    /// The place of the sequence or the sealed port, or of the door if it has neither.
    pub(super) place: Range<usize>,
    /// The place of each step.
    pub(super) steps: Vec<Range<usize>>,
    /// Whether there is a sequence, and it has no mistake.
    pub(super) whole: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sequence,
    Rolling,
    Sealed,
}

impl Written {
    /// Checks the method and its values. If the method could not be read, all values are checked,
    /// and the result is a door without a sequence.
    pub(super) fn check(self, mistakes: &mut Mistakes) -> Knocks {
        const KINDS: [(&str, Kind); 3] =
            [("sequence", Kind::Sequence), ("rolling", Kind::Rolling), ("sealed", Kind::Sealed)];
        let kind = match mistakes.read(self.method.clone(), |text| values::word(&text, &KINDS)) {
            Field::Given(kind) => Some(kind),
            Field::Absent => Some(Kind::Sequence),
            Field::Mistaken => None,
        };
        if let Some(kind) = kind {
            self.misplaced(kind, mistakes);
        }
        let may_be = |other: Kind| kind.is_none_or(|kind| kind == other);
        let mut knocks = Knocks {
            method: Method::Sequence,
            sequence: Vec::new(),
            place: self.door.clone(),
            steps: Vec::new(),
            whole: false,
        };
        if may_be(Kind::Rolling) {
            let rolling = rolling(self.ports, self.steps, self.mixed, mistakes);
            knocks.method = if kind.is_some() { rolling } else { knocks.method };
        }
        if may_be(Kind::Sealed) {
            knocks.place = self.port.place().unwrap_or(knocks.place);
            let sealed = sealed(self.port, self.addresses, mistakes);
            knocks.method = sealed.filter(|_| kind.is_some()).unwrap_or(knocks.method);
        }
        match self.sequence {
            Field::Given(sequence) if may_be(Kind::Sequence) => {
                knocks.place = sequence.span();
                let whole = steps(sequence, &mut knocks, mistakes);
                knocks.whole = whole && kind.is_some();
            }
            Field::Absent if kind == Some(Kind::Sequence) => {
                let help = "give `sequence = [\"tcp/7000\", \"udp/8000\", \"tcp/4500\"]`, or \
                            `method = \"sealed\"` for devices with a key";
                let what = "this door has neither a `sequence` nor a `method` without one";
                mistakes.add(Mistake::new(self.door, what, help));
            }
            _ => {}
        }
        knocks
    }

    /// Adds a mistake for each field that belongs to another method.
    fn misplaced(&self, kind: Kind, mistakes: &mut Mistakes) {
        let owners = [
            ("sequence", self.sequence.place(), &[Kind::Sequence][..]),
            ("ports", self.ports.place(), &[Kind::Rolling]),
            ("steps", self.steps.place(), &[Kind::Rolling]),
            ("mixed", self.mixed.place(), &[Kind::Rolling]),
            ("port", self.port.place(), &[Kind::Sealed]),
            ("addresses", self.addresses.place(), &[Kind::Sealed]),
            ("within", self.within.clone(), &[Kind::Sequence, Kind::Rolling]),
            ("reorder", self.reorder.clone(), &[Kind::Sequence]),
        ];
        let name = |kind| match kind {
            Kind::Sequence => "sequence",
            Kind::Rolling => "rolling",
            Kind::Sealed => "sealed",
        };
        for (key, place, kinds) in owners {
            let Some(place) = place.filter(|_| !kinds.contains(&kind)) else { continue };
            let what = format!("`{key}` has no meaning for a door of method \"{}\"", name(kind));
            let methods: Vec<_> = kinds.iter().map(|kind| format!("\"{}\"", name(*kind))).collect();
            let help = format!("leave it out, or write `method = {}`", methods.join("` or `"));
            mistakes.add(Mistake::new(place, what, help));
        }
    }
}

/// Reads `20000-32767`.
fn ports(text: &str) -> Result<RangeInclusive<u16>, Wrong> {
    Ports::parse_range(text)
        .and_then(|range| Ports::new(range, []))
        .map(|ports| ports.range())
        .map_err(|error| (error.to_string(), "write it as in `ports = \"20000-32767\"`".to_owned()))
}

fn rolling(
    range: Field<Text>,
    steps: Field<Spanned<i64>>,
    mixed: Field<Spanned<bool>>,
    mistakes: &mut Mistakes,
) -> Method {
    Method::Rolling {
        ports: mistakes.optional(range, Method::ROLLING_PORTS, |text| ports(&text)),
        steps: mistakes
            .optional(steps, Rolling::DEFAULT_STEPS, |n| values::number(n, Rolling::STEPS)),
        mixed: mixed.given().is_some_and(Spanned::into_inner),
    }
}

/// Returns `None` if the port could not be read, so that the default is not taken for it.
fn sealed(
    port: Field<Spanned<i64>>,
    addresses: Field<Text>,
    mistakes: &mut Mistakes,
) -> Option<Method> {
    let addresses = mistakes.optional(addresses, Addresses::default(), |text| {
        values::word(&text, &Addresses::ALL.map(|known| (known.name(), known)))
    });
    let port = mistakes.read(port, |n| values::number(n, 1..=u16::MAX));
    let port = port.map(Some).or(Some(Method::SEALED_PORT), None)?;
    Some(Method::Sealed { port, addresses })
}

/// Reads the steps into `knocks` and returns whether they have no mistake.
fn steps(sequence: Texts, knocks: &mut Knocks, mistakes: &mut Mistakes) -> bool {
    let span = sequence.span();
    let written = sequence.into_inner();
    let mut whole = STEPS.contains(&written.len());
    if !whole {
        let what = match written.len() {
            0 => "a sequence without steps would open to everyone".into(),
            1 => "any port scan would open a sequence of one step".into(),
            n => format!("{n} steps are more than anyone can knock in time"),
        };
        let help =
            format!("give {} to {} steps; three or more are better", STEPS.start(), STEPS.end());
        mistakes.add(Mistake::new(span, what, help));
    }
    // The step before this one, unless it could not be read.
    let mut before = None;
    for text in written {
        let step = text.and_then(|text| {
            let span = text.span();
            Some((mistakes.note(span.clone(), values::step(text.get_ref()))?, span))
        });
        let Some((step, span)) = step else {
            (whole, before) = (false, None);
            continue;
        };
        if before == Some(step) {
            let what =
                format!("{step} twice in a row cannot be distinguished from a retransmission");
            mistakes.add(Mistake::new(span.clone(), what, "put another step between the two"));
            whole = false;
        }
        before = Some(step);
        // Steps beyond the limit are read for their mistakes alone. What a reordered door compiles
        // to grows with the cube of its steps.
        if knocks.sequence.len() < *STEPS.end() {
            knocks.sequence.push(step);
            knocks.steps.push(span);
        }
    }
    whole
}

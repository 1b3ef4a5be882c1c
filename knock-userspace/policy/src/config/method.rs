//! How one knocks on a door: which keys belong to which method, and what they say.

use std::ops::{Range, RangeInclusive};

use knock_common::sequence::Step;
use knock_keys::{Addresses, Ports, Rolling};
use serde_spanned::Spanned;

use super::Mistake;
use super::check::Mistakes;
use super::raw::Text;
use super::values::{self, Wrong};
use crate::policy::Method;

const STEPS: RangeInclusive<usize> = 2..=32;

/// What a door says about how one knocks on it.
pub(super) struct Written {
    /// Where the door's name is.
    pub(super) door: Range<usize>,
    pub(super) method: Option<Text>,
    pub(super) sequence: Option<Spanned<Vec<Text>>>,
    pub(super) ports: Option<Text>,
    pub(super) steps: Option<Spanned<i64>>,
    pub(super) mixed: Option<Spanned<bool>>,
    pub(super) port: Option<Spanned<i64>>,
    pub(super) addresses: Option<Text>,
    pub(super) within: Option<Range<usize>>,
    pub(super) reorder: Option<Range<usize>>,
}

/// The same, checked.
pub(super) struct Knocks {
    pub(super) method: Method,
    pub(super) sequence: Vec<Step>,
    /// Where the sequence is; where the door's name is if it has none.
    pub(super) sequence_at: Range<usize>,
    /// Where each step is.
    pub(super) places: Vec<Range<usize>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sequence,
    Rolling,
    Sealed,
}

impl Written {
    pub(super) fn check(self, mistakes: &mut Mistakes) -> Knocks {
        const KINDS: [(&str, Kind); 3] =
            [("sequence", Kind::Sequence), ("rolling", Kind::Rolling), ("sealed", Kind::Sealed)];
        let kind = mistakes
            .optional(self.method.clone(), Kind::Sequence, |text| values::word(&text, &KINDS));
        self.misplaced(kind, mistakes);
        let method = match kind {
            Kind::Sequence => Method::Sequence,
            Kind::Rolling => Method::Rolling {
                ports: mistakes.optional(self.ports, Method::ROLLING_PORTS, |text| ports(&text)),
                steps: mistakes.optional(self.steps, Rolling::DEFAULT_STEPS, |n| {
                    values::number(n, Rolling::STEPS)
                }),
                mixed: self.mixed.is_some_and(Spanned::into_inner),
            },
            Kind::Sealed => Method::Sealed {
                port: mistakes
                    .optional(self.port, Method::SEALED_PORT, |n| values::number(n, 1..=u16::MAX)),
                addresses: mistakes.optional(self.addresses, Addresses::default(), |text| {
                    values::word(&text, &Addresses::ALL.map(|one| (one.name(), one)))
                }),
            },
        };
        let sequence_at = self.sequence.as_ref().map_or(self.door.clone(), Spanned::span);
        let (sequence, places) = match (kind, self.sequence) {
            (Kind::Sequence, Some(sequence)) => steps(sequence, mistakes),
            (Kind::Sequence, None) => {
                let help = "give `sequence = [\"tcp/7000\", \"udp/8000\", \"tcp/4500\"]`, or \
                            `method = \"sealed\"` for devices with a key";
                mistakes.0.push(Mistake::new(self.door, "nobody can knock on this door", help));
                (Vec::new(), Vec::new())
            }
            _ => (Vec::new(), Vec::new()),
        };
        Knocks { method, sequence, sequence_at, places }
    }

    /// Keys of another method than the door's.
    fn misplaced(&self, kind: Kind, mistakes: &mut Mistakes) {
        let owners = [
            ("sequence", self.sequence.as_ref().map(Spanned::span), &[Kind::Sequence][..]),
            ("ports", self.ports.as_ref().map(Spanned::span), &[Kind::Rolling]),
            ("steps", self.steps.as_ref().map(Spanned::span), &[Kind::Rolling]),
            ("mixed", self.mixed.as_ref().map(Spanned::span), &[Kind::Rolling]),
            ("port", self.port.as_ref().map(Spanned::span), &[Kind::Sealed]),
            ("addresses", self.addresses.as_ref().map(Spanned::span), &[Kind::Sealed]),
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
            let what = format!("`{key}` means nothing to a door of method \"{}\"", name(kind));
            let methods: Vec<_> = kinds.iter().map(|kind| format!("\"{}\"", name(*kind))).collect();
            let help = format!("leave it out, or write `method = {}`", methods.join("` or `"));
            mistakes.0.push(Mistake::new(place, what, help));
        }
    }
}

/// `20000-32767`.
fn ports(text: &str) -> Result<RangeInclusive<u16>, Wrong> {
    Ports::parse_range(text)
        .and_then(|range| Ports::new(range, []))
        .map(|ports| ports.range())
        .map_err(|error| (error.to_string(), "write it as in `ports = \"20000-32767\"`".to_owned()))
}

fn steps(sequence: Spanned<Vec<Text>>, mistakes: &mut Mistakes) -> (Vec<Step>, Vec<Range<usize>>) {
    let span = sequence.span();
    let written = sequence.into_inner();
    if !STEPS.contains(&written.len()) {
        let what = match written.len() {
            0 => "a sequence without steps would open to everyone".into(),
            1 => "any port scan would open a sequence of one step".into(),
            n => format!("{n} steps are more than anyone can knock in time"),
        };
        let help =
            format!("give {} to {} steps; three or more are better", STEPS.start(), STEPS.end());
        mistakes.0.push(Mistake::new(span, what, help));
    }
    let mut steps: Vec<Step> = Vec::new();
    let mut places = Vec::new();
    for text in written {
        let span = text.span();
        let Some(step) = mistakes.note(span.clone(), values::step(text.get_ref())) else {
            continue;
        };
        if steps.last() == Some(&step) {
            let what = format!("{step} twice in a row cannot be told from a retransmission");
            mistakes.0.push(Mistake::new(span.clone(), what, "put another step between the two"));
        }
        steps.push(step);
        places.push(span);
    }
    (steps, places)
}

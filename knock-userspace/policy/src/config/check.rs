//! From the file as written to a policy, collecting every mistake on the way.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use knock_common::sequence::{Protocol, Step};
use serde_spanned::Spanned;

use super::values::{self, Wrong};
use super::{Mistake, method, raw};
use crate::policy::{Attach, Connections, Door, Knocks, Method, Mode, Policy, Service};

const WITHIN: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(50)..=Duration::from_secs(300);
const OPEN_FOR: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
const LATE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const GRANTS: std::ops::RangeInclusive<u32> = 1..=10_000_000;
const WINDOW: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3600);

/// What was wrong so far.
#[derive(Default)]
pub(super) struct Mistakes(pub(super) Vec<Mistake>);

impl Mistakes {
    /// Notes what is wrong with the value at `span`.
    pub(super) fn note<T>(&mut self, span: Range<usize>, result: Result<T, Wrong>) -> Option<T> {
        result.map_err(|(what, help)| self.0.push(Mistake::new(span, what, help))).ok()
    }

    /// The value that `read` makes of what is written, or `default` if nothing is.
    pub(super) fn optional<W, T>(
        &mut self,
        written: Option<Spanned<W>>,
        default: T,
        read: impl FnOnce(W) -> Result<T, Wrong>,
    ) -> T {
        let Some(written) = written else { return default };
        let span = written.span();
        self.note(span, read(written.into_inner())).unwrap_or(default)
    }
}

/// A door with the places of what may clash with other doors.
struct Placed {
    door: Door,
    name: Range<usize>,
    sequence: Range<usize>,
    steps: Vec<Range<usize>>,
}

pub(super) fn policy(raw: raw::Config) -> Result<Policy, Vec<Mistake>> {
    let raw::Config {
        interfaces,
        mode,
        connections,
        attach,
        knocks,
        always_allow,
        strays,
        decoys,
        max_sources,
        max_grants,
        late_grants,
        keys,
        clock_window,
        doors,
    } = raw;
    let mut mistakes = Mistakes::default();
    let default = Policy::default();
    let modes = [("observe", Mode::Observe), ("enforce", Mode::Enforce)];
    let connection_modes = [
        ("auto", Connections::Auto),
        ("stateless", Connections::Stateless),
        ("conntrack", Connections::Conntrack),
    ];
    let attach_modes =
        [("auto", Attach::Auto), ("native", Attach::Native), ("generic", Attach::Generic)];
    let knock_modes = [("pass", Knocks::Pass), ("drop", Knocks::Drop)];
    let placed: Vec<_> =
        doors.into_iter().map(|raw| door(raw.into_inner(), &mut mistakes)).collect();
    if placed.is_empty() {
        let help = "add one:\n[[door]]\nname = \"ssh\"\nopens = [\"tcp/22\"]\n\
                    sequence = [\"tcp/7000\", \"udp/8000\", \"tcp/9000\"]";
        mistakes.0.push(Mistake::new(0..0, "there is no door", help));
    }
    let placed: Vec<_> = placed.into_iter().flatten().collect();
    clashes(&placed, &mut mistakes);
    let policy = Policy {
        interfaces: list(interfaces, values::interface, &mut mistakes),
        mode: mistakes.optional(mode, default.mode, |text| values::word(&text, &modes)),
        connections: mistakes.optional(connections, default.connections, |text| {
            values::word(&text, &connection_modes)
        }),
        attach: mistakes
            .optional(attach, default.attach, |text| values::word(&text, &attach_modes)),
        knocks: mistakes.optional(knocks, default.knocks, |text| values::word(&text, &knock_modes)),
        always_allow: list(always_allow, values::prefix, &mut mistakes),
        strays: mistakes.optional(strays, default.strays, |n| values::number(n, 0..=15)),
        decoys: mistakes.optional(decoys, default.decoys, |n| values::number(n, 0..=100)),
        max_sources: mistakes
            .optional(max_sources, default.max_sources, |n| values::number(n, 1 << 10..=1 << 29)),
        max_grants: mistakes
            .optional(max_grants, default.max_grants, |n| values::number(n, GRANTS)),
        late_grants: mistakes
            .optional(late_grants, default.late_grants, |text| values::duration(&text, LATE)),
        keys: mistakes.optional(keys, default.keys, |text| values::folder(&text)),
        clock_window: mistakes
            .optional(clock_window, default.clock_window, |text| values::duration(&text, WINDOW)),
        doors: placed.into_iter().map(|placed| placed.door).collect(),
    };
    if mistakes.0.is_empty() { Ok(policy) } else { Err(mistakes.0) }
}

fn list<T>(
    written: Vec<raw::Text>,
    read: impl Fn(&str) -> Result<T, Wrong>,
    mistakes: &mut Mistakes,
) -> Vec<T> {
    let read_one = |text: raw::Text| mistakes.note(text.span(), read(text.get_ref()));
    written.into_iter().filter_map(read_one).collect()
}

/// One door by itself; `None` if it cannot be told what was meant.
fn door(raw: raw::Door, mistakes: &mut Mistakes) -> Option<Placed> {
    let raw::Door {
        name,
        opens,
        method,
        sequence,
        ports,
        steps,
        mixed,
        port,
        addresses,
        within,
        open_for,
        cut,
        reorder,
        max_grants,
    } = raw;
    let before = mistakes.0.len();
    let name_at = name.span();
    let name = mistakes.note(name_at.clone(), values::door_name(name.get_ref()));
    let services = services(opens, mistakes);
    let written = method::Written {
        door: name_at.clone(),
        method,
        sequence,
        ports,
        steps,
        mixed,
        port,
        addresses,
        within: within.as_ref().map(Spanned::span),
        reorder: reorder.as_ref().map(Spanned::span),
    };
    let method::Knocks { method, sequence, sequence_at, places } = written.check(mistakes);
    let default = Door { method, ..Door::new("", services, sequence) };
    let within = mistakes.optional(within, default.within, |text| values::duration(&text, WITHIN));
    let open_for =
        mistakes.optional(open_for, default.open_for, |text| values::duration(&text, OPEN_FOR));
    let max_grants =
        mistakes.optional(max_grants, default.max_grants, |n| values::number(n, GRANTS));
    if mistakes.0.len() > before {
        return None;
    }
    Some(Placed {
        door: Door {
            name: name?,
            within,
            open_for,
            cut: cut.unwrap_or(default.cut),
            reorder: reorder.map_or(default.reorder, Spanned::into_inner),
            max_grants,
            ..default
        },
        name: name_at,
        sequence: sequence_at,
        steps: places,
    })
}

fn services(opens: Spanned<Vec<raw::Text>>, mistakes: &mut Mistakes) -> Vec<Service> {
    let span = opens.span();
    let written = opens.into_inner();
    if written.is_empty() {
        let help = "name what it opens, as in `opens = [\"tcp/22\"]`";
        mistakes.0.push(Mistake::new(span, "this door opens nothing", help));
    }
    let mut services = Vec::new();
    for text in written {
        let span = text.span();
        let Some(step) = mistakes.note(span.clone(), values::step(text.get_ref())) else {
            continue;
        };
        let service = Service::new(step.protocol, step.port);
        if services.contains(&service) {
            mistakes.0.push(Mistake::new(
                span,
                format!("{service} is here twice"),
                "leave one out",
            ));
        }
        services.push(service);
    }
    services
}

/// What is wrong between doors.
fn clashes(doors: &[Placed], mistakes: &mut Mistakes) {
    let mut names = HashMap::new();
    let mut identifiers = HashMap::new();
    let mut sequences = HashMap::new();
    let mut guarded = HashMap::new();
    let mut sealed = HashMap::new();
    for placed in doors {
        if let Method::Sealed { port, .. } = placed.door.method {
            sealed.entry(Step::new(Protocol::Udp, port)).or_insert(placed);
        }
        if let Some(first) = names.insert(placed.door.name.as_str(), placed.name.clone()) {
            let what = format!("there are two doors called `{}`", placed.door.name);
            let mistake = Mistake::new(placed.name.clone(), what, "rename one of them");
            mistakes.0.push(mistake.and(first, "the first"));
        } else if let Some(other) = identifiers.insert(placed.door.id(), placed) {
            let what = format!(
                "the detector could not tell `{}` from `{}`: their names have the same hash",
                placed.door.name, other.door.name
            );
            let mistake = Mistake::new(placed.name.clone(), what, "rename one of them");
            mistakes.0.push(mistake.and(other.name.clone(), "the other"));
        }
        for order in placed.door.orders() {
            sequences.entry(order).or_insert(placed);
        }
        for service in &placed.door.opens {
            guarded.entry(Step::new(service.protocol, service.port)).or_insert(placed);
        }
    }
    for (port, placed) in &sealed {
        if let Some(other) = guarded.get(port) {
            let what =
                format!("{port} takes sealed knocks, but door `{}` opens it", other.door.name);
            let help = "give another `port`, which nothing serves";
            mistakes.0.push(Mistake::new(placed.sequence.clone(), what, help));
        }
    }
    let mut reported = HashSet::new();
    for placed in doors {
        if let Some((order, length, other)) = completed_before(&placed.door, &sequences, placed) {
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
            let what =
                format!("door `{}` {what} `{}`{reordered}", placed.door.name, other.door.name);
            let mistake = Mistake::new(placed.sequence.clone(), what, help);
            mistakes.0.push(mistake.and(other.sequence.clone(), format!("`{}`", other.door.name)));
        }
        let sequence = placed.door.sequence.as_slice();
        for (step, span) in sequence.iter().zip(&placed.steps) {
            if let Some(other) = guarded.get(step)
                && reported.insert(span.clone())
            {
                let what = format!("{step} is a step, but door `{}` opens it", other.door.name);
                let help = "knock on ports that nothing serves; choose another step";
                mistakes.0.push(Mistake::new(span.clone(), what, help));
            }
            if let Some(other) = sealed.get(step)
                && reported.insert(span.clone())
            {
                let what = format!(
                    "{step} is a step, but takes the sealed knocks of door `{}`",
                    other.door.name
                );
                mistakes.0.push(Mistake::new(span.clone(), what, "choose another step"));
            }
        }
    }
}

/// An order of `door` that begins with, or is, a whole sequence of another door: the order,
/// the length of that sequence, and the other door.
fn completed_before<'a>(
    door: &Door,
    sequences: &HashMap<Vec<Step>, &'a Placed>,
    placed: &Placed,
) -> Option<(Vec<Step>, usize, &'a Placed)> {
    door.orders().into_iter().find_map(|order| {
        // Shorter beginnings first, then the whole: the same sequence elsewhere.
        let (length, other) = (1..=order.len()).find_map(|length| {
            let other = *sequences.get(&order[..length])?;
            (!std::ptr::eq(other, placed)).then_some((length, other))
        })?;
        Some((order, length, other))
    })
}

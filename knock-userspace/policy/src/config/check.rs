//! From the file as it is written to a policy. Every mistake on the way is collected.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use serde_spanned::Spanned;

use super::clashes::{self, Placed};
use super::error::{Mistake, Mistakes};
use super::field::Field;
use super::method;
use super::raw;
use super::values::{self, Wrong};
use crate::policy::{Attach, Connections, Door, Knocks, Mode, Policy, Service};

const WITHIN: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(300);
const OPEN_FOR: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
const LATE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const GRANTS: RangeInclusive<u32> = 1..=10_000_000;
const WINDOW: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const STRAYS: RangeInclusive<u8> = 0..=15;
const DECOYS: RangeInclusive<u8> = 0..=100;
const SOURCES: RangeInclusive<u32> = 1 << 10..=1 << 29;

const MODES: [(&str, Mode); 2] = [("observe", Mode::Observe), ("enforce", Mode::Enforce)];
const CONNECTIONS: [(&str, Connections); 3] = [
    ("auto", Connections::Auto),
    ("stateless", Connections::Stateless),
    ("conntrack", Connections::Conntrack),
];
const ATTACH: [(&str, Attach); 3] =
    [("auto", Attach::Auto), ("native", Attach::Native), ("generic", Attach::Generic)];
const KNOCKS: [(&str, Knocks); 2] = [("pass", Knocks::Pass), ("drop", Knocks::Drop)];

/// Returns the policy without its doors, and the doors, as far as they could be read.
///
/// A value that could not be read is at its default. Only `strays` and `decoys` are then where a
/// port scan has the least chance, so that no sequence is called scannable which is not.
pub(super) fn policy(raw: raw::Config, mistakes: &mut Mistakes) -> (Policy, Vec<Placed>) {
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
        door: doors,
    } = raw;
    let default = Policy::default();
    let placed = placed(doors, mistakes);
    clashes::find(&placed, mistakes);
    let policy = Policy {
        interfaces: list(interfaces, values::interface, mistakes),
        mode: mistakes.optional(mode, default.mode, |text| values::word(&text, &MODES)),
        connections: mistakes
            .optional(connections, default.connections, |text| values::word(&text, &CONNECTIONS)),
        attach: mistakes.optional(attach, default.attach, |text| values::word(&text, &ATTACH)),
        knocks: mistakes.optional(knocks, default.knocks, |text| values::word(&text, &KNOCKS)),
        always_allow: list(always_allow, values::prefix, mistakes),
        strays: mistakes
            .read(strays, |n| values::number(n, STRAYS))
            .or(default.strays, *STRAYS.start()),
        decoys: mistakes
            .read(decoys, |n| values::number(n, DECOYS))
            .or(default.decoys, *DECOYS.end()),
        max_sources: mistakes
            .optional(max_sources, default.max_sources, |n| values::number(n, SOURCES)),
        max_grants: mistakes
            .optional(max_grants, default.max_grants, |n| values::number(n, GRANTS)),
        late_grants: mistakes
            .optional(late_grants, default.late_grants, |text| values::duration(&text, LATE)),
        keys: mistakes.optional(keys, default.keys, |text| values::folder(&text)),
        clock_window: mistakes
            .optional(clock_window, default.clock_window, |text| values::duration(&text, WINDOW)),
        doors: Vec::new(),
    };
    (policy, placed)
}

/// Returns the elements of a list that could be read.
fn list<T>(
    written: Field<raw::Texts>,
    read: impl Fn(&str) -> Result<T, Wrong>,
    mistakes: &mut Mistakes,
) -> Vec<T> {
    let texts = written.given().map_or_else(Vec::new, Spanned::into_inner);
    let texts = texts.into_iter().flatten();
    texts.filter_map(|text| mistakes.note(text.span(), read(text.get_ref()))).collect()
}

fn placed(doors: Field<Vec<Spanned<raw::Door>>>, mistakes: &mut Mistakes) -> Vec<Placed> {
    let is_empty = match &doors {
        Field::Given(doors) => doors.is_empty(),
        Field::Absent => true,
        Field::Mistaken => false,
    };
    if is_empty {
        let help = "add one:\n[[door]]\nname = \"ssh\"\nopens = [\"tcp/22\"]\n\
                    sequence = [\"tcp/7000\", \"udp/8000\", \"tcp/9000\"]";
        mistakes.add(Mistake::new(0..0, "there is no door", help));
    }
    let doors = doors.given().unwrap_or_default();
    (1..).zip(doors).map(|(number, raw)| door(number, raw, mistakes)).collect()
}

/// Reads the `number`-th door of the file, without a look at other doors.
fn door(number: usize, raw: Spanned<raw::Door>, mistakes: &mut Mistakes) -> Placed {
    let header = raw.span();
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
    } = raw.into_inner();
    let name_at = name.place();
    let name = door_name(name, header.clone(), mistakes);
    let written = method::Written {
        door: name_at.clone().unwrap_or_else(|| header.clone()),
        method,
        sequence,
        ports,
        steps,
        mixed,
        port,
        addresses,
        within: within.place(),
        reorder: reorder.place(),
    };
    let services = services(opens, header, mistakes);
    let method::Knocks { method, sequence, place: knock, steps, whole } = written.check(mistakes);
    let default = Door { method, ..Door::new("", services, sequence) };
    Placed {
        label: match &name {
            Some(name) => format!("door `{name}`"),
            None => format!("door number {number}"),
        },
        name: name_at.filter(|_| name.is_some()),
        knock,
        steps,
        whole,
        door: Door {
            name: name.unwrap_or_else(|| format!("#{number}")),
            within: mistakes
                .optional(within, default.within, |text| values::duration(&text, WITHIN)),
            open_for: mistakes
                .optional(open_for, default.open_for, |text| values::duration(&text, OPEN_FOR)),
            cut: cut.given().map_or(default.cut, Spanned::into_inner),
            reorder: reorder.given().map_or(default.reorder, Spanned::into_inner),
            max_grants: mistakes
                .optional(max_grants, default.max_grants, |n| values::number(n, GRANTS)),
            ..default
        },
    }
}

/// Returns the name if it could be read.
fn door_name(
    name: Field<raw::Text>,
    header: Range<usize>,
    mistakes: &mut Mistakes,
) -> Option<String> {
    if matches!(name, Field::Absent) {
        let help = "give it one, as in `name = \"ssh\"`";
        mistakes.add(Mistake::new(header, "this door has no `name`", help));
    }
    mistakes.read(name, |text| values::door_name(&text)).given()
}

/// Returns the services that could be read.
fn services(
    opens: Field<raw::Texts>,
    header: Range<usize>,
    mistakes: &mut Mistakes,
) -> Vec<Service> {
    const HELP: &str = "name the services that it opens, as in `opens = [\"tcp/22\"]`";
    let opens = match opens {
        Field::Given(opens) => opens,
        Field::Mistaken => return Vec::new(),
        Field::Absent => {
            mistakes.add(Mistake::new(header, "this door has no `opens`", HELP));
            return Vec::new();
        }
    };
    let span = opens.span();
    let written = opens.into_inner();
    if written.is_empty() {
        mistakes.add(Mistake::new(span, "this door opens nothing", HELP));
    }
    let mut services = Vec::new();
    for text in written.into_iter().flatten() {
        let span = text.span();
        let Some(step) = mistakes.note(span.clone(), values::step(text.get_ref())) else {
            continue;
        };
        let service = Service::new(step.protocol, step.port);
        if services.contains(&service) {
            let what = format!("{service} is here twice");
            mistakes.add(Mistake::new(span, what, "leave one out"));
        }
        services.push(service);
    }
    services
}

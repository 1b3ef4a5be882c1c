//! The golden test: `abi.txt` says what the code says.

use super::*;
use crate::counters::Counter;
use crate::first::FirstStep;
use crate::progress::{Ticks, Track};
use crate::sequence::{PortClass, Step};
use std::fmt::Write as _;
use std::fs;
use std::string::String;
use std::vec::Vec;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/abi.txt");
/// Set to rewrite the file.
const REWRITE: &str = "XKNOCK_WRITE_ABI";

const HEAD: &str = "\
# The layout that the XDP program and the agent share; see src/abi/mod.rs.
# `XKNOCK_WRITE_ABI=1 cargo test -p knock-common abi` rewrites this file.
";
/// Separates what outlives the agent from the rest.
const PINNED: &str = "\n# Pinned. If a line of this part changes, raise LAYOUT.\n";
const NOT_PINNED: &str = "\n# Not pinned. Program and agent are built together.\n";

/// Writes the layout of a type. Fails to compile if a field is missing or has another type.
macro_rules! layout {
    ($text:expr, $name:ident { $($field:tt: $type:ty),* $(,)? }) => {{
        #[expect(dead_code, reason = "the compiler checks the list of fields")]
        fn fields(value: $name) {
            #[expect(unused_variables, reason = "the types of the fields are checked")]
            let check = |$name { $($field: _),* }: $name| ();
            $(let _: $type = value.$field;)*
        }
        let (size, align) = (size_of::<$name>(), align_of::<$name>());
        writeln!($text, "type {}: size {size}, align {align}", stringify!($name)).unwrap();
        $(
            let start = core::mem::offset_of!($name, $field);
            let end = start + size_of::<$type>();
            let (field, of) = (stringify!($field), stringify!($type));
            writeln!($text, "  {start}..{end} {field}: {of}").unwrap();
        )*
    }};
}

/// Writes values, each with a name for it.
macro_rules! values {
    ($text:expr, $($name:literal: $value:expr),* $(,)?) => {
        $(writeln!($text, "value {}: {:?}", $name, $value).unwrap();)*
    };
}

/// Writes packed words, each with a name for it.
macro_rules! words {
    ($text:expr, $($name:literal: $value:expr),* $(,)?) => {
        $(writeln!($text, "word {}: {:#018x}", $name, $value).unwrap();)*
    };
}

fn maps(text: &mut String, pinned: bool) {
    for map in maps::OBJECT.iter().chain(&maps::RECORD).filter(|map| map.pinned == pinned) {
        writeln!(text, "map {}: key {}, value {}", map.name, map.key, map.value).unwrap();
    }
}

type FirstSteps = Bucket<u64>;

/// What outlives the agent.
fn pinned() -> String {
    let mut text = String::new();
    maps(&mut text, true);
    layout!(text, Source { 0: [u8; 16] });
    layout!(text, NodeId { 0: u32 });
    layout!(text, DoorId { 0: u64 });
    layout!(text, Edge { node: u32, port: u16, protocol: u8, reserved: u8 });
    layout!(text, Transition { next: u32, within: u32, door: u64 });
    layout!(text, FirstSteps { slots: [u64; SLOTS], later: u64 });
    layout!(text, Event { source: Source, time_ns: u64, door: DoorId });
    layout!(text, SealedEvent { source: Source, time_ns: u64, packet: [u8; SEALED_SIZE] });
    layout!(text, SipKey { 0: [u64; 2] });
    layout!(text, Gate { prefilter: SipKey, newest_ns: u64 });
    layout!(
        text,
        State {
            hash_key: [u64; 2],
            decoy_seed: [u8; 32],
            netns: u64,
            next_node: u32,
            confirmed: u32,
        }
    );
    layout!(text, GrantKey { source: Source, port: u16, protocol: u8, reserved: [u8; 5] });
    layout!(text, GrantValue { until_ns: u64, door: u64 });
    layout!(text, Counters { 0: [u64; COUNTERS] });
    meaning(&mut text);
    for counter in Counter::all() {
        writeln!(text, "counter {}: {}", counter.index(), counter.name()).unwrap();
    }
    text
}

/// What numbers in pinned maps mean.
fn meaning(text: &mut String) {
    const SOURCE: Source = Source::v4([192, 0, 2, 1]);
    const KEY: [u64; 2] = [1, 2];
    values!(
        text,
        "tcp": Protocol::Tcp as u8,
        "udp": Protocol::Udp as u8,
        "root": NodeId::ROOT.0,
        "first node of tcp/1": NodeId::first(Step::new(Protocol::Tcp, 1)).0,
        "first node of udp/1": NodeId::first(Step::new(Protocol::Udp, 1)).0,
        "lowest deeper node": NodeId::DEEPER.0,
        "highest node": NodeId::MAX.0,
        "advance to 5 within 9": Transition::advance(NodeId(5), 9),
        "accept 7 within 9": Transition::accept(DoorId(7), 9),
        "stay at 5": Transition::stay(NodeId(5)),
        "door ssh": DoorId::of("ssh").0,
        "source 192.0.2.1": SOURCE.0,
        "its hash with key 1, 2": SOURCE.hash(KEY),
        "its tag": Track::tag_of(SOURCE.hash(KEY)),
        "its bucket of 65536, and fingerprint": FirstStep::place(SOURCE.hash(KEY), 1 << 16),
        "ticks in 4194304 ns": Ticks::from_ns(1 << 22).get(),
        "most ticks": Ticks::from_ns(u64::MAX).get(),
    );
    let nothing = Track { node: NodeId(0), strays: 0, tag: 0, started: Ticks::new(0) };
    let unstarted =
        FirstStep { fingerprint: 0, step: Step::from_index(0), strays: 0, started: Ticks::new(0) };
    words!(
        text,
        "written": WRITTEN,
        "empty track": Track::EMPTY,
        "track, node": Track { node: NodeId(u32::MAX), ..nothing }.pack(),
        "track, strays": Track { strays: u8::MAX, ..nothing }.pack(),
        "track, tag": Track { tag: u16::MAX, ..nothing }.pack(),
        "track, started": Track { started: Ticks::new(u64::MAX), ..nothing }.pack(),
        "empty first step": FirstStep::EMPTY,
        "first step, fingerprint": FirstStep { fingerprint: u32::MAX, ..unstarted }.pack(),
        "first step, step": FirstStep { step: Step::from_index(u32::MAX), ..unstarted }.pack(),
        "first step, tcp/1": FirstStep { step: Step::new(Protocol::Tcp, 1), ..unstarted }.pack(),
        "first step, udp/1": FirstStep { step: Step::new(Protocol::Udp, 1), ..unstarted }.pack(),
        "first step, strays": FirstStep { strays: u8::MAX, ..unstarted }.pack(),
        "first step, started": FirstStep { started: Ticks::new(u64::MAX), ..unstarted }.pack(),
    );
}

/// What lives as long as a program.
fn not_pinned() -> String {
    let mut text = String::new();
    maps(&mut text, false);
    for program in programs::ALL {
        writeln!(text, "program {program}").unwrap();
    }
    for (variable, size) in variables::ALL {
        writeln!(text, "variable {variable}: size {size}").unwrap();
    }
    writeln!(text, "variable {}: size {PORTS}", variables::CLASSES).unwrap();
    layout!(text, Clock { offset_ns: u64, window_ns: u64 });
    layout!(
        text,
        Pattern {
            round: u32,
            turn: u32,
            source: u32,
            mask: u32,
            random: u32,
            steps: u32,
            step: [u32; STEPS],
        }
    );
    values!(
        text,
        "class first, tcp": PortClass::FIRST.add_to(0, Protocol::Tcp),
        "class later, tcp": PortClass::LATER.add_to(0, Protocol::Tcp),
        "class decoy, tcp": PortClass::DECOY.add_to(0, Protocol::Tcp),
        "class sealed, tcp": PortClass::SEALED.add_to(0, Protocol::Tcp),
        "class first, udp": PortClass::FIRST.add_to(0, Protocol::Udp),
    );
    text
}

fn render(layout: u32, pinned: &str, not_pinned: &str) -> String {
    std::format!("{HEAD}layout {layout}\n{PINNED}{pinned}{NOT_PINNED}{not_pinned}")
}

/// How a committed text differs from that of the code.
#[derive(Debug, PartialEq)]
enum Difference {
    /// Not at all.
    None,
    /// In what is not pinned, or `LAYOUT` was raised.
    Harmless,
    /// In what is pinned, while `LAYOUT` is the same. Pinned maps would be misread.
    Pinned {
        /// Lines that are gone, and lines that came.
        lines: String,
        /// Whether all numbers are as they were.
        only_names: bool,
    },
}

fn difference(committed: &str, new_pinned: &str, new_not_pinned: &str) -> Difference {
    if committed == render(LAYOUT, new_pinned, new_not_pinned) {
        return Difference::None;
    }
    let layout = committed.lines().find_map(|line| line.strip_prefix("layout ")?.parse().ok());
    let pinned = committed.split_once(PINNED).and_then(|(_, rest)| rest.split_once(NOT_PINNED));
    let pinned = pinned.map_or("", |(pinned, _)| pinned);
    if pinned == new_pinned || layout.is_none_or(|layout: u32| layout < LAYOUT) {
        return Difference::Harmless;
    }
    let mut lines = String::new();
    let missing = |from: &str, line: &str| !from.lines().any(|other| other == line);
    let gone = pinned.lines().filter(|line| missing(new_pinned, line));
    gone.for_each(|line| writeln!(lines, "- {line}").unwrap());
    let new = new_pinned.lines().filter(|line| missing(pinned, line));
    new.for_each(|line| writeln!(lines, "+ {line}").unwrap());
    let numbers = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        words
            .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()))
            .map(Into::into)
            .collect()
    };
    Difference::Pinned { lines, only_names: numbers(pinned) == numbers(new_pinned) }
}

#[test]
fn the_layout_is_the_committed_one() {
    let (pinned, not_pinned) = (pinned(), not_pinned());
    let committed = fs::read_to_string(FILE).unwrap_or_default();
    let rewrite = std::env::var(REWRITE).unwrap_or_default();
    match difference(&committed, &pinned, &not_pinned) {
        Difference::None => return,
        Difference::Harmless => assert!(
            !rewrite.is_empty(),
            "knock-common/abi.txt is not what the code says. If the change is meant, rewrite it \
             with `{REWRITE}=1 cargo test -p knock-common abi` and commit it"
        ),
        Difference::Pinned { lines, only_names } => assert!(
            only_names && rewrite == "names",
            "raise LAYOUT in knock-common/src/abi/mod.rs: what is pinned has changed, and LAYOUT \
             is {LAYOUT} as before. Then rewrite knock-common/abi.txt with `{REWRITE}=1 cargo test \
             -p knock-common abi`. (If nothing but names changed, use `{REWRITE}=names`.)\n{lines}"
        ),
    }
    fs::write(FILE, render(LAYOUT, &pinned, &not_pinned)).expect("the file can be written");
}

#[test]
fn only_a_higher_layout_excuses_a_change_of_what_is_pinned() {
    let (old, wider, renamed) = ("type A: size 8\n", "type A: size 16\n", "type B: size 8\n");
    let after = |layout, pinned, not_pinned| {
        difference(&render(layout, old, "map C\n"), pinned, not_pinned)
    };
    let changed = |new: &str, only_names| {
        let lines = std::format!("- {old}+ {new}");
        Difference::Pinned { lines, only_names }
    };
    assert_eq!(after(LAYOUT, old, "map C\n"), Difference::None);
    assert_eq!(after(LAYOUT, old, "map D\n"), Difference::Harmless);
    assert_eq!(after(LAYOUT, wider, "map C\n"), changed(wider, false));
    assert_eq!(after(LAYOUT, renamed, "map C\n"), changed(renamed, true));
    assert_eq!(after(LAYOUT - 1, wider, "map C\n"), Difference::Harmless);
    assert_eq!(after(LAYOUT - 1, old, "map C\n"), Difference::Harmless);
    assert_eq!(difference("", old, ""), Difference::Harmless, "the first time");
}

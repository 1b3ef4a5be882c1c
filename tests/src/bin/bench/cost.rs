//! What one packet costs, by `BPF_PROG_TEST_RUN`.

use std::collections::HashMap;
use std::time::Duration;

use knock_common::counters::Counter;
use knock_common::detect::Outcome;
use knock_common::sequence::{Edge, NodeId, PORTS, PortClass, Protocol, Step, Transition};
use knock_common::traffic::{FRAME, Pattern};
use knock_userspace::compile::{Compiled, Served, compile, draw_sequence};
use knock_userspace::kernel::{Bench, Detector, Settings, run_program};
use knock_userspace::policy::{Door, Knocks, Policy, Service};

use crate::frames;
use crate::peers::XdpFilter;
use crate::report::{Report, Value};
use crate::stats::lower_half;

pub(crate) const SECTION: &str = "Cost of a packet";

/// How often each row is measured, in turn with all others, and how many packets each time.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub rounds: usize,
    pub repeat: u32,
}

pub(crate) fn measure(report: &mut Report, effort: Effort) {
    report.section(
        SECTION,
        &format!(
            "`BPF_PROG_TEST_RUN`; ns over a program that does nothing, in turn with it; mean of the \
             lower half of {} rounds of {} packets.",
            effort.rounds, effort.repeat
        ),
    );
    no_knock(report, effort);
    candidates(report, effort);
}

/// One thing to measure: how, and what came out each round.
struct Row {
    name: &'static str,
    run: Box<dyn FnMut(&mut Detector) -> Duration>,
    rounds: Vec<f64>,
}

impl Row {
    fn new(name: &'static str, run: impl FnMut(&mut Detector) -> Duration + 'static) -> Self {
        Self { name, run: Box::new(run), rounds: Vec::new() }
    }

    fn program(name: &'static str, program: Bench, frame: Vec<u8>, repeat: u32) -> Self {
        Self::new(name, move |detector| {
            detector.bench_run(program, &frame, repeat).expect("a test run")
        })
    }
}

/// The rows in turn, round after round; nanoseconds a packet by name.
fn rounds(detector: &mut Detector, rows: &mut [Row], rounds: usize) -> HashMap<&'static str, f64> {
    for _ in 0..rounds {
        for row in rows.iter_mut() {
            row.rounds.push((row.run)(detector).as_secs_f64() * 1e9);
        }
    }
    rows.iter_mut().map(|row| (row.name, lower_half(&mut row.rounds))).collect()
}

/// Packets that are no knock: nearly all that an edge host sees.
fn no_knock(report: &mut Report, effort: Effort) {
    let filter = XdpFilter::attach();
    if let Err(reason) = &filter {
        report.skip(SECTION, "xdp-filter", reason);
    }
    for (subject, doors) in [("xknock, 1 door", 1), ("xknock, 10,000 doors", 10_000)] {
        let (mut detector, compiled) = detector(doors);
        let frames = frames::no_knock(&compiled);
        let empty = frames[0].1.clone();
        let mut rows = vec![Row::program("empty", Bench::Empty, empty, effort.repeat)];
        for (name, frame) in &frames {
            rows.push(Row::program(name, Bench::Knock, frame.clone(), effort.repeat));
        }
        let ns = rounds(&mut detector, &mut rows, effort.rounds);
        for (name, _) in &frames {
            report.add(SECTION, name, subject, Value::ns(ns[name] - ns["empty"]));
        }
        if doors == 1 {
            report.add(
                SECTION,
                "the empty program itself",
                "xknock, 1 door",
                Value::ns(ns["empty"]),
            );
        }
    }
    if let Ok(filter) = &filter {
        let (mut detector, compiled) = detector(1);
        let frames = frames::no_knock(&compiled);
        let repeat = effort.repeat;
        let mut rows = vec![Row::program("empty", Bench::Empty, frames[0].1.clone(), repeat)];
        for (name, frame) in &frames {
            let (id, frame) = (filter.program(), frame.clone());
            rows.push(Row::new(name, move |_| {
                let took = run_program(id, &frame, repeat).expect("a test run");
                took.expect("xdp-filter stays loaded")
            }));
        }
        let ns = rounds(&mut detector, &mut rows, effort.rounds);
        for (name, _) in &frames {
            report.add(SECTION, name, "xdp-filter", Value::ns(ns[name] - ns["empty"]));
        }
    }
}

const A: Step = Step::new(Protocol::Udp, 7000);
const B: Step = Step::new(Protocol::Udp, 8000);
const C: Step = Step::new(Protocol::Udp, 9000);
const LOOP: Step = Step::new(Protocol::Udp, 9500);
const DECOY: Step = Step::new(Protocol::Udp, 6000);

/// A trie with a sequence A, B, C, and a step that goes round in a circle after A, B.
fn circle() -> Compiled {
    const WITHIN: u32 = 10_000;
    let (first, second, third) = (NodeId::first(A), NodeId::DEEPER, NodeId(NodeId::DEEPER.0 + 1));
    let edges = HashMap::from([
        (Edge::new(first, B), Transition::advance(second, WITHIN)),
        (Edge::new(second, C), Transition::accept(0, WITHIN)),
        (Edge::new(second, LOOP), Transition::advance(third, WITHIN)),
        (Edge::new(third, LOOP), Transition::advance(second, WITHIN)),
    ]);
    let mut classes = Box::new([0; PORTS]);
    for (step, class) in [
        (A, PortClass::FIRST),
        (B, PortClass::LATER),
        (C, PortClass::LATER),
        (LOOP, PortClass::LATER),
        (DECOY, PortClass::DECOY),
    ] {
        let entry: &mut u8 = &mut classes[usize::from(step.port)];
        *entry = class.add_to(*entry, step.protocol);
    }
    Compiled { edges, classes, longest: WITHIN }
}

/// Packets that the detector has to think about.
fn candidates(report: &mut Report, effort: Effort) {
    const SOURCE: u32 = 0x1000_0001;
    const ALL: u32 = 0x0fff_ffff;
    const SUBJECT: &str = "xknock, 1 door";
    // The ring buffer must hold what one round completes.
    let repeat = effort.repeat.min(60_000);
    let mut detector = load(&circle(), Policy::default().max_sources);
    // Every place in both tables is taken before anything is measured.
    let fill = Pattern::new(SOURCE, ALL, true, &[A, B]);
    run(&mut detector, Bench::VaryKnock, fill, 8_000_000);
    let one = |steps: &[Step]| Pattern::new(SOURCE, 0, false, steps);
    let many = |steps: &[Step]| Pattern::new(SOURCE, ALL, true, steps);
    let strangers = |steps: &[Step]| Pattern::new(SOURCE | 0x8000_0000, ALL, false, steps);
    let mut rows = Vec::new();
    for (name, empty, pattern) in [
        ("A", "empty, one source", one(&[A])),
        ("decoy, random sources", "empty, random", many(&[DECOY])),
        ("first step, new source, table full", "empty, random", many(&[A])),
        ("A, B", "empty, one source", one(&[A, B])),
        ("A, B, C", "empty, one source", one(&[A, B, C])),
        ("new A, B", "empty, strangers", strangers(&[A, B])),
        ("new A", "empty, strangers", strangers(&[A])),
    ] {
        rows.push(Row::new(name, move |detector| run(detector, Bench::VaryKnock, pattern, repeat)));
        if rows.iter().all(|row| row.name != empty) {
            rows.push(Row::new(empty, move |detector| {
                run(detector, Bench::VaryEmpty, pattern, repeat)
            }));
        }
    }
    rows.push(Row::program("empty", Bench::Empty, frames::frame(false, A), repeat));
    for (name, step) in [("decoy, no progress", DECOY), ("first step again", A)] {
        rows.push(Row::program(name, Bench::Knock, frames::frame(false, step), repeat));
    }
    let [a, b, next] = [A, B, LOOP].map(|step| frames::frame(false, step));
    rows.push(Row::new("next step", move |detector| {
        for step in [&a, &b] {
            detector.bench_run(Bench::Knock, step, 1).expect("a test run");
        }
        detector.bench_run(Bench::Knock, &next, repeat).expect("a test run")
    }));
    rows.push(Row::new("drain", |detector| {
        frames::drain(detector);
        Duration::ZERO
    }));
    let ns = rounds(&mut detector, &mut rows, effort.rounds);
    let lost = detector.totals().expect("counters").get(Counter::Candidate(Outcome::EventLost));
    assert_eq!(lost, 0, "the ring buffer was full, so the figures are not of completed knocks");
    let one_source = |name| ns[name] - ns["empty, one source"];
    let random = |name| ns[name] - ns["empty, random"];
    let strangers = |name| ns[name] - ns["empty, strangers"];
    let (first, two, three) =
        (one_source("A"), 2.0 * one_source("A, B"), 3.0 * one_source("A, B, C"));
    for (name, value) in [
        ("decoy, no progress", ns["decoy, no progress"] - ns["empty"]),
        ("decoy, random sources", random("decoy, random sources")),
        ("first step again", ns["first step again"] - ns["empty"]),
        ("first step, new source, table full", random("first step, new source, table full")),
        ("second step, new source, map full", 2.0 * strangers("new A, B") - strangers("new A")),
        ("second step, known source", two - first),
        ("next step", ns["next step"] - ns["empty"]),
        ("completed, event included", three - two),
    ] {
        report.add(SECTION, name, SUBJECT, Value::ns(value));
    }
}

fn run(detector: &mut Detector, program: Bench, pattern: Pattern, repeat: u32) -> Duration {
    detector.set_pattern(pattern).expect("a pattern");
    detector.bench_run(program, &frames::template(), repeat).expect("a test run")
}

/// A detector with this many doors of four random steps.
fn detector(doors: usize) -> (Detector, Compiled) {
    let mut rng = rand::rng();
    let door = |index: usize| {
        Door::new(
            format!("door{index}"),
            vec![Service::new(Protocol::Tcp, 22)],
            draw_sequence(&mut rng, 4),
        )
    };
    let policy = Policy { doors: (0..doors).map(door).collect(), ..Policy::default() };
    let compiled = compile(&policy, &Served::default(), rand::random()).expect("doors compile");
    let detector = load(&compiled, policy.max_sources);
    (detector, compiled)
}

fn load(compiled: &Compiled, max_sources: u32) -> Detector {
    let settings = Settings {
        strays: Policy::default().strays,
        max_sources,
        knocks: Knocks::Pass,
        trace: false,
        hash_key: rand::random(),
    };
    Detector::load(compiled, settings).expect("the kernel takes the program")
}

const _: () = assert!(FRAME == 64);

//! The cost of one packet, by `BPF_PROG_TEST_RUN`.

use std::collections::HashMap;
use std::time::Duration;

use knock_common::counters::Counter;
use knock_common::detect::Outcome;
use knock_common::sequence::{DoorId, Edge, NodeId, PORTS, PortClass, Protocol, Step, Transition};
use knock_common::traffic::{FRAME, Pattern};
use knock_detector::{Bench, Detector, Settings, run_program};
use knock_policy::compile::{Compiled, Served, compile, draw_sequence};
use knock_policy::trie::Trie;
use knock_policy::{Door, Knocks, Policy, Service};

use crate::frames;
use crate::peers::XdpFilter;
use crate::report::{Report, Value};
use crate::stats::lower_half;

pub(crate) const SECTION: &str = "Cost of a packet";

/// The columns.
pub(crate) const ONE_DOOR: &str = "xknock, 1 door";
pub(crate) const MANY_DOORS: &str = "xknock, 10,000 doors";

/// The number of rounds, in each of which all rows are measured in turn, and of packets a row.
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
    not_a_knock(report, effort);
    candidates(report, effort);
}

/// One measurement: its function, and its figures of all rounds.
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

/// Measures the rows in turn, round after round, each with its own of `detectors`. Returns the
/// nanoseconds a packet by detector and name.
fn rounds(
    detectors: &mut [Detector],
    rows: &mut [(usize, Row)],
    rounds: usize,
) -> HashMap<(usize, &'static str), f64> {
    for _ in 0..rounds {
        for (which, row) in rows.iter_mut() {
            row.rounds.push((row.run)(&mut detectors[*which]).as_secs_f64() * 1e9);
        }
    }
    let means = rows.iter_mut();
    means.map(|(which, row)| ((*which, row.name), lower_half(&mut row.rounds))).collect()
}

/// Measures packets that are not a knock: nearly all that an edge host sees.
fn not_a_knock(report: &mut Report, effort: Effort) {
    const SUBJECTS: [(&str, usize); 2] = [(ONE_DOOR, 1), (MANY_DOORS, 10_000)];
    let filter = XdpFilter::attach();
    if let Err(reason) = &filter {
        report.skip(SECTION, "xdp-filter", reason);
    }
    let (mut detectors, mut rows, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for (which, (_, doors)) in SUBJECTS.into_iter().enumerate() {
        let (detector, compiled) = detector(doors);
        detectors.push(detector);
        let frames = frames::not_a_knock(&compiled);
        let empty = frames[0].1.clone();
        rows.push((which, Row::program("empty", Bench::Empty, empty, effort.repeat)));
        for (name, frame) in &frames {
            rows.push((which, Row::program(name, Bench::Knock, frame.clone(), effort.repeat)));
        }
        names = frames.into_iter().map(|(name, _)| name).collect();
    }
    let foreign = SUBJECTS.len();
    if let Ok(filter) = &filter {
        let (detector, compiled) = detector(1);
        detectors.push(detector);
        for (name, frame) in frames::not_a_knock(&compiled) {
            let (id, repeat) = (filter.program(), effort.repeat);
            let row = Row::new(name, move |_| {
                let took = run_program(id, &frame, repeat).expect("a test run");
                took.expect("xdp-filter stays loaded")
            });
            rows.push((foreign, row));
        }
    }
    let ns = rounds(&mut detectors, &mut rows, effort.rounds);
    let empty = ns[&(0, "empty")].min(ns[&(1, "empty")]);
    report.add(SECTION, "the empty program itself", ONE_DOOR, Value::ns(empty));
    for name in names {
        for (which, (subject, _)) in SUBJECTS.into_iter().enumerate() {
            report.add(SECTION, name, subject, Value::ns(ns[&(which, name)] - empty));
        }
        if let Some(of_filter) = ns.get(&(foreign, name)) {
            report.add(SECTION, name, "xdp-filter", Value::ns(of_filter - empty));
        }
    }
}

const A: Step = Step::new(Protocol::Udp, 7000);
const B: Step = Step::new(Protocol::Udp, 8000);
const C: Step = Step::new(Protocol::Udp, 9000);
const LOOP: Step = Step::new(Protocol::Udp, 9500);
const DECOY: Step = Step::new(Protocol::Udp, 6000);

/// Returns a trie with a sequence A, B, C, and with a step that goes round in a circle after A, B.
fn circle() -> Compiled {
    const WITHIN: u32 = 10_000;
    let (first, second, third) = (NodeId::first(A), NodeId::DEEPER, NodeId(NodeId::DEEPER.0 + 1));
    let edges = HashMap::from([
        (Edge::new(first, B), Transition::advance(second, WITHIN)),
        (Edge::new(second, C), Transition::accept(DoorId::of("ssh"), WITHIN)),
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
    let trie = Trie::restored(edges, NodeId(third.0 + 1));
    Compiled { trie, classes, longest: WITHIN }
}

/// Measures candidates: packets to ports that are steps or decoys.
fn candidates(report: &mut Report, effort: Effort) {
    const SOURCE: u32 = 0x1000_0001;
    const ALL: u32 = 0x0fff_ffff;
    const QUIET: usize = 0;
    const FULL: usize = 1;
    const SMALL: usize = 2;
    // The ring buffer must hold what one round completes.
    let repeat = effort.repeat.min(60_000);
    let normal = Policy::default().max_sources;
    let mut detectors = [normal, normal, 1024].map(|sources| load(&circle(), sources, false));
    // Every place in both tables is taken before anything is measured.
    for full in [FULL, SMALL] {
        let fill = Pattern::new(SOURCE, ALL, true, &[A, B]);
        run(&mut detectors[full], Bench::VaryKnock, fill, 12_000_000);
    }
    let one = |steps: &[Step]| Pattern::new(SOURCE, 0, false, steps);
    let many = |steps: &[Step]| Pattern::new(SOURCE, ALL, true, steps);
    let strangers = |steps: &[Step]| Pattern::new(SOURCE | 0x8000_0000, ALL, false, steps);
    let mut rows = Vec::new();
    for (which, name, pattern) in [
        (FULL, "A", one(&[A])),
        (FULL, "A, B", one(&[A, B])),
        (FULL, "A, B, C", one(&[A, B, C])),
        (QUIET, "decoy", many(&[DECOY])),
        (FULL, "decoy", many(&[DECOY])),
        (FULL, "new A", many(&[A])),
        (SMALL, "new A", many(&[A])),
        (FULL, "stranger's A, B", strangers(&[A, B])),
        (FULL, "stranger's A", strangers(&[A])),
    ] {
        let vary = |program| move |detector: &mut Detector| run(detector, program, pattern, repeat);
        rows.push((which, Row::new(name, vary(Bench::VaryKnock))));
        // The cost of the change of the frame, which depends on the pattern.
        rows.push((which, Row::new(base(name), vary(Bench::VaryEmpty))));
    }
    let plain = |program, step| Row::program("", program, frames::frame(false, step), repeat);
    for (which, name, program, step) in [
        (QUIET, "empty", Bench::Empty, A),
        (QUIET, "decoy, no progress", Bench::Knock, DECOY),
        (FULL, "first step again", Bench::Knock, A),
    ] {
        rows.push((which, Row { name, ..plain(program, step) }));
    }
    let [a, b, next] = [A, B, LOOP].map(|step| frames::frame(false, step));
    let next_step = Row::new("next step", move |detector| {
        for step in [&a, &b] {
            detector.bench_run(Bench::Knock, step, 1).expect("a test run");
        }
        detector.bench_run(Bench::Knock, &next, repeat).expect("a test run")
    });
    let drain = Row::new("drain", |detector| {
        frames::drain(detector);
        Duration::ZERO
    });
    rows.extend([(FULL, next_step), (FULL, drain)]);
    let ns = rounds(&mut detectors, &mut rows, effort.rounds);
    let totals = detectors[FULL].totals().expect("counters");
    let lost = totals.get(Counter::Candidate(Outcome::EventLost));
    assert_eq!(lost, 0, "the ring buffer was full, so the figures are not of completed knocks");
    let varied = |which, name| ns[&(which, name)] - ns[&(which, base(name))];
    let plain = |which, name| ns[&(which, name)] - ns[&(QUIET, "empty")];
    let (first, two, three) =
        (varied(FULL, "A"), 2.0 * varied(FULL, "A, B"), 3.0 * varied(FULL, "A, B, C"));
    let second = 2.0 * varied(FULL, "stranger's A, B") - varied(FULL, "stranger's A");
    for (name, value) in [
        ("decoy, no progress", plain(QUIET, "decoy, no progress")),
        ("decoy, random sources", varied(QUIET, "decoy")),
        ("decoy, random sources, tables full", varied(FULL, "decoy")),
        ("first step again", plain(FULL, "first step again")),
        ("first step, new source, table full", varied(FULL, "new A")),
        ("first step, new source, table full, `max_sources` 1,024", varied(SMALL, "new A")),
        ("second step, new source, map full", second),
        ("second step, known source", two - first),
        ("next step", plain(FULL, "next step")),
        ("completed, event included", three - two),
    ] {
        report.add(SECTION, name, ONE_DOOR, Value::ns(value));
    }
}

/// Returns the row that `name` is compared with.
fn base(name: &'static str) -> &'static str {
    match name {
        "A" => "empty: A",
        "A, B" => "empty: A, B",
        "A, B, C" => "empty: A, B, C",
        "decoy" => "empty: decoy",
        "new A" => "empty: new A",
        "stranger's A, B" => "empty: stranger's A, B",
        _ => "empty: stranger's A",
    }
}

fn run(detector: &mut Detector, program: Bench, pattern: Pattern, repeat: u32) -> Duration {
    detector.set_pattern(pattern).expect("a pattern");
    detector.bench_run(program, &frames::template(), repeat).expect("a test run")
}

/// Loads a detector with this many doors of four random steps.
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
    let detector = load(&compiled, policy.max_sources, false);
    (detector, compiled)
}

/// Loads a detector with one door, with its messages or without.
pub(crate) fn one_door(trace: bool) -> Detector {
    load(&detector(1).1, 1024, trace)
}

fn load(compiled: &Compiled, max_sources: u32, trace: bool) -> Detector {
    let settings = Settings {
        strays: Policy::default().strays,
        max_sources,
        knocks: Knocks::Pass,
        trace,
        hash_key: rand::random(),
    };
    Detector::load(compiled, settings).expect("the kernel takes the program")
}

const _: () = assert!(FRAME == 64);

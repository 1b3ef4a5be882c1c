//! The detector: a door opens only for a source that sent its steps in order and in time, and every
//! honest knock that comes afterwards opens its door.

use std::sync::LazyLock;
use std::time::Duration;

use knock_common::detect::Limits;
use knock_common::progress::Ticks;
use knock_common::sequence::{PortClass, Protocol, Step};
use knock_common::simulate::Simulation;
use knock_common::source::Source;
use knock_policy::compile::{Compiled, Served, compile};
use knock_policy::{Door, Policy, Service};

/// `within` of the first door, and how much shorter that of each further one is.
const WITHIN: Duration = Duration::from_secs(2);
const LESS: Duration = Duration::from_millis(400);
/// A tick of the detector's clock.
const TICK_NS: u64 = 1 << 22;
/// Few, so that sources share buckets.
const BUCKETS: u32 = 16;
const SOURCES: u8 = 4;

const A: Step = Step::new(Protocol::Tcp, 7000);
const B: Step = Step::new(Protocol::Udp, 8000);
const C: Step = Step::new(Protocol::Tcp, 4500);
const D: Step = Step::new(Protocol::Udp, 4600);

/// Doors that share steps and first steps, and the packets that a client may send.
struct Host {
    policy: Policy,
    compiled: Compiled,
    steps: Vec<Step>,
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let door = |index: u32, sequence: &[Step], reorder| Door {
        within: WITHIN - LESS * index,
        reorder,
        ..Door::new(index.to_string(), vec![Service::new(Protocol::Tcp, 22)], sequence.to_vec())
    };
    let sequences: [(&[Step], bool); 5] = [
        (&[A, B, C], false),
        (&[A, B, D], false),
        (&[C, B], false),
        (&[D, B, A, B], true),
        (&[B, A, C, D, A], false),
    ];
    let doors = (0..).zip(sequences).map(|(index, (steps, swap))| door(index, steps, swap));
    let policy = Policy { doors: doors.collect(), ..Policy::default() };
    let compiled = compile(&policy, &Served::default(), [7; 32]).expect("no scan opens these");
    // The neighbours of a step are decoys; the other is of no interest.
    let decoys = [Step::new(Protocol::Tcp, 7001), Step::new(Protocol::Udp, 4599)];
    let steps = [&[A, B, C, D][..], &decoys].concat();
    let is_decoy = |step: &Step| {
        PortClass::of(compiled.classes[usize::from(step.port)], step.protocol) == PortClass::DECOY
    };
    assert!(decoys.iter().all(is_decoy));
    Host { policy, compiled, steps }
});

/// One packet of one source.
#[derive(Clone, Copy)]
struct Sent {
    step: Step,
    ticks: u64,
}

/// Delivers packets, two bytes each: the source, and the step or the time that passes.
///
/// # Panics
///
/// If a door opens that should not, or stays closed to an honest knock.
pub fn run(input: &[u8]) {
    let Host { policy, compiled, steps } = &*HOST;
    let limits =
        Limits { strays: policy.strays, longest: compiled.longest, buckets: BUCKETS, key: [3, 5] };
    let edges = compiled.trie.edges.iter().map(|(edge, transition)| (*edge, *transition));
    let simulation = Simulation::new(limits, &compiled.classes, edges);
    let mut history = [const { Vec::new() }; SOURCES as usize];
    let mut ticks = 1000;
    for &[who, what] in input.as_chunks().0 {
        let number = who % SOURCES;
        match who / SOURCES {
            0 => ticks += u64::from(what),
            1 => simulation.fill_ring(what % 2 == 0),
            2 => simulation.refuse_inserts(what % 2 == 0),
            _ => {
                let step = steps[usize::from(what) % steps.len()];
                let sent = &mut history[usize::from(number)];
                sent.push(Sent { step, ticks });
                simulation.knock(source(number), step, ticks * TICK_NS);
                for event in simulation.take_events() {
                    let named = policy.doors.iter().find(|door| door.id() == event.door);
                    let door = named.expect("a door of the policy");
                    assert_eq!(event.source, source(number), "the one who sent the last step");
                    assert!(has_knocked(sent, door), "door {} opened", door.name);
                }
            }
        }
    }
    simulation.fill_ring(false);
    simulation.refuse_inserts(false);
    for (number, door) in (SOURCES..).zip(&policy.doors) {
        for &step in &door.sequence {
            assert_eq!(simulation.take_events(), [], "before the last step");
            simulation.knock(source(number), step, ticks * TICK_NS);
        }
        let opened: Vec<_> = simulation.take_events().iter().map(|event| event.door).collect();
        assert_eq!(opened, [door.id()], "an honest knock");
    }
}

fn source(number: u8) -> Source {
    Source::v4([192, 0, 2, 1 + number])
}

/// Returns whether the packets so far hold an order of the door's steps that ends with the last
/// packet and took no longer than it may.
fn has_knocked(sent: &[Sent], door: &Door) -> bool {
    let Some(last) = sent.last() else { return false };
    let oldest = last.ticks.saturating_sub(Ticks::from_duration(door.within).into());
    let in_time = sent.iter().filter(|packet| packet.ticks >= oldest);
    door.orders().iter().any(|order| {
        let mut missing = order.iter().rev().peekable();
        if missing.peek() != Some(&&last.step) {
            return false;
        }
        for packet in in_time.clone().rev() {
            missing.next_if_eq(&&packet.step);
        }
        missing.next().is_none()
    })
}

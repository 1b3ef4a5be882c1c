//! Packets of one source that several CPUs handle at once. Threads stand for the CPUs.

use std::collections::HashMap;
use std::sync::Barrier;
use std::thread;

use knock_common::detect::Limits;
use knock_common::sequence::{DoorId, Edge, NodeId, PORTS, PortClass, Protocol, Step, Transition};
use knock_common::simulate::Simulation;
use knock_common::source::Source;

const A: Step = Step::new(Protocol::Tcp, 7000);
const B: Step = Step::new(Protocol::Udp, 8000);
const C: Step = Step::new(Protocol::Tcp, 9000);
const DOOR: DoorId = DoorId(7);

fn simulation() -> Simulation {
    let mut classes = Box::new([0u8; PORTS]);
    for (step, class) in [(A, PortClass::FIRST), (B, PortClass::LATER), (C, PortClass::LATER)] {
        let entry = &mut classes[usize::from(step.port)];
        *entry = class.add_to(*entry, step.protocol);
    }
    let (first, second) = (NodeId::first(A), NodeId::DEEPER);
    let edges = HashMap::from([
        (Edge::new(first, B), Transition::advance(second, 1000)),
        (Edge::new(second, B), Transition::stay(second)),
        (Edge::new(second, C), Transition::accept(DOOR, 1000)),
    ]);
    Simulation::new(Limits { strays: 2, longest: 1000, buckets: 64, key: [1, 2] }, &classes, edges)
}

#[test]
fn every_step_sent_twice_at_once_opens_the_right_door() {
    const SOURCES: u8 = 200;
    const CPUS: usize = 2;
    let simulation = simulation();
    let barrier = Barrier::new(CPUS);
    thread::scope(|scope| {
        for _ in 0..CPUS {
            scope.spawn(|| {
                for number in 0..SOURCES {
                    for step in [A, B, C] {
                        barrier.wait();
                        simulation.knock(Source::v4([192, 0, 2, number]), step, 1 << 30);
                    }
                }
            });
        }
    });
    let events = simulation.take_events();
    assert!(events.iter().all(|event| event.door == DOOR));
    let mut opened: Vec<_> = events.iter().map(|event| event.source).collect();
    opened.sort();
    let every: Vec<_> = (0..SOURCES).map(|number| Source::v4([192, 0, 2, number])).collect();
    assert_eq!(opened, every, "each source once: no accept is lost and none comes twice");
}

#[test]
fn strangers_on_other_cpus_do_not_disturb_a_knock() {
    let simulation = simulation();
    let honest = Source::v4([192, 0, 2, 1]);
    thread::scope(|scope| {
        for cpu in 0..2u8 {
            let simulation = &simulation;
            scope.spawn(move || {
                for n in 0..2000u16 {
                    let [high, low] = n.to_be_bytes();
                    simulation.knock(
                        Source::v4([10, cpu, high, low]),
                        [A, C, B][usize::from(n % 3)],
                        1 << 30,
                    );
                }
            });
        }
        for _ in 0..500 {
            for step in [A, B, C] {
                simulation.knock(honest, step, 1 << 30);
            }
        }
    });
    let events = simulation.take_events();
    assert!(events.iter().all(|event| event.source == honest));
    // Strangers share buckets with the honest source, and the oldest slot gives way; all
    // that it loses it wins back with its next knock.
    assert!(events.len() > 400, "{}", events.len());
}

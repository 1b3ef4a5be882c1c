use super::*;
use crate::sequence::{DoorId, NodeId, Protocol::Tcp};

const SOURCE: Source = Source::v4([192, 0, 2, 1]);
const STEPS: [Step; 3] = [Step::new(Tcp, 7000), Step::new(Tcp, 8000), Step::new(Tcp, 9000)];

fn one_door() -> Simulation {
    let mut classes = Box::new([0; PORTS]);
    for (index, step) in STEPS.iter().enumerate() {
        let class = if index == 0 { PortClass::FIRST } else { PortClass::LATER };
        classes[usize::from(step.port)] = class.add_to(0, Tcp);
    }
    let (first, second) = (NodeId::first(STEPS[0]), NodeId::DEEPER);
    let edges = [
        (Edge::new(first, STEPS[1]), Transition::advance(second, 100)),
        (Edge::new(second, STEPS[1]), Transition::stay(second)),
        (Edge::new(second, STEPS[2]), Transition::accept(DoorId(0), 100)),
    ];
    let limits = Limits { strays: 2, longest: 100, buckets: 16, key: [1, 2] };
    Simulation::new(limits, &classes, edges)
}

#[test]
fn a_failed_insertion_and_a_full_ring_cost_one_try_each() {
    let host = one_door();
    assert_eq!(host.knock(SOURCE, STEPS[0], 0), Some(Outcome::First));
    host.refuse_inserts(true);
    assert_eq!(host.knock(SOURCE, STEPS[1], 1), Some(Outcome::InsertFailed));
    host.refuse_inserts(false);
    assert_eq!(host.knock(SOURCE, STEPS[1], 2), Some(Outcome::Advanced));
    assert_eq!(host.knock(SOURCE, STEPS[1], 3), Some(Outcome::Stayed));
    host.fill_ring(true);
    assert_eq!(host.knock(SOURCE, STEPS[2], 4), Some(Outcome::EventLost));
    host.fill_ring(false);
    assert_eq!(host.knock(SOURCE, STEPS[2], 5), Some(Outcome::Completed));
    assert_eq!(host.take_events(), [Event::new(SOURCE, DoorId(0), 5)]);
}

#[test]
fn wrong_order_and_strangers_open_nothing() {
    let host = one_door();
    let stranger = Source::v4([192, 0, 2, 2]);
    host.knock(SOURCE, STEPS[0], 0);
    host.knock(SOURCE, STEPS[1], 1);
    assert_eq!(host.knock(stranger, STEPS[2], 2), Some(Outcome::Unexpected));
    host.knock(stranger, STEPS[0], 3);
    assert_eq!(host.knock(stranger, STEPS[2], 4), Some(Outcome::Wrong));
    assert_eq!(host.knock(stranger, STEPS[1], 5), Some(Outcome::Unexpected));
    assert_eq!(host.take_events(), []);
}

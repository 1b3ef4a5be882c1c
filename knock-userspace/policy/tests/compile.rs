//! Compiled doors against a matcher that is too simple to be wrong, and against scans.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use knock_common::detect::Limits;
use knock_common::event::Event;
use knock_common::progress::Ticks;
use knock_common::sequence::{DoorId, PortClass, Protocol, Step};
use knock_common::simulate::Simulation;
use knock_common::source::Source;
use knock_policy::compile::{CompileError, Compiled, Reason, Served, compile, draw_sequence};
use knock_policy::{Door, Policy, Service};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

const WITHIN: Duration = Duration::from_secs(10);
const MILLISECOND: u64 = 1_000_000;

fn policy(sequences: &[Vec<Step>]) -> Policy {
    let sequences: Vec<_> = sequences.iter().map(|sequence| (sequence.clone(), false)).collect();
    policy_with(&sequences)
}

/// One door for each sequence, with `reorder` as it says.
fn policy_with(doors: &[(Vec<Step>, bool)]) -> Policy {
    let door = |(index, (sequence, reorder)): (usize, &(Vec<Step>, bool))| Door {
        within: WITHIN,
        reorder: *reorder,
        ..Door::new(format!("door{index}"), vec![Service::new(Protocol::Tcp, 22)], sequence.clone())
    };
    Policy { doors: doors.iter().enumerate().map(door).collect(), ..Policy::default() }
}

fn simulation(compiled: &Compiled, strays: u8) -> Simulation {
    let limits = Limits { strays, longest: compiled.longest, buckets: 1024, key: [3, 5] };
    Simulation::new(limits, &compiled.classes, compiled.trie.edges.iter().map(|(e, t)| (*e, *t)))
}

/// Whether scans are the only reason.
fn is_scannable(error: &CompileError) -> bool {
    error.problems.iter().all(|problem| matches!(problem.reason, Reason::Scannable { .. }))
}

/// The door that an event names, by its place in the policy.
fn index_of(policy: &Policy, event: &Event) -> usize {
    policy.doors.iter().position(|door| door.id() == event.door).expect("a door of the policy")
}

fn source(number: u8) -> Source {
    Source::v4([192, 0, 2, number])
}

/// The beginning of a sequence: the steps so far, the time of the first, and the number of decoys
/// hit since.
#[derive(Clone, Debug)]
struct Partial {
    taken: Vec<Step>,
    started: u64,
    strays: u8,
}

/// The rules of the detector in their simplest form, over lists, without a trie or packed words.
#[derive(Default)]
struct Naive {
    partials: HashMap<Source, Vec<Partial>>,
}

impl Naive {
    /// Delivers one packet and returns the doors that it opens.
    fn knock(
        &mut self,
        policy: &Policy,
        decoys: &BTreeSet<Step>,
        source: Source,
        step: Step,
        ticks: u64,
    ) -> BTreeSet<usize> {
        let longest = u64::from(Ticks::from_duration(WITHIN));
        let doors: Vec<_> = policy.doors.iter().enumerate().collect();
        let orders: Vec<_> = doors
            .iter()
            .flat_map(|(index, door)| door.orders().into_iter().map(move |order| (*index, order)))
            .collect();
        let doors = || orders.iter().map(|(_, order)| order);
        let begins =
            |taken: &[Step]| doors().any(|s| s.len() > taken.len() && s.starts_with(taken));
        let partials = self.partials.entry(source).or_default();
        // A beginning that took too long does not count any more.
        let mut expected = false;
        let mut opened = BTreeSet::new();
        let mut next = Vec::new();
        for partial in partials.drain(..) {
            if ticks - partial.started > longest {
                continue;
            }
            let longer = [partial.taken.as_slice(), &[step]].concat();
            if let Some((door, _)) = orders.iter().find(|(_, order)| *order == longer) {
                opened.insert(*door);
                expected = true;
            } else if begins(&longer) {
                next.push(Partial { taken: longer, ..partial });
                expected = true;
            } else {
                let first = doors().any(|sequence| sequence[0] == step);
                expected |= first || partial.taken.contains(&step);
                next.push(partial);
            }
        }
        if doors().any(|sequence| sequence[0] == step) {
            expected = true;
            next.retain(|partial| partial.taken != [step]);
            next.push(Partial { taken: vec![step], started: ticks, strays: 0 });
        }
        if !expected && doors().any(|sequence| sequence[1..].contains(&step)) {
            next.clear();
        } else if !expected && decoys.contains(&step) {
            next.iter_mut().for_each(|partial| partial.strays += 1);
            next.retain(|partial| partial.strays <= policy.strays);
        }
        *partials = next;
        opened
    }

    /// Returns the number of beginnings of a source past its first step.
    fn later(&self, source: Source) -> usize {
        let partials = self.partials.get(&source).into_iter().flatten();
        partials.filter(|partial| partial.taken.len() > 1).count()
    }
}

fn step() -> impl Strategy<Value = Step> {
    // Few ports, so that doors share steps and beginnings.
    (any::<bool>(), 0u16..5).prop_map(|(tcp, n)| {
        let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
        Step::new(protocol, 4000 + 100 * n)
    })
}

/// One to four doors that a config would take, some of them with `reorder`.
fn doors() -> impl Strategy<Value = Vec<(Vec<Step>, bool)>> {
    let sequence = prop::collection::vec(step(), 2..5)
        .prop_filter("a step twice in a row", |s| s.windows(2).all(|pair| pair[0] != pair[1]));
    let door = (sequence, prop::bool::weighted(0.3));
    prop::collection::vec(door, 1..5).prop_filter("a sequence that begins another", |all| {
        let orders: Vec<_> = policy_with(all).doors.iter().map(Door::orders).collect();
        let begins =
            |a: &[Vec<Step>], b: &[Vec<Step>]| a.iter().any(|a| b.iter().any(|b| b.starts_with(a)));
        (0..all.len()).all(|i| (0..all.len()).all(|j| i == j || !begins(&orders[i], &orders[j])))
    })
}

/// The next packet on the wire.
#[derive(Clone, Debug)]
enum Packet {
    /// The next step of a door, as an honest client sends them.
    Honest(usize),
    /// The same step as before.
    Again,
    /// Any step.
    Any(Step),
    /// A decoy.
    Decoy(prop::sample::Index),
}

fn packet() -> impl Strategy<Value = Packet> {
    prop_oneof![
        8 => (0usize..16).prop_map(Packet::Honest),
        2 => Just(Packet::Again),
        1 => step().prop_map(Packet::Any),
        1 => any::<prop::sample::Index>().prop_map(Packet::Decoy),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_trie_opens_what_the_naive_matcher_opens(
        doors in doors(),
        packets in prop::collection::vec((packet(), 1u8..3, 0u64..700), 1..80),
    ) {
        let policy = policy_with(&doors);
        // Honest clients send each order.
        let sequences: Vec<_> = policy.doors.iter().flat_map(Door::orders).collect();
        let compiled = match compile(&policy, &Served::default(), [9; 32]) {
            Ok(compiled) => compiled,
            // Such doors have a test of their own.
            Err(error) if is_scannable(&error) => return Err(TestCaseError::reject("scannable")),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        let decoys = decoys(&compiled);
        let decoy_list: Vec<_> = decoys.iter().copied().collect();
        let simulation = simulation(&compiled, policy.strays);
        let mut naive = Naive::default();
        let mut progress: HashMap<(u8, usize), usize> = HashMap::new();
        let mut last = sequences[0][0];
        // Whole ticks, so that both sides count the same time.
        let mut ticks = 1000u64;
        for (packet, who, wait) in packets {
            ticks += wait;
            let step = match packet {
                Packet::Honest(door) => {
                    let door = door % sequences.len();
                    let at = progress.entry((who, door)).or_default();
                    let step = sequences[door][*at % sequences[door].len()];
                    *at += 1;
                    step
                }
                Packet::Again => last,
                Packet::Any(step) => step,
                Packet::Decoy(index) => *index.get(&decoy_list),
            };
            last = step;
            let expected = naive.knock(&policy, &decoys, source(who), step, ticks);
            simulation.knock(source(who), step, ticks << 22);
            let opened: BTreeSet<_> =
                simulation.take_events().iter().map(|event| index_of(&policy, event)).collect();
            prop_assert_eq!(&opened, &expected, "at {} from {}", step, who);
            // Beyond its four tracks the detector forgets, as it says.
            if naive.later(source(who)) > 4 {
                return Ok(());
            }
        }
    }
}

fn decoys(compiled: &Compiled) -> BTreeSet<Step> {
    all_steps().filter(|step| class(compiled, *step) == PortClass::DECOY).collect()
}

fn class(compiled: &Compiled, step: Step) -> PortClass {
    PortClass::of(compiled.classes[usize::from(step.port)], step.protocol)
}

fn all_steps() -> impl Iterator<Item = Step> {
    (1..=u16::MAX).flat_map(|port| Protocol::ALL.map(|protocol| Step::new(protocol, port)))
}

/// Every order in which a scanner may touch the ports of one protocol or both.
fn scans(rng: &mut StdRng) -> Vec<Vec<Step>> {
    let both: Vec<_> = all_steps().collect();
    let mut scans = vec![both.clone()];
    for protocol in Protocol::ALL {
        scans.push(both.iter().copied().filter(|step| step.protocol == protocol).collect());
    }
    let reversed: Vec<_> = scans.iter().map(|scan| scan.iter().rev().copied().collect()).collect();
    scans.extend(reversed);
    let mut random = both;
    random.shuffle(rng);
    scans.push(random);
    scans
}

#[test]
fn no_scan_opens_any_of_a_thousand_random_doors() {
    let mut rng = StdRng::seed_from_u64(7);
    let scans = scans(&mut rng);
    // In small groups: with very many doors nearly every scan meets wrong steps.
    for length in [3, 4, 5, 6] {
        for _ in 0..25 {
            let sequences: Vec<_> = (0..10).map(|_| draw_sequence(&mut rng, length)).collect();
            let compiled =
                compile(&policy(&sequences), &Served::default(), rand::random()).unwrap();
            let simulation = simulation(&compiled, 2);
            for (number, scan) in (1u8..).zip(&scans) {
                let interesting = scan.iter().filter(|step| !class(&compiled, **step).is_none());
                for &step in interesting {
                    // The slowest scan that stays inside `within` is one at a standstill.
                    simulation.knock(source(number), step, MILLISECOND);
                }
            }
            assert_eq!(simulation.take_events(), []);
            simulation.knock(source(200), sequences[0][0], MILLISECOND);
            for &step in &sequences[0][1..] {
                simulation.knock(source(200), step, MILLISECOND);
            }
            assert_eq!(simulation.take_events().len(), 1, "an honest knock opens");
        }
    }
}

#[test]
fn steps_that_overtook_each_other_open_a_door_that_says_so() {
    let sequence = draw_sequence(&mut StdRng::seed_from_u64(3), 4);
    for (reorder, opened) in [(false, 1), (true, 4)] {
        let policy = policy_with(&[(sequence.clone(), reorder)]);
        let compiled = compile(&policy, &Served::default(), [1; 32]).unwrap();
        let simulation = simulation(&compiled, 2);
        let swapped = (0..3).map(|first| {
            let mut order = sequence.clone();
            order.swap(first, first + 1);
            order
        });
        for (number, order) in (1u8..).zip(std::iter::once(sequence.clone()).chain(swapped)) {
            for step in order {
                simulation.knock(source(number), step, MILLISECOND);
            }
        }
        assert_eq!(simulation.take_events().len(), opened, "reorder = {reorder}");
        for step in sequence.iter().rev() {
            simulation.knock(source(100), *step, MILLISECOND);
        }
        assert_eq!(simulation.take_events(), [], "backwards is not a knock");
    }
}

#[test]
fn no_scan_opens_doors_whose_steps_may_overtake_each_other() {
    let mut rng = StdRng::seed_from_u64(11);
    let scans = scans(&mut rng);
    let mut opened = 0;
    for _ in 0..25 {
        let doors: Vec<_> = (0..4).map(|_| (draw_sequence(&mut rng, 4), true)).collect();
        let compiled = match compile(&policy_with(&doors), &Served::default(), rand::random()) {
            Ok(compiled) => compiled,
            Err(error) if is_scannable(&error) => continue,
            Err(error) => panic!("{error}"),
        };
        opened += 1;
        let simulation = simulation(&compiled, 2);
        for (number, scan) in (1u8..).zip(&scans) {
            for &step in scan {
                simulation.knock(source(number), step, MILLISECOND);
            }
        }
        assert_eq!(simulation.take_events(), []);
    }
    assert!(opened > 20, "only {opened} of 25 could be compiled");
}

#[test]
fn ascending_sequences_with_room_for_decoys_are_safe() {
    let tcp = |port| Step::new(Protocol::Tcp, port);
    let sequences = [vec![tcp(7000), tcp(8000), tcp(9000)]];
    let compiled = compile(&policy(&sequences), &Served::default(), [1; 32]).unwrap();
    let simulation = simulation(&compiled, 2);
    for port in 1..=u16::MAX {
        simulation.knock(source(1), tcp(port), MILLISECOND);
    }
    assert_eq!(simulation.take_events(), []);
}

#[test]
fn sequences_that_a_scan_would_open_are_refused() {
    let (tcp, udp) = (|port| Step::new(Protocol::Tcp, port), |port| Step::new(Protocol::Udp, port));
    for (sequence, order) in [
        (vec![tcp(7000), tcp(7001), tcp(7002)], "ascending"),
        (vec![udp(7002), udp(7001), udp(7000)], "descending"),
        (vec![tcp(7000), udp(7000), tcp(7001)], "ascending"),
    ] {
        let error = compile(&policy(&[sequence]), &Served::default(), [1; 32]).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("door `door0`") && said.contains(order), "{said}");
    }
    let safe = vec![tcp(7001), tcp(7000), tcp(7002)];
    compile(&policy(std::slice::from_ref(&safe)), &Served::default(), [1; 32])
        .expect("no scan meets it in order");
    // With the first two in the other order, a scan does.
    let error = compile(&policy_with(&[(safe, true)]), &Served::default(), [1; 32]).unwrap_err();
    assert!(error.to_string().contains("ascending"), "{error}");
}

#[test]
fn what_the_host_uses_is_never_a_decoy() {
    let sequence = vec![Step::new(Protocol::Tcp, 7000), Step::new(Protocol::Udp, 9000)];
    let listening = Step::new(Protocol::Tcp, 7001);
    let served = Served { listening: [listening].into(), ephemeral: Some(32_768..=60_999) };
    let policy = Policy { decoys: 100, ..policy(std::slice::from_ref(&sequence)) };
    let compiled = compile(&policy, &served, [1; 32]).unwrap();
    let decoys = decoys(&compiled);
    let ssh = Step::new(Protocol::Tcp, 22);
    for used in sequence.iter().chain([&listening, &ssh]) {
        assert!(!decoys.contains(used), "{used}");
    }
    assert!(!decoys.contains(&Step::new(Protocol::Udp, 40_000)), "answers come there");
    assert!(decoys.contains(&Step::new(Protocol::Tcp, 40_000)));
    assert!(decoys.contains(&Step::new(Protocol::Udp, 7000)), "the other protocol of a step");
    assert_eq!(decoys, self::decoys(&compile(&policy, &served, [1; 32]).unwrap()));
}

#[test]
fn ten_thousand_doors_compile_and_the_last_one_opens() {
    let mut rng = StdRng::seed_from_u64(8);
    let sequences: Vec<_> = (0..10_000).map(|_| draw_sequence(&mut rng, 4)).collect();
    let compiled = compile(&policy(&sequences), &Served::default(), [1; 32]).unwrap();
    let simulation = simulation(&compiled, 2);
    for &step in &sequences[9_999] {
        simulation.knock(source(1), step, MILLISECOND);
    }
    let events = simulation.take_events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].door, DoorId::of("door9999"));
    assert_eq!(IpAddr::from(events[0].source), IpAddr::from([192, 0, 2, 1]));
}

#[test]
fn drawn_sequences_have_different_ports_that_are_apart() {
    let mut rng = StdRng::seed_from_u64(9);
    for _ in 0..1000 {
        let steps = draw_sequence(&mut rng, 6);
        for (index, step) in steps.iter().enumerate() {
            assert!(step.port >= 1024);
            assert!(steps[..index].iter().all(|other| other.port.abs_diff(step.port) >= 8));
        }
    }
}

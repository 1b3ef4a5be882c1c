//! Whole knocks, as the program sees them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use knock_common::sequence::{DoorId, Protocol, Step};
use knock_lab::process::slowness;
use knock_policy::Knocks;

use crate::{A, B, C, DROP, DetectorRig, PASS, knock, stranger};

#[tokio::test]
async fn the_right_steps_make_one_event_that_names_source_and_door() {
    let other = [C, A, B];
    let mut bench = DetectorRig::new(&[&other, &[A, B, C]]);
    for source in [stranger(), "2001:db8::42".parse().unwrap()] {
        assert_eq!(bench.knock(source, &[A, B, C]), ["first", "advanced", "completed"]);
    }
    let events = bench.events().await;
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| event.door == DoorId::of("door1")));
    assert_eq!(IpAddr::from(events[1].source), "2001:db8::42".parse::<IpAddr>().unwrap());
    assert!(events[0].time_ns > 0);
}

#[test]
fn a_wrong_order_ends_progress() {
    let mut bench = DetectorRig::new(&[&[A, B, C]]);
    let source = stranger();
    assert_eq!(bench.knock(source, &[A, C, B, C]), ["first", "wrong", "unexpected", "unexpected"]);
    assert_eq!(bench.knock(source, &[A, B, C]), ["first", "advanced", "completed"]);
}

#[test]
fn every_step_may_be_retransmitted_even_late() {
    let last = Step::new(Protocol::Udp, 10_000);
    let mut bench = DetectorRig::new(&[&[A, B, C, last]]);
    let source = stranger();
    assert_eq!(bench.knock(source, &[A, A, B, B]), ["first", "first", "advanced", "stayed"]);
    assert_eq!(bench.knock(source, &[C, C, B, C]), ["advanced", "stayed", "stayed", "stayed"]);
    // A first step that comes again might be a second user's, so it begins anew beside
    // the knock under way.
    assert_eq!(bench.knock(source, &[A, B, last]), ["first", "advanced", "completed"]);
}

#[test]
fn strays_are_forgiven_up_to_the_limit() {
    let mut bench = DetectorRig::new(&[&[A, B, C]]);
    let decoy = bench.decoy(Protocol::Udp);
    let ends = bench.knock(stranger(), &[A, decoy, decoy, B, C]);
    assert_eq!(ends, ["first", "stray", "stray", "advanced", "completed"]);
    let ends = bench.knock(stranger(), &[A, decoy, B, decoy, decoy, C]);
    assert_eq!(ends, ["first", "stray", "advanced", "stray", "forgotten", "unexpected"]);
}

#[test]
fn ports_of_no_interest_are_not_strays() {
    let mut bench = DetectorRig::new(&[&[A, B, C]]);
    let quiet = bench.quiet(Protocol::Tcp);
    let ends = bench.knock(stranger(), &[A, quiet, quiet, quiet, B, quiet, C]);
    assert_eq!(ends.last(), Some(&"completed"));
}

#[test]
fn a_sequence_that_takes_too_long_is_late() {
    let within = Duration::from_millis(50) * slowness();
    let mut bench = DetectorRig::with(&[&[A, B, C]], Knocks::Pass, within);
    let traffic = knock(stranger(), bench.quiet(Protocol::Tcp));
    // The more comes between, the later is the last step.
    let mut between = 1;
    let took = loop {
        let (source, begun) = (stranger(), Instant::now());
        assert_eq!(bench.knock(source, &[A, B]), ["first", "advanced"]);
        bench.detector.test_run(&traffic, between).expect("test runs");
        let end = bench.knock(source, &[C]);
        if end != ["completed"] {
            // No door has more time than this one, so the track has ended.
            assert_eq!(end, ["unexpected"], "after {between} packets");
            break begun.elapsed();
        }
        between *= 2;
    };
    assert!(between > 1 && took > within, "late after {between} packets and {took:?}");
}

#[test]
fn two_users_behind_one_address_interleave() {
    let door = [
        Step::new(Protocol::Tcp, 1111),
        Step::new(Protocol::Tcp, 2222),
        Step::new(Protocol::Tcp, 3333),
    ];
    // Not in order, so that a scan could not open it.
    let other = [door[1], door[0], door[2]];
    let mut bench = DetectorRig::new(&[&[A, C, B], &other]);
    let ends = bench.knock(stranger(), &[A, other[0], C, other[1], other[2], B]);
    assert_eq!(ends, ["first", "first", "advanced", "advanced", "completed", "completed"]);
}

#[test]
fn doors_share_a_beginning() {
    let mut bench = DetectorRig::new(&[&[A, B, C], &[A, B, Step::new(Protocol::Udp, 4000)]]);
    let source = stranger();
    assert_eq!(bench.knock(source, &[A, B, C]).last(), Some(&"completed"));
    let ends = bench.knock(source, &[A, B, Step::new(Protocol::Udp, 4000)]);
    assert_eq!(ends.last(), Some(&"completed"));
}

#[test]
fn matched_knocks_are_dropped_when_the_owner_asks() {
    let mut bench = DetectorRig::with(&[&[A, B, C]], Knocks::Drop, Duration::from_secs(10));
    let source = stranger();
    let decoy = bench.decoy(Protocol::Tcp);
    let quiet = bench.quiet(Protocol::Tcp);
    let mut verdict = |step| bench.send(&knock(source, step)).0;
    assert_eq!([verdict(A), verdict(B), verdict(C)], [DROP; 3]);
    assert_eq!([verdict(B), verdict(decoy), verdict(quiet)], [PASS; 3]);
}

#[tokio::test]
async fn a_full_ring_buffer_is_counted_and_the_last_step_works_later() {
    let mut bench = DetectorRig::new(&[&[A, B]]);
    let source = stranger();
    let mut lost = None;
    for _ in 0..200_000 {
        if bench.knock(source, &[A, B])[1] == "event_lost" {
            lost = Some(());
            break;
        }
    }
    lost.expect("2 MiB hold fewer events than that");
    assert!(bench.events().await.len() > 10_000);
    assert_eq!(bench.knock(source, &[B]), ["completed"]);
}

#[test]
fn more_sources_than_the_map_holds_push_out_the_oldest_only() {
    let mut bench = DetectorRig::new(&[&[A, B, C]]);
    for _ in 0..3000 {
        let source = stranger();
        assert_eq!(bench.knock(source, &[A, B, C]), ["first", "advanced", "completed"]);
    }
}

#[test]
fn a_step_counts_from_whichever_cpu_it_comes() {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;

    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread).expect("affinity");
    let cpus: Vec<_> =
        (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect();
    let mut bench = DetectorRig::new(&[&[A, B, C]]);
    for round in 0..50 {
        let source = stranger();
        let ends: Vec<_> = [A, B, C]
            .into_iter()
            .enumerate()
            .flat_map(|(index, step)| {
                let mut one = CpuSet::new();
                one.set(cpus[(round + index) % cpus.len()]).expect("a cpu");
                sched_setaffinity(this_thread, &one).expect("move to a cpu");
                bench.knock(source, &[step])
            })
            .collect();
        assert_eq!(ends, ["first", "advanced", "completed"]);
    }
    sched_setaffinity(this_thread, &allowed).expect("affinity as before");
}

/// Every step of every source comes twice at the same time, on two CPUs.
#[tokio::test]
async fn steps_that_reach_two_cpus_at_once_open_the_right_door_once() {
    use knock_detector::run_program;
    use std::sync::Barrier;

    const SOURCES: usize = 10_000;
    const CPUS: usize = 2;
    let mut bench = DetectorRig::new(&[&[A, B, C], &[B, A, C, B]]);
    let id = bench.detector.program_id().expect("the program is loaded");
    let sources: Vec<_> = (0..SOURCES).map(|_| stranger()).collect();
    // The map of this test has room for 1,024 sources, of which the kernel gives each CPU a share.
    for batch in sources.chunks(250) {
        let barrier = Barrier::new(CPUS);
        std::thread::scope(|scope| {
            for _ in 0..CPUS {
                scope.spawn(|| {
                    for &source in batch {
                        for step in [A, B, C] {
                            let frame = knock(source, step);
                            barrier.wait();
                            let run = run_program(id, &frame, 1).expect("a test run");
                            assert!(run.is_some(), "the program stays loaded");
                        }
                    }
                });
            }
        });
    }
    let events = bench.events().await;
    assert!(events.iter().all(|event| event.door == DoorId::of("door0")), "the right door");
    let mut opened: Vec<_> = events.iter().map(|event| IpAddr::from(event.source)).collect();
    opened.sort();
    let mut expected = sources;
    expected.sort();
    assert_eq!(opened, expected, "each source once");
}

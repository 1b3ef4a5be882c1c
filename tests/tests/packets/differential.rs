//! The parser in the kernel against the same parser on the host: they agree on every frame, however
//! mangled.

use std::net::IpAddr;

use knock_common::counters::Counter;
use knock_common::packet;
use knock_common::sequence::{PortClass, Protocol, Step};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};

use crate::{A, B, C, DetectorRig, knock};
use knock_lab::packet::{tagged, with_extensions, with_options};

/// Parses a frame on the host. Returns whether it is a candidate, or why it is not a knock.
fn on_host(bench: &DetectorRig, frame: &[u8]) -> Result<bool, packet::Refusal> {
    let candidate = packet::parse(frame)?;
    let Step { protocol, port } = candidate.step;
    let class = PortClass::of(bench.compiled.classes[usize::from(port)], protocol);
    if class.is_none() {
        return Ok(false);
    }
    candidate.source(frame).map(|_| true)
}

fn source() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(A),
        Just(B),
        Just(C),
        (any::<bool>(), any::<u16>()).prop_map(|(tcp, port)| {
            Step::new(if tcp { Protocol::Tcp } else { Protocol::Udp }, port)
        }),
    ]
}

/// A well-formed frame with tags, options or extension headers.
fn well_formed() -> impl Strategy<Value = Vec<u8>> {
    let tag = prop_oneof![Just(0x8100u16), Just(0x88a8)];
    let kind = prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(60), any::<u8>()];
    (
        source(),
        step(),
        prop::collection::vec(tag, 0..4),
        prop::collection::vec(kind, 0..9),
        0usize..=10,
    )
        .prop_map(|(source, step, tags, kinds, words)| {
            let frame = knock(source, step);
            let frame = match source {
                IpAddr::V4(_) => with_options(&frame, &vec![1; words * 4]),
                IpAddr::V6(_) => with_extensions(&frame, &kinds),
            };
            tagged(&frame, &tags)
        })
}

/// Such a frame with some bytes changed and perhaps the end cut off.
fn mangled() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (well_formed(), changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(mut frame, changes, cut, cut_it)| {
            for (at, value) in changes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            if cut_it {
                frame.truncate(14 + cut.index(frame.len() - 13));
            }
            frame
        },
    )
}

#[test]
fn kernel_and_host_agree_on_every_frame() {
    let mut bench = DetectorRig::new(&[&[A, B, C]]);
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let frames = prop_oneof![
        3 => mangled(),
        1 => prop::collection::vec(any::<u8>(), 14..200),
    ];
    for case in 0..4000 {
        let frame = frames.new_tree(&mut runner).expect("a frame").current();
        let expected = on_host(&bench, &frame);
        let (_, end) = bench.send(&frame);
        let agrees = match (expected, end) {
            (Err(refusal), Counter::Refused(found)) => refusal == found,
            (Ok(false), Counter::NotAStep) | (Ok(true), Counter::Candidate(_)) => true,
            _ => false,
        };
        assert!(agrees, "case {case}: host {expected:?}, kernel {end:?}, frame {frame:02x?}");
    }
}

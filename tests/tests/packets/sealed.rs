//! Sealed knocks, as the program sees them.

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use knock_common::counters::Counter;
use knock_common::sealed::{Clock, Fate, Gate, SIZE, set_tag, set_time};
use knock_common::sequence::{Protocol, Step};
use knock_common::siphash::SipKey;
use knock_policy::Knocks;
use nix::time::{ClockId, clock_gettime};
use proptest::prelude::*;

use crate::{A, B, C, DROP, DetectorRig, PASS, stranger};
use knock_lab::packet::{tagged, with_extensions, with_options};

const PORT: Step = Step::new(Protocol::Udp, 62_201);
const ID: u64 = 0x0123_4567_89ab_cdef;
const KEY: SipKey = SipKey([0x1111_2222_3333_4444, 0x5555_6666_7777_8888]);
const WINDOW: u64 = 60_000_000_000;
const SECOND: u64 = 1_000_000_000;

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_nanos()).expect("before 2554")
}

/// A detector with one door, one sealed port and one key.
fn bench(newest_ns: u64) -> DetectorRig {
    with_knocks(newest_ns, Knocks::Pass)
}

fn with_knocks(newest_ns: u64, knocks: Knocks) -> DetectorRig {
    let within = Duration::from_secs(10);
    let mut bench = DetectorRig::with_sealed(&[&[A, B, C]], knocks, within, &[PORT.port]);
    let monotonic = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock"));
    let offset_ns = now_ns() - u64::try_from(monotonic.as_nanos()).expect("a short uptime");
    let detector = &mut bench.detector;
    detector.set_clock(Clock { offset_ns, window_ns: WINDOW }).expect("the clock");
    detector.set_gate(ID, Gate { prefilter: KEY, newest_ns }).expect("a key");
    bench
}

fn packet(id: u64, key: SipKey, time_ns: u64) -> [u8; SIZE] {
    let mut packet = std::array::from_fn(|at| (at * 7) as u8);
    packet[..8].copy_from_slice(&id.to_le_bytes());
    set_time(&mut packet, key, time_ns);
    set_tag(&mut packet, key);
    packet
}

/// A datagram from `source` to the sealed port.
fn frame(source: IpAddr, payload: &[u8]) -> Vec<u8> {
    crate::packet(source).datagram(PORT.port, payload)
}

fn fate(bench: &mut DetectorRig, payload: &[u8]) -> Fate {
    match bench.send(&frame(stranger(), payload)) {
        (PASS, Counter::Sealed(fate)) => fate,
        (verdict, counter) => panic!("{verdict}, {}", counter.name()),
    }
}

#[tokio::test]
async fn sealed_packets_that_pass_reach_the_agent_unchanged() {
    let mut bench = bench(0);
    let packet = packet(ID, KEY, now_ns());
    let v6: IpAddr = "2001:db8::42".parse().unwrap();
    let plain = frame(stranger(), &packet);
    let ways = [
        plain.clone(),
        tagged(&plain, &[0x8100]),
        tagged(&plain, &[0x88a8, 0x8100]),
        with_options(&plain, &[1; 40]),
        frame(v6, &packet),
        with_extensions(&frame(v6, &packet), &[0, 60, 43]),
    ];
    for way in &ways {
        assert_eq!(bench.send(way), (PASS, Counter::Sealed(Fate::Passed)));
    }
    let mut events = bench.detector.sealed().expect("the ring buffer");
    events.ready().await.expect("a ring buffer that can be polled");
    let mut seen = Vec::new();
    events.take(usize::MAX, |event| seen.push(*event));
    assert_eq!(seen.len(), ways.len());
    for (way, event) in seen.into_iter().enumerate() {
        assert_eq!(event.packet, packet);
        assert_eq!(IpAddr::from(event.source) == v6, way >= 4);
        assert!(event.time_ns > 0);
    }
}

#[test]
fn each_reason_to_refuse_a_sealed_packet_has_its_own_counter() {
    let now = now_ns();
    let mut bench = bench(now - 10 * SECOND);
    let good = packet(ID, KEY, now);
    assert_eq!(fate(&mut bench, &good[..SIZE - 1]), Fate::WrongSize);
    assert_eq!(fate(&mut bench, &[&good[..], &[0]].concat()), Fate::WrongSize);
    assert_eq!(fate(&mut bench, &[]), Fate::WrongSize);
    assert_eq!(fate(&mut bench, &packet(ID + 1, KEY, now)), Fate::UnknownKey);
    assert_eq!(fate(&mut bench, &packet(ID, SipKey([1, 2]), now)), Fate::WrongTag);
    assert_eq!(fate(&mut bench, &packet(ID, KEY, now - 120 * SECOND)), Fate::WrongTime);
    assert_eq!(fate(&mut bench, &packet(ID, KEY, now + 120 * SECOND)), Fate::WrongTime);
    assert_eq!(fate(&mut bench, &packet(ID, KEY, 0)), Fate::WrongTime);
    assert_eq!(fate(&mut bench, &packet(ID, KEY, u64::MAX)), Fate::WrongTime);
    assert_eq!(fate(&mut bench, &packet(ID, KEY, now - 10 * SECOND)), Fate::Replayed);
    assert_eq!(fate(&mut bench, &packet(ID, KEY, now - 10 * SECOND + 1)), Fate::Passed);
    assert_eq!(fate(&mut bench, &good), Fate::Passed);
    // Once the agent has accepted it, a flood of copies ends here.
    let detector = &mut bench.detector;
    detector.set_gate(ID, Gate { prefilter: KEY, newest_ns: now }).unwrap();
    assert_eq!(fate(&mut bench, &good), Fate::Replayed);
    bench.detector.remove_gate(ID).unwrap();
    bench.detector.remove_gate(ID).unwrap();
    assert_eq!(fate(&mut bench, &good), Fate::UnknownKey);
}

#[test]
fn a_packet_with_any_bit_changed_goes_no_further() {
    let mut bench = bench(0);
    let good = packet(ID, KEY, now_ns());
    for bit in 0..SIZE * 8 {
        let mut flipped = good;
        flipped[bit / 8] ^= 1 << (bit % 8);
        let expected = if bit < 64 { Fate::UnknownKey } else { Fate::WrongTag };
        assert_eq!(fate(&mut bench, &flipped), expected, "bit {bit}");
    }
    assert_eq!(fate(&mut bench, &good), Fate::Passed);
}

/// Cut anywhere, with the length in the header as it was.
#[test]
fn a_truncated_frame_is_not_a_knock() {
    let mut bench = bench(0);
    let whole = frame(stranger(), &packet(ID, KEY, now_ns()));
    for length in (14..whole.len()).step_by(3) {
        let (verdict, counter) = bench.send(&whole[..length]);
        assert_eq!(verdict, PASS);
        assert_ne!(counter, Counter::Sealed(Fate::Passed), "{length} bytes");
    }
    let mut lying = whole.clone();
    for length in [0u16, 7, 8, 191, 193, 0xffff] {
        lying[38..40].copy_from_slice(&length.to_be_bytes());
        assert_ne!(bench.send(&lying).1, Counter::Sealed(Fate::Passed), "{length}");
    }
    assert_eq!(bench.send(&whole).1, Counter::Sealed(Fate::Passed));
}

#[test]
fn a_full_ring_buffer_is_counted() {
    let mut bench = bench(0);
    let good = packet(ID, KEY, now_ns());
    let sent = (0..1000).filter(|_| fate(&mut bench, &good) == Fate::Passed).count();
    assert!((500..700).contains(&sent), "{sent}");
    assert_eq!(fate(&mut bench, &good), Fate::EventLost);
}

#[test]
fn a_host_that_drops_knocks_drops_sealed_ones_too() {
    let mut bench = with_knocks(0, Knocks::Drop);
    let good = packet(ID, KEY, now_ns());
    let passed = bench.send(&frame(stranger(), &good));
    assert_eq!(passed, (DROP, Counter::Sealed(Fate::Passed)));
    let forged = bench.send(&frame(stranger(), &[0; SIZE]));
    assert_eq!(forged, (DROP, Counter::Sealed(Fate::UnknownKey)));
    let tcp = crate::knock(stranger(), Step::new(Protocol::Tcp, PORT.port));
    assert_eq!(bench.send(&tcp).0, PASS, "the TCP port of that number is another one");
}

#[test]
fn the_kernel_computes_siphash_as_the_host_does() {
    let bench = RefCell::new(bench(0));
    let mut runner = proptest::test_runner::TestRunner::default();
    let cases = (any::<[u64; 2]>(), any::<[u8; 32]>(), -59i64..59);
    let result = runner.run(&cases, |(key, fill, off)| {
        let key = SipKey(key);
        let time_ns = now_ns().saturating_add_signed(off * 1_000_000_000);
        let mut packet: [u8; SIZE] =
            std::array::from_fn(|at| fill[at % 32].wrapping_mul(at as u8 | 1));
        packet[..8].copy_from_slice(&ID.to_le_bytes());
        set_time(&mut packet, key, time_ns);
        set_tag(&mut packet, key);
        let mut bench = bench.borrow_mut();
        bench.detector.set_gate(ID, Gate { prefilter: key, newest_ns: time_ns }).expect("a key");
        // Passes the tag and shows its time, or it would not be this fate.
        prop_assert_eq!(fate(&mut bench, &packet), Fate::Replayed);
        Ok(())
    });
    result.expect("the kernel agrees");
}

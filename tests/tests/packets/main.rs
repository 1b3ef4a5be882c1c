//! Packets through the real program with `BPF_PROG_TEST_RUN`: their counters, their events, and the
//! comparison with the parser on the host.

mod differential;
mod hazards;
mod knocks;
mod rows;
mod sealed;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use knock_common::counters::Counter;
use knock_common::event::Event;
use knock_common::sequence::{PortClass, Protocol, Step};
use knock_detector::{Detector, Settings};
use knock_lab::Packet;
use knock_policy::compile::{Compiled, Served, compile};
use knock_policy::{Door, Knocks, Policy, Service};

/// `XDP_DROP` and `XDP_PASS` of `linux/bpf.h`.
const DROP: u32 = 1;
const PASS: u32 = 2;

const A: Step = Step::new(Protocol::Tcp, 7000);
const B: Step = Step::new(Protocol::Udp, 8000);
const C: Step = Step::new(Protocol::Tcp, 9000);

/// A loaded detector with one or more doors, attached to nothing.
struct DetectorRig {
    detector: Detector,
    compiled: Compiled,
}

impl DetectorRig {
    fn new(doors: &[&[Step]]) -> Self {
        Self::with(doors, Knocks::Pass, Duration::from_secs(10))
    }

    fn with(doors: &[&[Step]], knocks: Knocks, within: Duration) -> Self {
        Self::with_sealed(doors, knocks, within, &[])
    }

    /// Loads a detector that also has these UDP ports for sealed knocks.
    fn with_sealed(doors: &[&[Step]], knocks: Knocks, within: Duration, sealed: &[u16]) -> Self {
        let doors = doors.iter().enumerate().map(|(index, sequence)| Door {
            within,
            ..Door::new(
                format!("door{index}"),
                vec![Service::new(Protocol::Tcp, 22)],
                sequence.to_vec(),
            )
        });
        let policy = Policy { doors: doors.collect(), knocks, ..Policy::default() };
        let mut compiled = compile(&policy, &Served::default(), [7; 32]).expect("doors compile");
        for &port in sealed {
            let entry = &mut compiled.classes[usize::from(port)];
            *entry = PortClass::SEALED.add_to(0, Protocol::Udp) | (*entry & 0xf);
        }
        let settings = Settings {
            strays: policy.strays,
            max_sources: 1024,
            knocks,
            trace: false,
            hash_key: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
        };
        let detector = Detector::load(&compiled, settings).expect("the kernel takes the program");
        Self { detector, compiled }
    }

    /// Runs the program on one frame. Returns its verdict and the counter in which the packet
    /// ended.
    fn send(&mut self, frame: &[u8]) -> (u32, Counter) {
        let before = self.detector.totals().expect("counters");
        let (verdict, _) = self.detector.test_run(frame, 1).expect("test run");
        let after = self.detector.totals().expect("counters");
        let mut ends = Counter::all().filter(|&end| after.get(end) > before.get(end));
        let end = ends.next().expect("every packet is counted");
        assert_eq!(ends.next(), None, "a packet is counted once");
        assert_eq!(after.packets(), before.packets() + 1);
        (verdict, end)
    }

    /// Sends the steps in order from `source` and returns the outcomes' names.
    fn knock(&mut self, source: IpAddr, steps: &[Step]) -> Vec<&'static str> {
        steps.iter().map(|&step| self.send(&knock(source, step)).1.name()).collect()
    }

    /// Returns every event that waits now.
    async fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut ring = self.detector.events().expect("ring buffer");
        loop {
            let read = ring.read(1 << 16, |event| events.push(event));
            let Ok(read) = tokio::time::timeout(Duration::from_millis(1), read).await else {
                break;
            };
            read.expect("ring buffer can be polled");
        }
        events
    }

    /// Returns a port of `protocol` that is of no interest to the detector.
    fn quiet(&self, protocol: Protocol) -> Step {
        (1..=u16::MAX)
            .map(|port| Step::new(protocol, port))
            .find(|step| {
                PortClass::of(self.compiled.classes[usize::from(step.port)], protocol).is_none()
            })
            .expect("most ports are quiet")
    }

    /// Returns a port of `protocol` that is a decoy.
    fn decoy(&self, protocol: Protocol) -> Step {
        (1..=u16::MAX)
            .map(|port| Step::new(protocol, port))
            .find(|step| {
                let entry = self.compiled.classes[usize::from(step.port)];
                PortClass::of(entry, protocol) == PortClass::DECOY
            })
            .expect("some ports are decoys")
    }
}

/// The server's addresses.
const SERVER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Returns a packet from `source` to the server.
fn packet(source: IpAddr) -> Packet {
    Packet::between(source, if source.is_ipv4() { SERVER_V4 } else { SERVER_V6 })
}

/// Returns a plain knock on `step` from `source`.
fn knock(source: IpAddr, step: Step) -> Vec<u8> {
    packet(source).knock(step)
}

/// Returns an address that no other test uses.
fn stranger() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [_, b, c, d] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    IpAddr::from([10, b, c, d])
}

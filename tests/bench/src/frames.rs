//! Frames, and the events that they cause.

use std::net::IpAddr;
use std::time::Duration;

use knock_common::sequence::{PortClass, Protocol, Step};
use knock_common::traffic::FRAME;
use knock_detector::Detector;
use knock_lab::Packet;
use knock_lab::packet::tagged;
use knock_policy::compile::Compiled;

/// Returns the frame that the varying programs change, to a hardware address that no host has.
pub(crate) fn template() -> [u8; FRAME] {
    knock_lab::lab::template([0x02, 0, 0, 0, 0, 0xff])
}

/// Returns frames that are not a knock, by name.
pub(crate) fn not_a_knock(compiled: &Compiled) -> Vec<(&'static str, Vec<u8>)> {
    let class = |step: Step| PortClass::of(compiled.classes[usize::from(step.port)], step.protocol);
    let quiet = |protocol| {
        let mut all = (1..=u16::MAX).map(|port| Step::new(protocol, port));
        all.find(|&step| class(step).is_none()).expect("a quiet port")
    };
    let (udp, tcp) = (quiet(Protocol::Udp), quiet(Protocol::Tcp));
    let mut data = frame(false, tcp);
    // ACK in place of SYN. The checksum stays that of the SYN: the program does not read it.
    data[47] = 0x10;
    let plain = frame(false, udp);
    let vlan = tagged(&plain, &[0x8100]);
    vec![
        ("UDP", plain),
        ("TCP data", data),
        ("SYN to a port of no interest", frame(false, tcp)),
        ("UDP over IPv6", frame(true, udp)),
        ("UDP in a VLAN", vlan),
    ]
}

/// Returns a frame of 64 bytes (84 over IPv6) to `step`, always from one source.
pub(crate) fn frame(v6: bool, step: Step) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = match v6 {
        true => ([0xfd; 16].into(), [0xfc; 16].into()),
        false => ([198, 51, 100, 7].into(), [192, 0, 2, 1].into()),
    };
    Packet::between(from, to).of_length(FRAME).knock(step)
}

/// Takes all events out of the ring buffer.
pub(crate) fn drain(detector: &mut Detector) {
    thread_local! {
        static EVENTS: std::cell::RefCell<Option<Reader>> = const { std::cell::RefCell::new(None) };
    }
    EVENTS.with_borrow_mut(|reader| {
        reader.get_or_insert_with(|| Reader::new(detector)).drain();
    });
}

struct Reader {
    runtime: tokio::runtime::Runtime,
    events: knock_detector::Events,
}

impl Reader {
    fn new(detector: &mut Detector) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("an event loop");
        let events = {
            let _guard = runtime.enter();
            detector.events().expect("the ring buffer")
        };
        Self { runtime, events }
    }

    fn drain(&mut self) {
        self.runtime.block_on(async {
            let wait = Duration::from_millis(1);
            while tokio::time::timeout(wait, self.events.read(1 << 16, |_| {})).await.is_ok() {}
        });
    }
}

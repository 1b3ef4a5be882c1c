//! Frames, and draining what they caused.

use std::time::Duration;

use etherparse::PacketBuilder;
use knock_common::sequence::{PortClass, Protocol, Step};
use knock_common::traffic::FRAME;
use knock_detector::Detector;
use knock_policy::compile::Compiled;

/// What the varying programs change, to the hardware address of nobody.
pub(crate) fn template() -> [u8; FRAME] {
    knock_lab::lab::template([0x02, 0, 0, 0, 0, 0xff])
}

/// Frames that are no knock, by name.
pub(crate) fn no_knock(compiled: &Compiled) -> Vec<(&'static str, Vec<u8>)> {
    let class = |step: Step| PortClass::of(compiled.classes[usize::from(step.port)], step.protocol);
    let quiet = |protocol| {
        let mut all = (1..=u16::MAX).map(|port| Step::new(protocol, port));
        all.find(|&step| class(step).is_none()).expect("a quiet port")
    };
    let (udp, tcp) = (quiet(Protocol::Udp), quiet(Protocol::Tcp));
    let mut data = frame(false, tcp);
    data[47] = 0x10;
    let plain = frame(false, udp);
    let vlan = [&plain[..12], &[0x81, 0, 0, 7], &plain[12..]].concat();
    vec![
        ("UDP", plain),
        ("TCP data", data),
        ("SYN to a port of no interest", frame(false, tcp)),
        ("UDP over IPv6", frame(true, udp)),
        ("UDP in a VLAN", vlan),
    ]
}

/// 64 bytes to `step`, always from one source.
pub(crate) fn frame(v6: bool, step: Step) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ip = if v6 {
        ethernet.ipv6([0xfd; 16], [0xfc; 16], 64)
    } else {
        ethernet.ipv4([198, 51, 100, 7], [192, 0, 2, 1], 64)
    };
    let mut frame = Vec::new();
    match step.protocol {
        Protocol::Tcp => ip.tcp(40_000, step.port, 1, 1000).syn().write(&mut frame, &[0; 10]),
        Protocol::Udp => ip.udp(40_000, step.port).write(&mut frame, &[0; 22]),
    }
    .expect("a frame in memory");
    frame
}

/// Takes everything out of the ring buffer.
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

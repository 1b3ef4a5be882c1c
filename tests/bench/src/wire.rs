//! A veth pair with a generator at one end and a receiver at the other, and the count of frames
//! that arrive.

use std::time::{Duration, Instant};

use knock_common::traffic::{FRAME, Pattern};
use knock_detector::Traffic;
use knock_lab::Lab;
use knock_lab::lab::SERVER_PORT;
use knock_lab::netns::Netns;
use knock_output::note;

/// If no frame arrives for so long, none will. No event says so.
const PAUSE: Duration = Duration::from_millis(50);

/// Frames that end at the receiver's driver or right behind it: for another host's hardware
/// address, so that the stack drops what XDP lets pass as early as it can. What XDP costs
/// weighs most that way.
pub(crate) fn noise() -> (Pattern, [u8; FRAME]) {
    (Pattern::new(0x1000_0000, 0x0fff_ffff, true, &[]), crate::frames::template())
}

/// Returns the number of packets that `eth0` has received.
pub(crate) fn received(netns: &Netns) -> u64 {
    let text = netns.ip("-statistics -json link show dev eth0");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json[0]["stats64"]["rx"]["packets"].as_u64().expect("a number")
}

/// Sends frames from the switch's port to the server and measures how many a second arrive.
///
/// The receiver's queue has 256 places, and when its work is left to a kernel thread, a
/// queue can run over. Such a run is reported and repeated: its rate would be too good.
///
/// # Panics
///
/// If frames get lost every time.
pub(crate) fn rate(lab: &Lab, pattern: Pattern, frame: [u8; FRAME], count: u32) -> f64 {
    const ATTEMPTS: usize = 20;
    for _ in 0..ATTEMPTS {
        let before = received(&lab.server);
        let took = send(lab, pattern, frame, count);
        if arrive(lab, before + u64::from(count)) {
            return f64::from(count) / took.as_secs_f64();
        }
        note!("  (frames were lost on the wire; once more)");
    }
    panic!("frames were lost on the wire {ATTEMPTS} times in a row");
}

/// Returns whether the server has received `wanted` packets by the time when no more come.
fn arrive(lab: &Lab, wanted: u64) -> bool {
    let (mut last, mut came) = (received(&lab.server), Instant::now());
    while last < wanted {
        let now = received(&lab.server);
        if now > last {
            (last, came) = (now, Instant::now());
        } else if came.elapsed() > PAUSE {
            return false;
        }
    }
    true
}

/// Sends frames from the switch's port to the server and returns how long that took.
pub(crate) fn send(lab: &Lab, pattern: Pattern, frame: [u8; FRAME], count: u32) -> Duration {
    lab.switch().run(move || {
        let mut traffic = Traffic::load().expect("the generator");
        traffic.set_pattern(pattern).expect("a pattern");
        let port = nix::net::if_::if_nametoindex(SERVER_PORT).expect("the port");
        let started = Instant::now();
        traffic.send(port, &frame, count).expect("the kernel takes the frames");
        started.elapsed()
    })
}

//! Honest knocks under a spoofed flood of first steps.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use knock_common::sequence::{Protocol, Step};
use knock_common::traffic::Pattern;
use knock_detector::{Nothing, Traffic};
use knock_lab::Lab;
use knock_lab::lab::{SERVER_PORT, template};
use knock_lab::process::patience;
use knock_lab::services::Echo;

use crate::clients::{KNOCKS, SERVICE, addresses, knock};
use crate::peers::{Knocker, Running};
use crate::report::{Report, Unit, Value};

pub(crate) const SECTION: &str = "Honest knocks under a flood of first steps";
/// Receive queues of the server's interface. With a single one, the flood fills its 256
/// places, and honest packets are lost before any program sees them.
const QUEUES: u32 = 8;
/// The frames that come before the first knock, or those of one second where that is less.
const FILLED: u32 = 1_500_000;
/// The case of the highest rate.
pub(crate) const FULL: &str = "full rate";

/// The number of honest knocks for a cell of the table, and the rates of the flood.
#[derive(Clone, Copy)]
pub(crate) struct Effort<'a> {
    pub knocks: u8,
    pub rates: &'a [Option<u32>],
}

pub(crate) fn measure(report: &mut Report, effort: Effort<'_>) {
    report.section(
        SECTION,
        &format!(
            "Spoofed UDP datagrams to the first port, from random sources, and {} honest knocks of \
             three steps, each from an address of its own; those that open, in percent. The last \
             column is what the generator sent. The server's veth has {QUEUES} receive queues.",
            effort.knocks
        ),
    );
    for knocker in Knocker::ALL {
        for &rate in effort.rates {
            for gap in [20, 200] {
                let case = format!("{}, {gap} ms between steps", name(rate));
                match one(knocker, rate, Duration::from_millis(gap), effort.knocks) {
                    Ok((share, sent)) => {
                        let share = Value::new(share, Unit::Percent);
                        report.add(SECTION, &case, knocker.name(), share);
                        if knocker == Knocker::Xknock {
                            let sent = Value::new(sent / 1e6, Unit::MegaPacketsPerSecond);
                            report.add(SECTION, &case, "sent", sent);
                        }
                    }
                    Err(reason) => return report.skip(SECTION, knocker.name(), &reason),
                }
            }
        }
    }
}

pub(crate) fn name(rate: Option<u32>) -> String {
    match rate {
        Some(rate) if rate >= 1_000_000 => format!("{} M/s", rate / 1_000_000),
        Some(rate) => format!("{} k/s", rate / 1000),
        None => FULL.to_owned(),
    }
}

/// Returns the share of knocks that open, in percent, and the frames sent a second.
fn one(
    knocker: Knocker,
    rate: Option<u32>,
    gap: Duration,
    knocks: u8,
) -> Result<(f64, f64), String> {
    let lab = Lab::with_queues(QUEUES);
    let _service = Echo::start(&lab.server, SERVICE);
    addresses(&lab, knocks);
    let running = knocker.start(&lab)?;
    // Generated frames arrive only where an XDP program runs.
    let _nothing = match running {
        Running::Xknock { .. } => None,
        _ => Some(lab.server.run(|| Nothing::attach("eth0").expect("the empty program"))),
    };
    let flood = Flood::start(&lab, Pattern::new(0x1000_0000, 0x0fff_ffff, true, &[FIRST]), rate);
    // Before the first knock, tables are full and queues are long.
    flood.await_sent(rate.map_or(FILLED, |rate| rate.min(FILLED)));
    let server = lab.server.v4;
    let clients: Vec<_> = (0..knocks)
        .map(|n| {
            let delay = Duration::from_millis(40) * n.into();
            lab.client.spawn(move || {
                // The pace at which clients come, not a wait for an event.
                std::thread::sleep(delay);
                knock(n, server, gap, Duration::from_secs(1)).is_some()
            })
        })
        .collect();
    let opened = clients.into_iter().map(|client| client.join().expect("a client"));
    let opened = opened.filter(|open| *open).count();
    let share = 100.0 * opened as f64 / f64::from(knocks);
    Ok((share, flood.stop()))
}

const FIRST: Step = Step::new(Protocol::Udp, KNOCKS[0]);

/// Generated frames until it is stopped.
pub(crate) struct Flood {
    stop: Sender<()>,
    sent: Arc<Sent>,
    started: Instant,
    thread: std::thread::JoinHandle<()>,
}

/// The number of frames that were sent, for threads that wait for more.
#[derive(Default)]
struct Sent {
    count: Mutex<u64>,
    more: Condvar,
}

impl Sent {
    fn count(&self) -> MutexGuard<'_, u64> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, frames: u32) {
        *self.count() += u64::from(frames);
        self.more.notify_all();
    }
}

impl Flood {
    /// Sends frames to the server, `rate` a second, or as fast as it goes.
    pub(crate) fn start(lab: &Lab, pattern: Pattern, rate: Option<u32>) -> Self {
        let ((stop, stopped), sent) = (channel(), Arc::new(Sent::default()));
        let frame = template(lab.server.mac());
        let thread = lab.switch().spawn({
            let sent = Arc::clone(&sent);
            move || {
                let mut traffic = Traffic::load().expect("the generator");
                traffic.set_pattern(pattern).expect("a pattern");
                let port = nix::net::if_::if_nametoindex(SERVER_PORT).expect("the port");
                let started = Instant::now();
                let mut pause = Duration::ZERO;
                while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    let so_far = *sent.count();
                    let count = match rate {
                        None => 200_000,
                        Some(rate) => {
                            let due = (started.elapsed().as_secs_f64() * f64::from(rate)) as u64;
                            due.saturating_sub(so_far).min(200_000) as u32
                        }
                    };
                    if count < 32 {
                        // The pace of the flood: nothing is due yet.
                        pause = Duration::from_millis(1);
                        continue;
                    }
                    pause = Duration::ZERO;
                    traffic.send(port, &frame, count).expect("the kernel takes the frames");
                    sent.add(count);
                }
            }
        });
        Self { stop, sent, started: Instant::now(), thread }
    }

    /// Waits until it has sent this many frames.
    pub(crate) fn await_sent(&self, frames: u32) {
        let few = |sent: &mut u64| *sent < frames.into();
        let waited = self.sent.more.wait_timeout_while(self.sent.count(), patience(), few);
        let (sent, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "no flood in time: {sent} of {frames} frames");
    }

    /// Stops it and returns the frames that it sent a second.
    pub(crate) fn stop(self) -> f64 {
        let took = self.started.elapsed();
        let sent = *self.sent.count();
        drop(self.stop);
        let _ = self.thread.join();
        sent as f64 / took.as_secs_f64()
    }
}

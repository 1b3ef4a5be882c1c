//! Bursts of completed knocks, and an idle agent.

use std::time::{Duration, Instant};

use knock_common::sequence::{Protocol, Step};
use knock_common::traffic::Pattern;
use knock_lab::table::Changes;
use knock_lab::{Agent, Lab};

use crate::clients::KNOCKS;
use crate::memory;
use crate::peers::xknock_config;
use crate::report::{Report, Unit, Value};
use crate::wire::{noise, rate, send};

pub(crate) const SECTION: &str = "Grants";
pub(crate) const IDLE: &str = "Idle agent";
const SUBJECT: &str = "xknock";
/// 16.0.0.0.
const FIRST: u32 = 0x1000_0000;

fn steps() -> [Step; 3] {
    KNOCKS.map(|port| Step::new(Protocol::Udp, port))
}

pub(crate) fn burst(report: &mut Report, clients: u32) {
    report.section(
        SECTION,
        &format!(
            "{clients} sources knock at line rate, one after the other, until the kernel's set holds \
             a grant for each."
        ),
    );
    let lab = Lab::new();
    let agent = Agent::start(&lab.server, xknock_config(1 << 20));
    let process = agent.process().id();
    let before = memory::cpu_seconds(process);
    let mut changes = Changes::of(&lab.server);
    let rounds = 3;
    let mut rates = Vec::new();
    let mut working = Duration::ZERO;
    for round in 0..rounds {
        let first = FIRST + (round << 20);
        let pattern = Pattern::new(first, 0xf_ffff, false, &steps());
        let began = Instant::now();
        send(&lab, pattern, crate::frames::template(), 3 * clients);
        let took = await_rest(&mut changes).duration_since(began);
        await_grants(&lab, clients * (round + 1));
        rates.push(f64::from(clients) / took.as_secs_f64());
        working += took;
    }
    let sustained = f64::from(clients * rounds) / working.as_secs_f64();
    let cpu = (memory::cpu_seconds(process) - before) / f64::from(rounds);
    let best = rates.iter().copied().fold(0.0, f64::max);
    let mut add =
        |case: &str, number, unit| report.add(SECTION, case, SUBJECT, Value::new(number, unit));
    add("a burst, best of three", best, Unit::PerSecond);
    add("three bursts in a row", sustained, Unit::PerSecond);
    add("agent, CPU time for a burst", 1000.0 * cpu, Unit::Milliseconds);
    add("agent, resident afterwards", memory::resident(process), Unit::Mebibytes);
    let counters = agent.stop();
    let lost = counters.get("event_lost");
    report.add(
        SECTION,
        "knocks that had to be repeated",
        SUBJECT,
        Value::new(lost as f64, Unit::Count),
    );
}

/// Waits until no more grants come, and returns when the last ones were in the table.
fn await_rest(changes: &mut Changes) -> Instant {
    const REST: Duration = Duration::from_millis(200);
    let mut last = Instant::now();
    while changes.next(REST) {
        last = Instant::now();
    }
    last
}

/// Waits until the set holds `wanted` grants, by its own count.
fn await_grants(lab: &Lab, wanted: u32) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last_try = Instant::now();
    loop {
        let held = lab.server.run(|| {
            let mut firewall = knock_firewall::Firewall::open().expect("nf_tables");
            let status = firewall.status().expect("the table can be read");
            status.map_or(0, |status| status.grants.len())
        });
        if held >= wanted as usize {
            return;
        }
        assert!(Instant::now() < deadline, "{held} of {wanted} grants");
        if last_try.elapsed() > Duration::from_secs(3) {
            // A knock that found the ring buffer full counts with its last step.
            let pattern = Pattern::new(FIRST, 0x3f_ffff, false, &steps()[2..]);
            send(lab, pattern, crate::frames::template(), 1 << 22);
            last_try = Instant::now();
        }
    }
}

/// Measures how often traffic without a complete knock wakes the agent.
pub(crate) fn idle(report: &mut Report, frames: u32) {
    report.section(
        IDLE,
        &format!("{frames} frames of noise, then as many first steps, from random sources."),
    );
    let lab = Lab::new();
    let agent = Agent::start(&lab.server, xknock_config(65_536));
    let process = agent.process().id();
    let before = memory::sleeps(process);
    let first = Pattern::new(FIRST, 0x0fff_ffff, true, &steps()[..1]);
    for pattern in [noise().0, first] {
        rate(&lab, pattern, crate::frames::template(), frames);
    }
    let woken = memory::sleeps(process) - before;
    report.add(IDLE, "times woken", SUBJECT, Value::new(woken, Unit::Count));
    report.add(IDLE, "resident", SUBJECT, Value::new(memory::resident(process), Unit::Mebibytes));
}

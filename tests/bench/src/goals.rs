//! The goals of xknock.

use knock_detector::VerifierStats;

use crate::report::{Report, Unit, Value};
use crate::{cost, flood, grants, keys, open, throughput, verifier};

/// Adds the goals whose figures were measured.
pub(crate) fn judge(report: &mut Report) {
    let ours = cost::ONE_DOOR;
    let packets =
        ["UDP", "TCP data", "SYN to a port of no interest", "UDP over IPv6", "UDP in a VLAN"];
    let worst = |report: &Report, subject: &str| {
        let all = packets.iter().filter_map(|packet| report.get(cost::SECTION, packet, subject));
        all.fold(None, |worst: Option<f64>, ns| Some(worst.map_or(ns, |worst| worst.max(ns))))
    };
    at_most(
        report,
        "packet that is no knock, over the empty program",
        worst(report, ours),
        3.0,
        Unit::Nanoseconds,
    );
    let (one, many) = (worst(report, ours), worst(report, cost::MANY_DOORS));
    let empty = report.get(cost::SECTION, "the empty program itself", ours);
    if let (Some(one), Some(many), Some(empty)) = (one, many, empty) {
        let ratio = 100.0 * (many + empty) / (one + empty);
        at_most(
            report,
            "the same with 10,000 doors, of one door",
            Some(ratio),
            110.0,
            Unit::Percent,
        );
    }
    for (case, limit) in [
        ("decoy, no progress", 50.0),
        ("next step", 50.0),
        ("completed, event included", 50.0),
        ("first step, new source, table full", 100.0),
    ] {
        let ns = report.get(cost::SECTION, case, ours);
        at_most(report, &format!("{case}, over the empty program"), ns, limit, Unit::Nanoseconds);
    }
    let share = report.get(throughput::SECTION, "share of the empty program", "xknock");
    at_least(report, "throughput under noise, of the empty program", share, 97.0, Unit::Percent);
    at_most(
        report,
        "instructions that the verifier reads",
        report.get(verifier::SECTION, verifier::READ, "xknock"),
        f64::from(VerifierStats::BUDGET),
        Unit::Count,
    );
    for (gap, limit) in [("20 ms", 99.0), ("200 ms", 95.0)] {
        let case = format!("{}, {gap} between steps", flood::FULL);
        let share = report.get(flood::SECTION, &case, "xknock");
        at_least(report, &format!("honest knocks that open, {case}"), share, limit, Unit::Percent);
    }
    for (subject, case, limit) in [
        ("xknock, idle", "median", 0.5),
        ("xknock, idle", "p99", 3.0),
        ("xknock, 1 M/s noise", "p99", 20.0),
    ] {
        let ms = report.get(open::SECTION, case, subject);
        let what = format!("last knock to first answer, {subject}, {case}");
        at_most(report, &what, ms, limit, Unit::Milliseconds);
    }
    let rate = report.get(grants::SECTION, "a burst, best of three", "xknock");
    at_least(report, "grants in a burst", rate, 100_000.0, Unit::PerSecond);
    let lost = report.get(grants::SECTION, "knocks that had to be repeated", "xknock");
    at_most(report, "knocks of a burst that had to be repeated", lost, 0.0, Unit::Count);
    for case in [keys::FORGED, keys::OLD] {
        let ns = report.get(keys::SECTION, case, "10,000 keys");
        let what = format!("sealed knock, {case}, 10,000 keys, over no knock");
        at_most(report, &what, ns, 200.0, Unit::Nanoseconds);
        let woken = report.get(keys::SECTION, case, "agent, woken");
        let what = format!("times that a million of those woke the agent: {case}");
        at_most(report, &what, woken, 0.0, Unit::Count);
    }
    let swap = report.get(keys::MANY, keys::SWAP, keys::SUBJECT);
    at_most(report, "a new time slot of 10,000 keys", swap, 500.0, Unit::Milliseconds);
    let woken = report.get(grants::IDLE, "times woken", "xknock");
    at_most(report, "times that idle traffic woke the agent", woken, 0.0, Unit::Count);
    let resident = report.get(grants::IDLE, "resident", "xknock");
    at_most(report, "idle agent, resident", resident, 15.0, Unit::Mebibytes);
}

fn at_most(report: &mut Report, what: &str, value: Option<f64>, limit: f64, unit: Unit) {
    let wanted = format!("at most {}", Value::new(limit, unit));
    if let Some(value) = value {
        report.goal(what, &wanted, Value::new(value, unit), value <= limit);
    }
}

fn at_least(report: &mut Report, what: &str, value: Option<f64>, limit: f64, unit: Unit) {
    let wanted = format!("at least {}", Value::new(limit, unit));
    if let Some(value) = value {
        report.goal(what, &wanted, Value::new(value, unit), value >= limit);
    }
}

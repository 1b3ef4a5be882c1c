//! The time from the last knock to the first answer of the service.

use std::time::Duration;

use knock_lab::Lab;
use knock_lab::services::Echo;

use crate::clients::{SERVICE, addresses, knock};
use crate::flood::Flood;
use crate::peers::Knocker;
use crate::report::{Report, Unit, Value};
use crate::stats::quantile;
use crate::wire::noise;

pub(crate) const SECTION: &str = "Last knock to first answer";

/// The frames after which a flood has begun.
const BEGUN: u32 = 100_000;

pub(crate) fn measure(report: &mut Report, knocks: u8) {
    report.section(
        SECTION,
        &format!(
            "{knocks} knocks over veth without a pause, each from an address without a grant."
        ),
    );
    one(report, Knocker::Xknock, "idle", None, knocks);
    one(report, Knocker::Xknock, "1 M/s noise", Some(1_000_000), knocks);
    one(report, Knocker::Knockd, "idle", None, knocks.min(60));
    one(report, Knocker::Nft, "idle", None, knocks.min(60));
}

fn one(report: &mut Report, knocker: Knocker, when: &str, rate: Option<u32>, knocks: u8) {
    let lab = Lab::new();
    let _service = Echo::start(&lab.server, SERVICE);
    addresses(&lab, knocks);
    let _running = match knocker.start(&lab) {
        Ok(running) => running,
        Err(reason) => return report.skip(SECTION, knocker.name(), &reason),
    };
    let flood = rate.map(|rate| Flood::start(&lab, noise().0, Some(rate)));
    if let Some(flood) = &flood {
        flood.await_sent(BEGUN);
    }
    let server = lab.server.v4;
    let mut times: Vec<_> = lab.client.run(move || {
        let patience = Duration::from_secs(5);
        (0..knocks).filter_map(|n| knock(n, server, Duration::ZERO, patience)).collect()
    });
    if let Some(flood) = flood {
        flood.stop();
    }
    let subject = format!("{}, {when}", knocker.name());
    let opened = 100.0 * times.len() as f64 / f64::from(knocks);
    report.add(SECTION, "opened", &subject, Value::new(opened, Unit::Percent));
    if times.is_empty() {
        return;
    }
    for (case, share) in [("median", 0.5), ("p99", 0.99)] {
        let value = Value::new(quantile(&mut times, share), Unit::Milliseconds);
        report.add(SECTION, case, &subject, value);
    }
}

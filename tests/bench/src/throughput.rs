//! Throughput of a veth pair, and how it changes with doors and sources.

use knock_common::sequence::{Protocol, Step};
use knock_common::traffic::Pattern;
use knock_detector::Nothing;
use knock_lab::{Agent, ConfigText, Lab};
use knock_policy::compile::draw_sequence;

use crate::clients::SERVICE;
use crate::memory;
use crate::peers::attach_filter;
use crate::report::{Report, Unit, Value};
use crate::stats::median;
use crate::wire::{noise, rate};

pub(crate) const SECTION: &str = "Throughput on veth";
pub(crate) const DOORS: &str = "Scale: doors";
pub(crate) const SOURCES: &str = "Scale: sources in progress";

/// Rounds, and frames in each.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub rounds: usize,
    pub frames: u32,
    pub largest: u32,
}

/// A receiver with something attached to its interface.
struct Subject {
    name: &'static str,
    /// Detaches when dropped, before its host goes.
    attached: Box<dyn std::any::Any>,
    lab: Lab,
    rates: Vec<f64>,
}

pub(crate) fn measure(report: &mut Report, effort: Effort) {
    report.section(
        SECTION,
        "64-byte UDP frames from random sources to random ports, generated in XDP on one CPU, which \
         also receives them; all pass and are dropped at the bottom of the stack.",
    );
    let mut subjects = vec![empty("empty program")];
    match filter() {
        Ok(subject) => subjects.push(subject),
        Err(reason) => report.skip(SECTION, "xdp-filter", &reason),
    }
    subjects.push(agent("xknock", config(1, 65_536)));
    for _ in 0..effort.rounds {
        for subject in &mut subjects {
            let (pattern, frame) = noise();
            subject.rates.push(rate(&subject.lab, pattern, frame, effort.frames));
        }
    }
    let rates: Vec<_> =
        subjects.iter().map(|one| (one.name, median(&mut one.rates.clone()))).collect();
    for (name, rate) in &rates {
        report.add(
            SECTION,
            "random noise",
            name,
            Value::new(rate / 1e6, Unit::MegaPacketsPerSecond),
        );
    }
    for subject in &subjects[1..] {
        let share = Value::new(share(subject, &subjects[0]), Unit::Percent);
        report.add(SECTION, "share of the empty program", subject.name, share);
    }
}

/// Returns the median of the shares of each round, in percent.
fn share(subject: &Subject, base: &Subject) -> f64 {
    let rounds = subject.rates.iter().zip(&base.rates);
    median(&mut rounds.map(|(rate, base)| 100.0 * rate / base).collect::<Vec<_>>())
}

/// Measures throughput with more doors, and with more sources in progress.
pub(crate) fn scale(report: &mut Report, effort: Effort) {
    report.section(DOORS, "The same noise. Maps as the kernel accounts for them, agent resident.");
    for doors in [1, 100, 10_000].into_iter().filter(|doors| *doors <= effort.largest) {
        let mut empty = empty("empty program");
        let mut subject = agent("xknock", config(doors, 65_536));
        compare(report, DOORS, &doors.to_string(), &mut empty, &mut subject, effort);
    }
    report.section(
        SOURCES,
        "The same noise after so many sources have sent their first two steps, `max_sources` \
         1,048,576.",
    );
    for sources in
        [1_000, 10_000, 100_000, 1_000_000].into_iter().filter(|sources| *sources <= effort.largest)
    {
        let mut empty = empty("empty program");
        let mut subject = agent("xknock", config(1, 1 << 20));
        let pattern = Pattern::new(0x1000_0000, 0x0fff_ffff, false, &STEPS[..2]);
        rate(&subject.lab, pattern, crate::frames::template(), 2 * sources);
        compare(report, SOURCES, &sources.to_string(), &mut empty, &mut subject, effort);
    }
}

fn compare(
    report: &mut Report,
    section: &str,
    case: &str,
    empty: &mut Subject,
    subject: &mut Subject,
    effort: Effort,
) {
    for _ in 0..effort.rounds {
        for one in [&mut *empty, &mut *subject] {
            let (pattern, frame) = noise();
            one.rates.push(rate(&one.lab, pattern, frame, effort.frames));
        }
    }
    let (share, rate) = (share(subject, empty), median(&mut subject.rates.clone()));
    report.add(section, case, "xknock", Value::new(rate / 1e6, Unit::MegaPacketsPerSecond));
    report.add(section, case, "of the empty program", Value::new(share, Unit::Percent));
    let agent = subject.attached.downcast_ref::<Agent>().expect("an agent");
    let process = agent.process().id();
    report.add(section, case, "maps", Value::new(memory::maps(process), Unit::Mebibytes));
    report.add(section, case, "agent", Value::new(memory::resident(process), Unit::Mebibytes));
}

const STEPS: [Step; 3] = [
    Step::new(Protocol::Udp, 7000),
    Step::new(Protocol::Udp, 8000),
    Step::new(Protocol::Udp, 4500),
];

/// Returns a config with one door for the steps above, and more with random ones.
fn config(doors: u32, max_sources: u32) -> ConfigText {
    let mut rng = rand::rng();
    let opens = format!("udp/{SERVICE}");
    let text = |steps: &[Step]| steps.iter().map(Step::to_string).collect::<Vec<_>>().join(",");
    let first = ConfigText::new().top("max_sources", max_sources).door("first", [&opens]);
    let first = first.within("5m").sequence(&text(&STEPS));
    (1..doors).fold(first, |config, door| {
        // No step may be what a door opens.
        let steps = loop {
            let steps = draw_sequence(&mut rng, 4);
            if steps.iter().all(|step| step.port != SERVICE) {
                break steps;
            }
        };
        config.door(&format!("door{door}"), [&opens]).sequence(&text(&steps))
    })
}

fn empty(name: &'static str) -> Subject {
    let lab = Lab::new();
    let attached = lab.server.run(|| Nothing::attach("eth0").expect("the empty program"));
    Subject { name, lab, attached: Box::new(attached), rates: Vec::new() }
}

fn filter() -> Result<Subject, String> {
    let lab = Lab::new();
    attach_filter(&lab.server, "eth0")?;
    Ok(Subject { name: "xdp-filter", lab, attached: Box::new(()), rates: Vec::new() })
}

fn agent(name: &'static str, config: ConfigText) -> Subject {
    let lab = Lab::new();
    let agent = Agent::start(&lab.server, config);
    Subject { name, lab, attached: Box::new(agent), rates: Vec::new() }
}

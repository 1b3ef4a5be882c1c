//! `cargo xtask bench`: cost, size and throughput of the detector, beside its peers. Figures of one
//! run compare with each other, not with those of another machine.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod clients;
mod cost;
mod flood;
mod frames;
mod goals;
mod grants;
mod keys;
mod memory;
mod open;
mod peers;
mod plot;
mod report;
mod stats;
mod throughput;
mod verifier;
mod wire;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use knock_output::out;

use report::Report;

/// Measure xknock beside its peers, in network namespaces of its own.
#[derive(Parser)]
#[command(name = "cargo xtask bench", max_term_width = 100)]
struct Arguments {
    /// Run fewer rounds and the most important cases, in under two minutes.
    #[arg(long)]
    quick: bool,
    /// Print the figures that are worse by more than a tenth than in this earlier result, and fail
    /// if there are any.
    #[arg(long, value_name = "BASE.json")]
    compare: Option<PathBuf>,
    /// Folder for the table (report.md), the figures (report.json) and the curves.
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    out: PathBuf,
    /// Run only sections whose name contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

fn main() -> ExitCode {
    knock_output::run("bench", bench)
}

fn bench(arguments: Arguments) -> Result<ExitCode> {
    // Before anything is measured, so that a wrong path costs no time.
    let base = arguments.compare.as_deref().map(read).transpose()?;
    fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot make the folder {}", arguments.out.display()))?;
    if !nix::unistd::geteuid().is_root() {
        return Err(anyhow!("the benchmark loads programs and makes namespaces: run it as root"));
    }
    let mut report = Report::default();
    run(&mut report, &arguments);
    goals::judge(&mut report);
    let text = format!("{}\n{}", about(arguments.quick), report.markdown());
    write(&arguments, "report.md", &text)?;
    write(&arguments, "report.json", &serde_json::to_string_pretty(&report.json())?)?;
    draw(&report, &arguments)?;
    out!("{text}")?;
    let Some(base) = base else { return Ok(ExitCode::SUCCESS) };
    let worse = report.worse_than(&base);
    if worse.is_empty() {
        out!("No figure got worse by more than a tenth.")?;
        return Ok(ExitCode::SUCCESS);
    }
    out!("Worse by more than a tenth:\n{}", worse.join("\n"))?;
    Ok(ExitCode::FAILURE)
}

fn run(report: &mut Report, arguments: &Arguments) {
    let quick = arguments.quick;
    let wanted = |section: &str| {
        arguments
            .only
            .as_ref()
            .is_none_or(|only| section.to_lowercase().contains(&only.to_lowercase()))
    };
    if wanted(cost::SECTION) {
        let effort = cost::Effort { rounds: if quick { 11 } else { 41 }, repeat: 200_000 };
        cost::measure(report, effort);
    }
    if wanted(verifier::SECTION) {
        verifier::measure(report);
    }
    let effort = throughput::Effort {
        rounds: if quick { 3 } else { 9 },
        frames: 500_000,
        largest: if quick { 1000 } else { 1_000_000 },
    };
    if wanted(throughput::SECTION) {
        throughput::measure(report, effort);
    }
    if wanted("Scale") {
        throughput::scale(report, throughput::Effort { rounds: 3, ..effort });
    }
    if wanted(flood::SECTION) {
        let all = [Some(10_000), Some(100_000), Some(1_000_000), None];
        let rates = if quick { &all[3..] } else { &all };
        flood::measure(report, flood::Effort { knocks: if quick { 20 } else { 100 }, rates });
    }
    if wanted(open::SECTION) {
        open::measure(report, if quick { 60 } else { 200 });
    }
    if wanted(grants::SECTION) {
        grants::burst(report, 100_000);
    }
    if wanted(keys::SECTION) {
        keys::measure(report, 1_000_000);
    }
    if wanted(grants::IDLE) {
        grants::idle(report, 1_000_000);
    }
}

fn read(path: &std::path::Path) -> Result<Report> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let json = serde_json::from_str(&text)
        .with_context(|| format!("{} is not the result of a benchmark", path.display()))?;
    Report::from_json(&json)
        .map_err(|why| anyhow!("{} is not the result of a benchmark: {why}", path.display()))
}

fn write(arguments: &Arguments, name: &str, text: &str) -> Result<()> {
    let path = arguments.out.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn draw(report: &Report, arguments: &Arguments) -> Result<()> {
    let doors = report.series(throughput::DOORS, |case| case.parse().ok());
    let sources = report.series(throughput::SOURCES, |case| case.parse().ok());
    let rates: Vec<_> = doors.into_iter().filter(|(name, _)| name == "xknock").collect();
    let out = |name: &str| arguments.out.join(name);
    plot::curves(&out("doors.svg"), "Throughput under noise", "doors", "Mpps", &rates)?;
    let rates: Vec<_> = sources.into_iter().filter(|(name, _)| name == "xknock").collect();
    let title = "Throughput under noise";
    plot::curves(&out("sources.svg"), title, "sources in progress", "Mpps", &rates)?;
    for gap in ["20 ms", "200 ms"] {
        // The point of the full rate lies at the rate that was measured.
        let full = format!("{}, {gap} between steps", flood::FULL);
        let sent = report.get(flood::SECTION, &full, "sent").map(|mpps| mpps * 1e6);
        let mut series = report.series(flood::SECTION, |case| {
            let (rate, of) = case.split_once(", ")?;
            match rate {
                _ if !of.starts_with(gap) => None,
                flood::FULL => sent,
                rate => {
                    let (number, unit) = rate.split_once(' ')?;
                    let unit = if unit.starts_with('M') { 1e6 } else { 1e3 };
                    Some(number.parse::<f64>().ok()? * unit)
                }
            }
        });
        series.retain(|(name, _)| name != "sent");
        let file = format!("flood-{}.svg", gap.replace(' ', ""));
        let title = format!("Honest knocks that open, {gap} between steps");
        plot::curves(&out(&file), &title, "spoofed first steps a second", "%", &series)?;
    }
    Ok(())
}

/// Returns a line that says what was run on which machine.
fn about(quick: bool) -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let model = model.trim_start_matches([' ', '\t', ':']);
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let date = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    let date = date.split('T').next().unwrap_or_default().to_owned();
    let command = if quick { "cargo xtask bench --quick" } else { "cargo xtask bench" };
    format!(
        "`{command}`, {date}, Linux {}, {count} CPUs ({model}). Ratios of one run compare; times of \
         different machines do not.\n",
        kernel.trim()
    )
}

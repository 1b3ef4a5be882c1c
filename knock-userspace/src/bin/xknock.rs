//! The client's command line.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{CommandFactory as _, Parser};
use knock_common::sequence::{Protocol, Step};
use knock_userspace::client::{Family, Knock, Target, parse_steps, wait_open};

/// Knocks on a host, so that it opens a port for this one.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    /// Name or address of the host.
    host: String,
    /// The steps in order, as in tcp/7000,udp/8000,tcp/9000.
    #[arg(long, value_name = "STEPS", value_parser = parse_steps)]
    steps: Option<Steps>,
    /// The steps as the classic client takes them: 7000:tcp 8000:udp 9000.
    #[arg(value_name = "PORT[:PROTOCOL]", value_parser = parse_steps, conflicts_with = "steps")]
    classic: Vec<Steps>,
    /// Time between two steps, so that they arrive in order.
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = humantime::parse_duration)]
    gap: Duration,
    /// Waits until this TCP port answers, as in tcp/22.
    #[arg(long, value_name = "SERVICE", value_parser = tcp_service)]
    wait: Option<Step>,
    /// Gives up waiting after this time.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Uses IPv4 only.
    #[arg(short = '4', conflicts_with = "v6")]
    v4: bool,
    /// Uses IPv6 only.
    #[arg(short = '6')]
    v6: bool,
    /// Says what is sent.
    #[arg(short, long)]
    verbose: bool,
}

type Steps = Vec<Step>;

fn tcp_service(text: &str) -> Result<Step, String> {
    match parse_steps(text).map_err(|error| error.to_string())?.as_slice() {
        [step] if step.protocol == Protocol::Tcp => Ok(*step),
        [_] => Err("only TCP ports answer to a connection".to_owned()),
        _ => Err("give one port".to_owned()),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xknock: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let steps = cli.steps.unwrap_or_else(|| cli.classic.into_iter().flatten().collect());
    if steps.is_empty() {
        let message =
            "no steps: give --steps tcp/7000,udp/8000 or, as for knock, 7000:tcp 8000:udp";
        Cli::command().error(clap::error::ErrorKind::MissingRequiredArgument, message).exit();
    }
    let family = match (cli.v4, cli.v6) {
        (true, _) => Family::V4,
        (_, true) => Family::V6,
        _ => Family::Any,
    };
    let target = Target::resolve(&cli.host, family)?;
    let started = Instant::now();
    let since = || started.elapsed().as_secs_f64() * 1000.0;
    Knock { target, steps, gap: cli.gap }.send(|step| {
        if cli.verbose {
            eprintln!("{:8.1} ms  {step} to {target}", since());
        }
    })?;
    let Some(service) = cli.wait else { return Ok(()) };
    match wait_open(target.with_port(service.port), cli.timeout) {
        Some(took) => {
            eprintln!("{service} on {target} answers after {:.1} ms", took.as_secs_f64() * 1000.0);
            Ok(())
        }
        None => bail!(
            "{service} on {target} did not answer within {}: wrong steps, knocks lost on the way, \
             or nothing listens there",
            humantime::format_duration(cli.timeout)
        ),
    }
}

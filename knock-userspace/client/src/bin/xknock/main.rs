//! The client's command line.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod command;
mod import;
mod proxy;
mod with_key;

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use knock_client::{Family, Hosts, Knock, Target, parse_steps, wait_open};
use knock_common::sequence::{Protocol, Step};
use knock_keys::no_core_dumps;
use knock_output::note;

/// Knock on a host, so that it opens a port for this machine.
///
/// Without steps, knock with the key that was imported for the host.
#[derive(Parser)]
#[command(name = "xknock", version, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    knock: KnockArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Import a key that `xknockd key add` has printed.
    Import(import::ImportArgs),
    /// Knock, connect, and join the connection with standard input and output.
    ///
    /// Made for OpenSSH. In ~/.ssh/config: `ProxyCommand xknock proxy %h %p`
    Proxy(proxy::ProxyArgs),
}

#[derive(Args)]
struct KnockArgs {
    /// Name or address of the host, or the name that it was imported as.
    #[arg(required = true)]
    host: Option<String>,
    #[command(flatten)]
    keyed: KeyedArgs,
    #[command(flatten)]
    sequence: SequenceArgs,
    /// Give up waiting after this time. [default: 10s; 45s for rolling sequences]
    #[arg(long, value_name = "TIME", value_parser = some_time)]
    timeout: Option<Duration>,
    #[command(flatten)]
    family: FamilyArgs,
    /// Print what is sent.
    #[arg(short, long)]
    verbose: bool,
}

/// Options of knocks with a key.
#[derive(Args)]
#[group(id = "keyed", multiple = true, conflicts_with = "sequence")]
struct KeyedArgs {
    /// Choose the door, if the key opens several.
    #[arg(long)]
    door: Option<String>,
    /// Run a command once the door is open. All words that follow belong to it.
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
    then: Vec<String>,
    /// Keep the door open while the command runs, by knocking again in time.
    #[arg(long, requires = "then")]
    keep: bool,
    /// Close the door after the command, however that ends.
    ///
    /// Without a command, close the door now.
    #[arg(long)]
    close: bool,
    /// Open for this long, if that is shorter than the door allows.
    #[arg(long = "for", value_name = "TIME", value_parser = some_time)]
    lasts: Option<Duration>,
    /// Open for this address instead of this machine.
    #[arg(long)]
    address: Option<IpAddr>,
}

/// Options of knocks with the steps of a sequence.
#[derive(Args)]
struct SequenceArgs {
    /// Send these steps in order, as in tcp/7000,udp/8000,tcp/9000.
    #[arg(long, value_name = "STEPS", value_parser = parse_steps, group = "sequence")]
    steps: Option<Steps>,
    /// Steps as the classic client takes them: 7000:tcp 8000:udp 9000.
    #[arg(value_name = "PORT[:PROTOCOL]", value_parser = parse_steps, group = "sequence")]
    classic: Vec<Steps>,
    /// Wait this long between two steps, so that they arrive in order.
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = humantime::parse_duration)]
    #[arg(requires = "sequence", conflicts_with = "keyed")]
    gap: Duration,
    /// Wait until this TCP port answers, as in tcp/22. Knocks with a key always wait.
    #[arg(long, value_name = "SERVICE", value_parser = tcp_service)]
    #[arg(requires = "sequence", conflicts_with = "keyed")]
    wait: Option<Step>,
}

#[derive(Args)]
struct FamilyArgs {
    /// Use IPv4 only.
    #[arg(short = '4', conflicts_with = "v6")]
    v4: bool,
    /// Use IPv6 only.
    #[arg(short = '6')]
    v6: bool,
}

impl FamilyArgs {
    const fn family(&self) -> Family {
        match (self.v4, self.v6) {
            (true, _) => Family::V4,
            (_, true) => Family::V6,
            _ => Family::Any,
        }
    }
}

type Steps = Vec<Step>;

fn tcp_service(text: &str) -> Result<Step, String> {
    match parse_steps(text).map_err(|error| error.to_string())?.as_slice() {
        [step] if step.protocol == Protocol::Tcp => Ok(*step),
        [_] => Err("only TCP ports answer to a connection".to_owned()),
        _ => Err("give one port".to_owned()),
    }
}

/// Parses a time that is longer than zero.
fn some_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text).map_err(|error| error.to_string())? {
        Duration::ZERO => Err("that is no time at all: give 1s or more".to_owned()),
        time => Ok(time),
    }
}

/// Patience with a port, unless the user says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    knock_output::run("xknock", dispatch)
}

fn dispatch(cli: Cli) -> Result<ExitCode> {
    no_core_dumps();
    match cli.command {
        Some(Command::Import(args)) => import::import(&args).map(|()| ExitCode::SUCCESS),
        Some(Command::Proxy(args)) => proxy::proxy(&args).map(|()| ExitCode::SUCCESS),
        None => knock(cli.knock),
    }
}

fn knock(args: KnockArgs) -> Result<ExitCode> {
    let name = args.host.as_deref().unwrap_or_default();
    if args.sequence.steps.is_some() || !args.sequence.classic.is_empty() {
        send_steps(args).map(|()| ExitCode::SUCCESS)
    } else {
        let hosts = Hosts::of_user()?;
        if let Some(host) = hosts.find(name)? {
            return with_key::knock(&host, &args);
        }
        let message = format!(
            "no steps, and no key for `{name}`: give --steps tcp/7000,udp/8000 or, as for knock, \
             7000:tcp 8000:udp, or import a key with `xknock import`{}",
            known(&hosts)
        );
        Cli::command().error(clap::error::ErrorKind::MissingRequiredArgument, message).exit();
    }
}

/// Returns the hosts that there are keys for, as the end of an error message.
fn known(hosts: &Hosts) -> String {
    let names: Vec<_> = hosts.names().collect();
    if names.is_empty() {
        String::new()
    } else {
        format!("; there are keys for {}", names.join(", "))
    }
}

fn send_steps(args: KnockArgs) -> Result<()> {
    let SequenceArgs { steps, classic, gap, wait } = args.sequence;
    let steps = steps.unwrap_or_else(|| classic.into_iter().flatten().collect());
    let target = Target::resolve(&args.host.unwrap_or_default(), args.family.family())?;
    let started = Instant::now();
    let since = || started.elapsed().as_secs_f64() * 1000.0;
    Knock { target, steps, gap }.send(|step| {
        if args.verbose {
            note!("{:8.1} ms  {step} to {target}", since());
        }
    })?;
    let Some(service) = wait else { return Ok(()) };
    let timeout = args.timeout.unwrap_or(PATIENCE);
    match wait_open(target.with_port(service.port), timeout) {
        Some(took) => {
            note!("{service} on {target} answers after {:.1} ms", took.as_secs_f64() * 1000.0);
            Ok(())
        }
        None => bail!(
            "{service} on {target} did not answer within {}: wrong steps, knocks lost on the way, \
             or nothing listens there",
            humantime::format_duration(timeout)
        ),
    }
}

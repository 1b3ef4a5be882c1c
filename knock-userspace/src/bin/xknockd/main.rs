//! The agent's command line.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod check;
mod direct;
mod kernel;
mod key;
mod policy;
mod ports;
mod run;
mod verbs;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use knock_userspace::places::Places;

/// Keeps services closed to everyone who has not knocked.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    /// Which agent, on a host that runs several: one in each of its network namespaces.
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "XKNOCKD_INSTANCE",
        default_value = "",
        hide_default_value = true,
        value_parser = Places::check_instance
    )]
    instance: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watches for knocks and opens doors, until it is told to stop.
    ///
    /// Without a config it observes: one door `ssh` on tcp/22 with a random sequence,
    /// which it prints, and nothing is closed.
    Run {
        #[command(flatten)]
        policy: PolicyArgs,
        /// Logs what the kernel program makes of each step.
        #[arg(long)]
        trace_kernel: bool,
        /// Removes program, table and grants on exit, so that the host is as before. By
        /// default ports stay closed, grants end in their time, and the next agent goes on
        /// where this one ended.
        #[arg(long)]
        clean: bool,
        /// Enforces even if that locks out the SSH session from which this is run.
        #[arg(long)]
        force: bool,
    },
    /// Checks a config and prints its doors as they would be compiled.
    Check {
        #[command(flatten)]
        policy: PolicyArgs,
        /// Shows what the running kernel has of that which the detector and the guard use,
        /// and what the verifier makes of the program. Needs root, and changes nothing.
        #[arg(long, conflicts_with_all = ["config", "interfaces", "observe", "enforce"])]
        kernel: bool,
    },
    /// Adds, lists and removes the keys of devices.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Shows every guarded and every listening port: open or closed at the guard, with
    /// or without an application. Rules of other firewall tables are not considered.
    Ports {
        /// As this source finds them, instead of a stranger.
        #[arg(long, value_name = "ADDRESS")]
        from: Option<IpAddr>,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows how the running agent is.
    Status {
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lists the doors of the running agent.
    Doors {
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lists the grants that are running, with or without an agent.
    Grants {
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Opens a door for an address as if it had knocked; with or without a running agent.
    Open {
        /// Name of the door.
        door: String,
        /// For whom.
        address: IpAddr,
        /// For how long, up to 30 days; the door's `open_for` by default.
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        lasts: Option<Duration>,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Ends grants at once; with or without a running agent.
    Revoke {
        /// Those of this address.
        #[arg(required_unless_present_any = ["door", "all"])]
        address: Option<IpAddr>,
        /// Those of this door.
        #[arg(long)]
        door: Option<String>,
        /// All of them.
        #[arg(long, conflicts_with_all = ["address", "door"])]
        all: bool,
    },
    /// Reads the config again. If it is wrong, the old one stays in force. SIGHUP does the
    /// same, but not asked by anybody: it does not look whether somebody is locked out.
    Reload {
        /// Enforces even if that locks out the SSH session from which this is run.
        #[arg(long)]
        force: bool,
    },
    /// Enforces for a while, and then observes again unless `xknockd confirm` is run: even if
    /// the agent dies, and you with your connection.
    Try {
        /// For how long, a day at most.
        #[arg(value_name = "TIME", value_parser = humantime::parse_duration)]
        lasts: Duration,
    },
    /// Goes on enforcing what `xknockd try` began.
    Confirm {
        /// Even if that locks out the SSH session from which this is run.
        #[arg(long)]
        force: bool,
    },
    /// Ends the agent and removes every trace from the host: program, pins, table, grants. All
    /// ports are as before. Works without a running agent too.
    Off,
}

#[derive(Args)]
struct ConfigArgs {
    /// The config; /etc/xknock/xknockd.toml if that is there.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args)]
struct PolicyArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Watches this interface, in place of those in the config. May be repeated; `eth*` stands
    /// for all that begin with `eth`.
    #[arg(long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,
    /// Drops nothing, only counts what would have been dropped.
    #[arg(long, conflicts_with = "enforce")]
    observe: bool,
    /// Drops packets to guarded services that have no grant.
    #[arg(long)]
    enforce: bool,
}

fn main() -> ExitCode {
    knock_output::run("xknockd", |cli| dispatch(cli).map(|()| ExitCode::SUCCESS))
}

fn dispatch(Cli { instance, command }: Cli) -> Result<()> {
    let places = Places::of(&instance);
    match command {
        Command::Run { policy, trace_kernel, clean, force } => {
            run::run(policy, places, run::Flags { trace_kernel, clean, force })
        }
        Command::Check { kernel: true, .. } => kernel::check(),
        Command::Check { policy, .. } => check::check(&policy),
        Command::Key(command) => key::key(&places, command),
        Command::Ports { from, json } => ports::ports(from, json),
        Command::Status { json } => verbs::status(&places, json),
        Command::Doors { json } => verbs::doors(&places, json),
        Command::Grants { json } => verbs::grants(&places, json),
        Command::Open { door, address, lasts, config } => {
            verbs::open(&places, &config, door, address, lasts)
        }
        Command::Revoke { address, door, all: _ } => verbs::revoke(&places, address, door),
        Command::Reload { force } => verbs::reload(&places, force),
        Command::Try { lasts } => verbs::try_enforcing(&places, lasts),
        Command::Confirm { force } => verbs::confirm(&places, force),
        Command::Off => verbs::off(&places),
    }
}

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
use knock_userspace::instance_paths::InstancePaths;

/// Keep services closed to everyone who has not knocked.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    /// Choose the agent, on a host that runs one in each of several network namespaces.
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "XKNOCKD_INSTANCE",
        default_value = "",
        hide_default_value = true,
        value_parser = InstancePaths::check_instance
    )]
    instance: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch for knocks and open doors until a signal ends the agent.
    ///
    /// Without a config, the agent observes: it has one door, `ssh` on tcp/22, with a random
    /// sequence that it prints, and closes nothing.
    Run {
        #[command(flatten)]
        policy: PolicyArgs,
        /// Log how the kernel program judges each step.
        #[arg(long)]
        trace_kernel: bool,
        /// Remove program, table and grants on exit, so that the host is as before.
        ///
        /// By default ports stay closed, grants end in their time, and the next agent goes on
        /// where this one ended.
        #[arg(long)]
        clean: bool,
        /// Enforce even if that locks out the SSH session that this is run from.
        #[arg(long)]
        force: bool,
    },
    /// Check a config, and show its doors as compiled.
    Check {
        #[command(flatten)]
        policy: PolicyArgs,
        /// Show which kernel features are there, and what the verifier says of the program.
        ///
        /// This needs root and changes nothing.
        #[arg(long, conflicts_with_all = ["config", "interfaces", "observe", "enforce"])]
        kernel: bool,
    },
    /// Add, list, show, remove and rotate the keys of devices.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Show which guarded and listening ports are open or closed, and why.
    ///
    /// Rules in other tables of the firewall are not considered.
    Ports {
        /// Show the ports as this source finds them, instead of a stranger.
        #[arg(long, value_name = "ADDRESS")]
        from: Option<IpAddr>,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Show the status of the running agent.
    Status {
        #[command(flatten)]
        format: FormatArgs,
    },
    /// List the doors of the running agent.
    Doors {
        #[command(flatten)]
        format: FormatArgs,
    },
    /// List running grants. Works without an agent, too.
    Grants {
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Open a door for an address as if it had knocked. Works without an agent, too.
    Open {
        /// Name of the door.
        door: String,
        /// Source that gets the grant.
        address: IpAddr,
        /// Set how long the grant runs, up to 30 days. The default is the door's `open_for`.
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        lasts: Option<Duration>,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// End grants at once. Works without an agent, too.
    Revoke {
        /// Source whose grants end.
        #[arg(required_unless_present_any = ["door", "all"])]
        address: Option<IpAddr>,
        /// End grants of this door only.
        #[arg(long)]
        door: Option<String>,
        /// End all grants.
        #[arg(long, conflicts_with_all = ["address", "door"])]
        all: bool,
    },
    /// Read the config again. A wrong config changes nothing.
    ///
    /// SIGHUP also reloads, but skips the lock-out check, because a signal does not identify its
    /// sender.
    Reload {
        /// Enforce even if that locks out the SSH session that this is run from.
        #[arg(long)]
        force: bool,
    },
    /// Enforce for a while, then observe again unless the trial is confirmed.
    ///
    /// The kernel ends the trial by itself, also if the agent dies or your connection breaks.
    /// `xknockd confirm` keeps the ports closed until the next reboot.
    Try {
        /// Length of the trial, a day at most.
        #[arg(value_name = "TIME", value_parser = humantime::parse_duration)]
        lasts: Duration,
    },
    /// Enforce until the next reboot, instead of until the trial ends.
    Confirm {
        /// Confirm even if that locks out the SSH session that this is run from.
        #[arg(long)]
        force: bool,
    },
    /// End the agent and remove program, pins, table and grants. Works without an agent, too.
    ///
    /// All ports are as before.
    Off,
}

#[derive(Args)]
struct FormatArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ConfigArgs {
    /// Use this config. The default is /etc/xknock/xknockd.toml, if that exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args)]
struct PolicyArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Watch this interface instead of those in the config. May be repeated.
    ///
    /// `eth*` stands for all interfaces whose names begin with `eth`.
    #[arg(long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,
    /// Drop nothing, and count the packets that would have been dropped. A trial that runs already
    /// ends in its own time.
    #[arg(long, conflicts_with = "enforce")]
    observe: bool,
    /// Drop packets to guarded services that have no grant.
    #[arg(long)]
    enforce: bool,
}

fn main() -> ExitCode {
    knock_output::run("xknockd", |cli| dispatch(cli).map(|()| ExitCode::SUCCESS))
}

fn dispatch(Cli { instance, command }: Cli) -> Result<()> {
    let paths = InstancePaths::of(&instance);
    match command {
        Command::Run { policy, trace_kernel, clean, force } => {
            run::run(policy, paths, run::Flags { trace_kernel, clean, force })
        }
        Command::Check { kernel: true, .. } => kernel::check(),
        Command::Check { policy, .. } => check::check(&policy),
        Command::Key(command) => key::key(&paths, command),
        Command::Ports { from, format } => ports::ports(from, format.json),
        Command::Status { format } => verbs::status(&paths, format.json),
        Command::Doors { format } => verbs::doors(&paths, format.json),
        Command::Grants { format } => verbs::grants(&paths, format.json),
        Command::Open { door, address, lasts, config } => {
            verbs::open(&paths, &config, door, address, lasts)
        }
        Command::Revoke { address, door, all: _ } => verbs::revoke(&paths, address, door),
        Command::Reload { force } => verbs::reload(&paths, force),
        Command::Try { lasts } => verbs::try_enforcing(&paths, lasts),
        Command::Confirm { force } => verbs::confirm(&paths, force),
        Command::Off => verbs::off(&paths),
    }
}

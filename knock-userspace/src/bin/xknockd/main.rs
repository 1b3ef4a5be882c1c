//! The agent's command line.

mod check;
mod policy;
mod ports;
mod run;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Keeps services closed to everyone who has not knocked.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
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
        /// Removes the firewall table and all grants on exit, so that the ports are as
        /// before. By default ports stay closed and grants end in their time.
        #[arg(long)]
        clean: bool,
    },
    /// Checks a config and prints its doors as they would be compiled.
    Check {
        #[command(flatten)]
        policy: PolicyArgs,
    },
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
}

#[derive(Args)]
struct PolicyArgs {
    /// The config; /etc/xknock/xknockd.toml if that is there.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Watches this interface, in place of those in the config. May be repeated.
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
    let result = match Cli::parse().command {
        Command::Run { policy, trace_kernel, clean } => run::run(&policy, trace_kernel, clean),
        Command::Check { policy } => check::check(&policy),
        Command::Ports { from, json } => ports::ports(from, json),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xknockd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

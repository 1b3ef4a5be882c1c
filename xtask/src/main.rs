//! Developer commands: `cargo xtask VERB`.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod build;
mod check;
mod command;
mod demo;
mod fuzz;
mod kernel;
mod packages;
mod run;
mod setup;
mod soak;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, build, run, show and test xknock")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install everything that building and testing need, or report what is missing.
    Setup(setup::Arguments),
    /// Build the agent, the client and the XDP program.
    Build(build::Arguments),
    /// Build the agent and run it on an interface.
    Run(run::Arguments),
    /// Show a door open and close between throwaway network namespaces.
    Demo,
    /// Run every check and test, then some minutes of soak and fuzzing.
    ///
    /// With words, run the tests whose names contain one of them. With --kernel, run tests on
    /// other kernels.
    Test(test::Arguments),
    /// Check each crate alone, without features and with each of them.
    CheckFeatures,
    /// Check that the oldest Rust declared in Cargo.toml compiles the workspace.
    CheckMinimum,
    /// Give generated input to every parser for a while.
    Fuzz(fuzz::Arguments),
    /// Knock, flood, kill, reload and flush at random, and check the agent after each step.
    Soak(soak::Arguments),
    /// Measure what packets cost and what holds under floods, beside the peers.
    Bench(bench::Arguments),
    /// Run everything that continuous integration runs.
    ///
    /// That is all of `test`, then `test --kernel 6.1 --essential`, from a clean machine.
    Ci,
}

fn main() -> ExitCode {
    knock_output::run("xtask", |arguments| dispatch(arguments).map(|()| ExitCode::SUCCESS))
}

fn dispatch(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.task {
        Task::Setup(arguments) => setup::setup(&arguments),
        Task::Build(arguments) => build::build(&arguments),
        Task::Run(arguments) => run::run(&arguments),
        Task::Demo => demo::demo(),
        Task::Test(arguments) => test::test(&arguments),
        Task::CheckFeatures => check::features(),
        Task::CheckMinimum => check::minimum(),
        Task::Fuzz(arguments) => fuzz::fuzz(&arguments),
        Task::Soak(arguments) => soak::soak(&arguments),
        Task::Bench(arguments) => bench::bench(&arguments),
        Task::Ci => test::ci(),
    }
}

//! Developer commands: `cargo xtask setup|build|run|demo|test|fuzz|soak|bench|ci`.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod build;
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
    /// Install what building and testing need, or only report it.
    Setup(setup::Arguments),
    /// Build the agent, the client and the XDP program.
    Build(build::Arguments),
    /// Build the agent and run it on an interface.
    Run(run::Arguments),
    /// Show a door open and close between throwaway network namespaces.
    Demo,
    /// Check everything: lints, every test, some minutes of soak and fuzzing; or tests on other
    /// kernels.
    Test(test::Arguments),
    /// Give every parser made-up input for a while.
    Fuzz(fuzz::Arguments),
    /// Let everything happen to an agent at random, and check after each step that it held.
    Soak(soak::Arguments),
    /// Measure what packets cost and what holds under floods, beside the peers.
    Bench(bench::Arguments),
    /// What continuous integration runs: all of `test`, then `test --kernel 6.1 --essential`,
    /// from a clean machine.
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
        Task::Fuzz(arguments) => fuzz::fuzz(&arguments),
        Task::Soak(arguments) => soak::soak(&arguments),
        Task::Bench(arguments) => bench::bench(&arguments),
        Task::Ci => test::ci(),
    }
}

//! `cargo xtask test`: every check, then every test.

mod report;

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::{
    command::{as_root, cargo, host, print, run, target_directory},
    fuzz, kernel,
    setup::{self, Group},
};
pub(crate) use report::Totals;

#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Run only the tests whose names contain one of these, and no other check.
    filter: Vec<String>,
    /// Runs those tests that meet a kernel on this one, in qemu: 6.1, 6.12, 7.2, or 5.10,
    /// which must be refused; or on all of them.
    #[arg(long, value_name = "VERSION|all")]
    kernel: Option<String>,
    /// There, runs only a part of the longest test program, as `ci` does.
    #[arg(long, requires = "kernel", conflicts_with = "filter")]
    essential: bool,
}

/// Everything on the host: the XDP program has a target of its own.
const HOST: [&str; 3] = ["--workspace", "--exclude", "knock-ebpf"];

/// With the test that only guests run.
const ALL_TARGETS: [&str; 3] = ["--all-targets", "--test", "suspend"];

/// The programs that tests and stages run. They are named because `cargo test` builds the programs
/// of a package only if it has integration tests.
const PROGRAMS: [&str; 4] = ["xknockd", "xknock", "soak", "leftovers"];

/// The variable by which the tests know this run, and `leftovers` its traces.
const RUN: &str = "XKNOCK_TEST_RUN";

/// The stage that builds them.
const BUILD: &str = "build tests";

/// How long `xknockd` is killed, flooded and meddled with.
const SOAK_MINUTES: &str = "2";

pub(crate) fn test(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { filter, kernel, essential } = arguments;
    let mut totals = Totals::default();
    if let Some(name) = kernel {
        let selection = match essential {
            true => kernel::Selection::Essential,
            false => kernel::Selection::Named(filter),
        };
        let outcome = kernel::test(name, selection, &mut totals);
        println!("{totals}");
        return outcome.and_then(|()| totals.something_ran(filter));
    }
    setup::ensure(Group::Test, true)?;
    let mut stages = Stages::default();
    let outcome = if filter.is_empty() {
        stages.everything(&mut totals)
    } else {
        let outcome = stages.tests(filter, &mut totals);
        outcome.and(stages.leftovers())
    };
    stages.print();
    // Nothing may follow this line, except an error.
    println!("{totals}");
    outcome.and_then(|()| totals.something_ran(filter))
}

/// All of it on the host, then on an old kernel.
pub(crate) fn ci() -> anyhow::Result<()> {
    setup::ensure(Group::Kernel, true)?;
    let (mut stages, mut totals) = (Stages::default(), Totals::default());
    let outcome = stages.everything(&mut totals).and_then(|()| {
        let essential = kernel::Selection::Essential;
        stages.stage("kernel 6.1", || kernel::test(kernel::OF_CI, essential, &mut totals))
    });
    stages.print();
    println!("{totals}");
    outcome
}

/// The stages that ran, in order, with how each ended and how long it took.
#[derive(Default)]
struct Stages(Vec<(&'static str, bool, Duration)>);

impl Stages {
    fn stage(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        println!("\n== {name}");
        let start = Instant::now();
        let result = work();
        self.0.push((name, result.is_ok(), start.elapsed()));
        result.with_context(|| format!("stage \"{name}\" failed"))
    }

    fn command(&mut self, name: &'static str, command: &mut Command) -> anyhow::Result<()> {
        self.stage(name, || run(command))
    }

    fn everything(&mut self, totals: &mut Totals) -> anyhow::Result<()> {
        self.checks()?;
        let outcome = self.tests(&[], totals).and_then(|()| {
            // With the programs of the tests; the seed is drawn and printed.
            self.command("soak", of_this_run("soak").args(["--minutes", SOAK_MINUTES]))?;
            self.stage("fuzzing", || fuzz::run_targets(&fuzz::Arguments::short()))
        });
        // Above all after a failure.
        outcome.and(self.leftovers())
    }

    /// Fails if a test or the soak has left anything on the host, and removes it.
    fn leftovers(&mut self) -> anyhow::Result<()> {
        match self.0.iter().any(|(name, passed, _)| *name == BUILD && *passed) {
            true => self.command("leftovers", &mut of_this_run("leftovers")),
            false => Ok(()),
        }
    }

    fn checks(&mut self) -> anyhow::Result<()> {
        self.command("format", &mut cargo(["fmt", "--all", "--check"]))?;
        let deny_warnings = ["--", "--deny", "warnings"];
        let mut host = cargo(["clippy"]);
        self.command("clippy, host", host.args(HOST).args(ALL_TARGETS).args(deny_warnings))?;
        self.stage("clippy, XDP program", clippy_for_bpf)?;
        let mut doc = cargo(["doc", "--no-deps"]);
        self.command("rustdoc", doc.args(HOST).env("RUSTDOCFLAGS", "--deny warnings"))?;
        // Not advisories: their database is downloaded, so a test run would depend on the day
        // and on the network. `cargo deny check advisories` looks at them.
        let deny = ["deny", "check", "licenses", "bans", "sources"];
        self.command("cargo-deny", &mut cargo(deny))?;
        // Cargo tells every program that it runs, this one too, which package it belongs
        // to; by that cargo-machete would take itself for being developed.
        let mut machete = cargo(["machete"]);
        self.command("unused dependencies", machete.env_remove("CARGO_PKG_NAME"))?;
        self.command("client alone", &mut cargo(["check", "--package", "knock-client"]))
    }

    fn tests(&mut self, filter: &[String], totals: &mut Totals) -> anyhow::Result<()> {
        let mut build = cargo(["build", "--tests"]);
        let programs = PROGRAMS.iter().flat_map(|name| ["--bin", name]);
        self.command(BUILD, build.args(HOST).args(programs))?;
        let mut tests = cargo(["test", "--no-fail-fast"]);
        tests.args(HOST).arg("--").args(filter).env(RUN, run_number());
        if !nix::unistd::geteuid().is_root() {
            tests.env(runner_variable()?, "sudo -E");
        }
        self.stage("tests", || run_tests(&mut tests, totals))
    }

    fn print(&self) {
        println!("\n{:<22} {:<7} {:>8}", "stage", "result", "seconds");
        for (name, passed, took) in &self.0 {
            let result = if *passed { "ok" } else { "FAILED" };
            println!("{name:<22} {result:<7} {:>8.1}", took.as_secs_f64());
        }
    }
}

/// A program of the tests, run as root and as a part of this run.
fn of_this_run(program: &str) -> Command {
    // Through `env`, since sudo does not hand the environment on.
    let mut command = as_root("env");
    command.arg(format!("{RUN}={}", run_number()));
    command.arg(target_directory().join("debug").join(program));
    command
}

fn run_number() -> String {
    std::process::id().to_string()
}

fn clippy_for_bpf() -> anyhow::Result<()> {
    let toolchain = xknock_toolchain::find()?;
    let mut command = toolchain.command("cargo");
    command.current_dir(crate::command::root());
    command.args(["clippy", "--release", "--package", "knock-ebpf"]);
    command.args(["--target", xknock_toolchain::TARGET]);
    if toolchain.compiler.core == xknock_toolchain::Core::FromSource {
        command.args(["-Z", "build-std=core"]);
    }
    // Another compiler's files; kept apart so that neither makes the other start over.
    command.arg("--target-dir").arg(target_directory().join("bpf-clippy"));
    command.env("CARGO_ENCODED_RUSTFLAGS", bpf_target_arch());
    run(command.args(["--", "--deny", "warnings"]))
}

/// The architecture whose kernel the program is for, as aya-build tells aya-ebpf.
fn bpf_target_arch() -> String {
    format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH)
}

/// The variable that names what cargo runs test programs through on this host.
fn runner_variable() -> anyhow::Result<String> {
    Ok(format!("CARGO_TARGET_{}_RUNNER", host()?.to_uppercase().replace(['-', '.'], "_")))
}

/// Runs cargo test, hands its output on, and adds up its result lines.
fn run_tests(command: &mut Command, totals: &mut Totals) -> anyhow::Result<()> {
    print(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo test does not start")?;
    let stdout = child.stdout.take().context("cargo test has no output")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("the output of cargo test cannot be read")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        totals.add(&line);
    }
    let status = child.wait().context("cargo test cannot be waited for")?;
    if !status.success() {
        bail!("cargo test failed: {status}");
    }
    Ok(())
}

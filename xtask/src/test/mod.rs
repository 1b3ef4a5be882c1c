//! `cargo xtask test`: every check, then every test.

mod report;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use knock_output::{OutputError, out};

use crate::check;
use crate::command::{as_root, cargo, host, print, run, target_directory};
use crate::fuzz;
use crate::kernel;
use crate::setup::{self, Group};
pub(crate) use report::Totals;

#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Run only the tests whose names contain one of these words, and no other check.
    filter: Vec<String>,
    /// Run the tests that depend on the kernel on this one, in qemu: 6.1, 6.12, 7.2, or 5.10, which
    /// must be refused. `all` runs them on each.
    #[arg(long, value_name = "VERSION|all")]
    kernel: Option<String>,
    /// Run only a part of the longest test program there, as `ci` does.
    #[arg(long, requires = "kernel", conflicts_with = "filter")]
    essential: bool,
}

/// Everything on the host: the XDP program has a target of its own.
pub(crate) const HOST: [&str; 3] = ["--workspace", "--exclude", "knock-ebpf"];

/// All targets, and the test that only guests run.
pub(crate) const ALL_TARGETS: [&str; 3] = ["--all-targets", "--test", "suspend"];

/// The programs that tests and stages run. They are named because `cargo test` builds the programs
/// of a package only if it has integration tests.
const PROGRAMS: [&str; 4] = ["xknockd", "xknock", "soak", "leftovers"];

/// The variable by which the tests know this run, and `leftovers` its traces.
const RUN: &str = "XKNOCK_TEST_RUN";

/// The stage that builds them.
const BUILD: &str = "build tests";

/// Length of the soak.
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
        out!("{totals}")?;
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
    stages.print()?;
    // Nothing may follow this line, except an error.
    out!("{totals}")?;
    outcome.and_then(|()| totals.something_ran(filter))
}

/// Runs everything on the host, then the essential tests on an old kernel.
pub(crate) fn ci() -> anyhow::Result<()> {
    setup::ensure(Group::Kernel, true)?;
    let (mut stages, mut totals) = (Stages::default(), Totals::default());
    let outcome = stages.everything(&mut totals).and_then(|()| {
        let essential = kernel::Selection::Essential;
        stages.stage("kernel 6.1", || kernel::test(kernel::OF_CI, essential, &mut totals))
    });
    stages.print()?;
    out!("{totals}")?;
    outcome
}

/// The stages that ran, in order, and what else there is to say of them.
#[derive(Default)]
struct Stages {
    stages: Vec<Stage>,
    notes: Vec<String>,
}

struct Stage {
    name: &'static str,
    result: Outcome,
    took: Duration,
}

/// How a stage ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

impl Stages {
    fn stage(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        out!("\n== {name}")?;
        let start = Instant::now();
        let result = work();
        let outcome = if result.is_ok() { Outcome::Passed } else { Outcome::Failed };
        self.stages.push(Stage { name, result: outcome, took: start.elapsed() });
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
        let built = |stage: &Stage| stage.name == BUILD && stage.result == Outcome::Passed;
        match self.stages.iter().any(built) {
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
        // and on the network. RELEASE.md asks for `cargo deny check advisories`.
        // Two versions of one crate are only a warning (deny.toml), and four hundred lines.
        let deny = ["deny", "--log-level", "error", "check", "licenses", "bans", "sources"];
        self.command("cargo-deny", &mut cargo(deny))?;
        // Cargo sets this variable for every program that it runs, this one too. With it,
        // cargo-machete behaves as if it were itself under development.
        let mut machete = cargo(["machete"]);
        self.command("unused dependencies", machete.env_remove("CARGO_PKG_NAME"))?;
        self.stage("each crate alone", check::features::check)?;
        self.minimum()
    }

    /// Checks with the oldest Rust that is declared, or notes that it is not here.
    fn minimum(&mut self) -> anyhow::Result<()> {
        const NAME: &str = "minimum Rust";
        let mut missing = None;
        self.stage(NAME, || {
            missing = check::minimum::check()?;
            missing.iter().try_for_each(|why| out!("{why}"))?;
            Ok(())
        })?;
        if let (Some(why), Some(stage)) = (missing, self.stages.last_mut()) {
            stage.result = Outcome::Skipped;
            self.notes.push(format!("{NAME}: {why}"));
        }
        Ok(())
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

    fn print(&self) -> Result<(), OutputError> {
        out!("\n{:<22} {:<7} {:>8}", "stage", "result", "seconds")?;
        for Stage { name, result, took } in &self.stages {
            let result = match result {
                Outcome::Passed => "ok",
                Outcome::Failed => "FAILED",
                Outcome::Skipped => "skipped",
            };
            out!("{name:<22} {result:<7} {:>8.1}", took.as_secs_f64())?;
        }
        for note in &self.notes {
            out!("{note}")?;
        }
        Ok(())
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
    // Files of another compiler are kept apart, so that neither makes the other start over.
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

/// Runs `cargo test`, prints its output, and adds up its result lines.
fn run_tests(command: &mut Command, totals: &mut Totals) -> anyhow::Result<()> {
    print(command)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo test does not start")?;
    let stdout = child.stdout.take().context("cargo test has no output")?;
    let mut printed = Ok(());
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("the output of cargo test cannot be read")?;
        let line = String::from_utf8_lossy(&line);
        // Without a reader, the tests still run to their end: they remove what they have made.
        printed = printed.and_then(|()| out!("{line}"));
        totals.add(&line);
    }
    let status = child.wait().context("cargo test cannot be waited for")?;
    printed?;
    if !status.success() {
        bail!("cargo test failed: {status}");
    }
    Ok(())
}

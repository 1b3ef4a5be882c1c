//! `cargo xtask soak`: knocks, floods, kills, reloads, flushes and flaps at random from a seed,
//! and after each step a look at whether strangers are out, granted sources in, and whether
//! everything adds up.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod check;
mod device;
mod model;
mod probe;
mod steps;
mod world;

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use clap::Parser;
use knock_output::{OutputError, note, out};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use check::Counts;
use device::Device;
use model::Model;
use steps::Kind;
use world::World;

/// Mix everything that can happen to an agent at random, in network namespaces of its own.
#[derive(Parser)]
#[command(name = "cargo xtask soak", max_term_width = 100)]
struct Arguments {
    /// Minutes to run.
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Seed that chooses the steps. Without it a new one is drawn and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Run only steps whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    only: String,
}

/// The state that the steps work with.
struct Soak {
    world: World,
    model: Model,
    counts: Counts,
    rng: StdRng,
    tally: Tally,
    device: Device,
    /// A connection from the time of a grant, which must outlive all that happens.
    connection: Option<TcpStream>,
}

/// Counts of what was done, for the summary.
#[derive(Debug, Default)]
struct Tally {
    steps: BTreeMap<&'static str, u64>,
    knocks: u64,
    frames: u64,
    kills: u64,
    stops: u64,
    checks: u64,
    probes: u64,
    /// Answers that took a second attempt.
    slow: u64,
    longest: Duration,
}

fn main() -> ExitCode {
    knock_output::run("soak", soak)
}

fn soak(arguments: Arguments) -> Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the soak loads programs and makes namespaces: run it as root");
    }
    let seed = arguments.seed.unwrap_or_else(rand::random);
    out!("seed {seed}, {} minutes", arguments.minutes)?;
    let mut soak = match caught(|| Soak::begin(seed)) {
        Ok(soak) => soak,
        Err(error) => {
            note!("FAILED before the first step, seed {seed}: {error:#}");
            return Ok(ExitCode::FAILURE);
        }
    };
    if !Kind::any(&arguments.only) {
        bail!("there is no step whose name contains `{}`", arguments.only);
    }
    let end = Instant::now() + Duration::from_secs_f64(arguments.minutes * 60.0);
    let mut number = 0;
    let mut failed = None;
    while failed.is_none() && Instant::now() < end {
        number += 1;
        knock_output::write(format_args!("{number:>6}  "))?;
        let (story, took, result) = soak.step(&arguments.only);
        let printed = out!("{story} ({:.0} ms)", took.as_secs_f64() * 1000.0);
        // A failure counts for more than a reader that has gone.
        match result {
            Ok(()) => printed?,
            Err(error) => failed = Some((story, error)),
        }
    }
    if failed.is_none() {
        failed = caught(|| soak.off()).err().map(|error| ("off".to_owned(), error));
    }
    let printed = soak.tally.print(seed, arguments.minutes, number);
    let Some((step, error)) = failed else {
        printed?;
        out!("No step failed.")?;
        return Ok(ExitCode::SUCCESS);
    };
    let tail = soak.world.tail().join("\n");
    note!(
        "\nFAILED in step {number}, {step}: {error:#}\n\nThe agent's last words:\n{tail}\n\n\
         Again with: cargo xtask soak --minutes {} --seed {seed}",
        arguments.minutes
    );
    Ok(ExitCode::FAILURE)
}

/// Runs `work` and turns a panic of the lab into an error.
fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(anyhow!("panic: {}", text.unwrap_or_default()))
    })
}

impl Soak {
    fn begin(seed: u64) -> Result<Self> {
        let keys = knock_lab::leftovers::folder();
        let model = Model::new(keys.path().join("keys"));
        let mut world = World::new(&model.plan.toml());
        let device = Device::new(&world, keys)?;
        world.start()?;
        let counts = Counts::begin(&world)?;
        let rng = StdRng::seed_from_u64(seed);
        let mut soak =
            Self { world, model, counts, rng, tally: Tally::default(), device, connection: None };
        soak.check()?;
        Ok(soak)
    }

    /// Takes a step and checks everything after it. Returns what the step was, how long it took, and
    /// whether the checks passed.
    fn step(&mut self, only: &str) -> (String, Duration, Result<()>) {
        let kind = Kind::choose(&mut self.rng, only);
        *self.tally.steps.entry(kind.name()).or_default() += 1;
        let begun = Instant::now();
        let mut story = kind.name().to_owned();
        let result = caught(|| {
            let what = kind.run(self)?;
            story = format!("{story}: {what}");
            self.check()
        });
        let took = begun.elapsed();
        self.tally.longest = self.tally.longest.max(took);
        (story, took, result)
    }

    /// Checks the state after a step.
    fn check(&mut self) -> Result<()> {
        self.tally.checks += 1;
        check::settle(&mut self.world, &mut self.model, &mut self.counts)?;
        check::check_trial(&self.world, &self.model)?;
        self.probe()?;
        self.hold_connection()
    }

    /// Switches the agent off at the end, and checks that no trace is left.
    fn off(&mut self) -> Result<()> {
        let program = self.world.attached_program()?;
        self.world.verb(&["off"])?;
        self.world.await_end()?;
        let server = &self.world.lab.server;
        let tables = server.sh("nft list tables");
        if !tables.is_empty() {
            bail!("`xknockd off` leaves {tables}");
        }
        let links = server.ip("-d link show");
        if links.contains("xdp") {
            bail!("`xknockd off` leaves a program: {links}");
        }
        for path in [self.world.paths().pins, self.world.paths().run] {
            if path.exists() {
                bail!("`xknockd off` leaves {}", path.display());
            }
        }
        knock_lab::services::eventually("the end of the program", || {
            knock_detector::program_name(program).is_none()
        });
        Ok(())
    }
}

impl Tally {
    fn print(&self, seed: u64, minutes: f64, steps: u64) -> Result<(), OutputError> {
        out!(
            "\nseed {seed}, {minutes} minutes: {steps} steps, {} knocks, {} frames of floods, \
             {} kills, {} restarts by SIGTERM, {} checks with {} probes ({} answered at a second \
             attempt), longest step {:.1} s",
            self.knocks,
            self.frames,
            self.kills,
            self.stops,
            self.checks,
            self.probes,
            self.slow,
            self.longest.as_secs_f64()
        )?;
        for (name, count) in &self.steps {
            out!("{count:>6}  {name}")?;
        }
        Ok(())
    }
}

/// Returns true in one of `of` cases.
fn one_in(rng: &mut StdRng, of: u32) -> bool {
    rng.random_range(0..of) == 0
}

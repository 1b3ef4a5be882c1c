//! `cargo xtask fuzz`: runs fuzz targets for a while, and prints their coverage.

mod report;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context as _, bail};
use knock_output::out;

use crate::command::{cargo, host, print, root, run, target_directory};
use crate::setup::{self, Group};
use report::Report;

/// The longest time for one input, in seconds.
const TIMEOUT: u32 = 10;
/// The longest input, in bytes: room for jumbo frames and for the longest answers of netlink.
const LONGEST: u32 = 16 << 10;
/// How targets are built: more optimisation gains little, and takes twice as long to build.
const PROFILE: [(&str, &str); 3] =
    [("LTO", "off"), ("OPT_LEVEL", "1"), ("DEBUG", "line-tables-only")];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run each target for this many seconds. As many run at a time as there are CPUs.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Run only this target. May be repeated.
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// Use AddressSanitizer, for unsafe code in dependencies. It is slower.
    ///
    /// It is unstable, so the build sets RUSTC_BOOTSTRAP=1.
    #[arg(long)]
    address_sanitizer: bool,
    /// Add inputs that reached new code to the corpus in the repository.
    #[arg(long)]
    keep: bool,
}

impl Arguments {
    /// The arguments of continuous integration.
    pub(crate) const fn short() -> Self {
        Self { seconds: 10, target: Vec::new(), address_sanitizer: false, keep: false }
    }
}

pub(crate) fn fuzz(arguments: &Arguments) -> anyhow::Result<()> {
    setup::ensure(Group::Test, true)?;
    run_targets(arguments)
}

/// Runs targets. Everything that they need must be installed.
pub(crate) fn run_targets(arguments: &Arguments) -> anyhow::Result<()> {
    let targets = choose(&arguments.target)?;
    let programs = build(arguments.address_sanitizer)?;
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let mut reports = Vec::new();
    for targets in targets.chunks(at_once) {
        let running = targets.iter().map(|target| start(&programs, target, arguments.seconds));
        // Start all of them before waiting for the first.
        let running: Vec<_> = running.collect();
        for (target, child) in targets.iter().zip(running) {
            reports.push((target, wait(target, child?)?));
        }
    }
    out!("\n{}", Report::HEADING)?;
    for (target, report) in &reports {
        out!("{target:<10} {report}")?;
    }
    let failed: Vec<_> = reports.iter().filter(|(_, report)| !report.passed).collect();
    for (target, report) in &failed {
        explain(&programs, target, report)?;
    }
    if let [(first, _), ..] = failed.as_slice() {
        bail!("{} of {} targets failed, the first is {first}", failed.len(), reports.len());
    }
    if arguments.keep {
        targets.iter().try_for_each(|target| keep(&programs, target))?;
    }
    Ok(())
}

/// Returns all targets, or those that were asked for.
fn choose(wanted: &[String]) -> anyhow::Result<Vec<String>> {
    let folder = root().join("fuzz/targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))?;
    let mut known = Vec::new();
    for entry in entries {
        known.extend(entry?.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    known.sort_unstable();
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(name)) {
        bail!("there is no target `{unknown}`; there are {}", known.join(", "));
    }
    known.retain(|name| wanted.is_empty() || wanted.contains(name));
    Ok(known)
}

/// Builds all targets. Returns the folder that holds the programs.
fn build(address_sanitizer: bool) -> anyhow::Result<PathBuf> {
    let sanitizer = if address_sanitizer { "address" } else { "none" };
    let host = host()?;
    let folder = target_directory().join("fuzz").join(sanitizer);
    let mut command = cargo(["fuzz", "build", "--fuzz-dir", "fuzz", "--codegen-units", "16"]);
    command.args(["--sanitizer", sanitizer, "--target", &host]).arg("--target-dir").arg(&folder);
    for (key, value) in PROFILE {
        command.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
    }
    if address_sanitizer {
        out!("AddressSanitizer is unstable; RUSTC_BOOTSTRAP=1 lets this compiler have it.")?;
        command.env("RUSTC_BOOTSTRAP", "1");
    } else {
        out!("Coverage alone, no sanitizer: any compiler will do.")?;
    }
    run(&mut command)?;
    Ok(folder.join(host).join("release"))
}

/// Starts a target with the corpora of earlier runs and of the repository.
fn start(programs: &Path, target: &str, seconds: u32) -> anyhow::Result<Child> {
    for folder in [found(target), artifacts(target)] {
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let log = File::create(log(target)).context("no log file for a target")?;
    let mut command = Command::new(programs.join(target));
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={TIMEOUT}"));
    command.arg(format!("-max_len={LONGEST}"));
    command.arg(format!("-artifact_prefix={}/", artifacts(target).display()));
    command.arg(found(target)).arg(corpus(target)).current_dir(root());
    print(&command)?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("target {target} does not start"))
}

fn wait(target: &str, mut child: Child) -> anyhow::Result<Report> {
    let status = child.wait().with_context(|| format!("target {target} cannot be waited for"))?;
    let text = read_log(target)?;
    Ok(Report::read(&text, status.success()))
}

/// Prints why a target failed, and how to reproduce it.
fn explain(programs: &Path, target: &str, report: &Report) -> anyhow::Result<()> {
    out!("\n{target} failed. The end of {}:", log(target).display())?;
    out!("{}", report::cause(&read_log(target)?))?;
    match &report.reproducer {
        Some(input) => out!(
            "The input is {input}. Again: {} {input}\nOnce it is fixed, put the input into {}, \
             so that `cargo test -p xknock-fuzz` tries it from then on.",
            programs.join(target).display(),
            corpus(target).display()
        )?,
        None => out!("It left no input behind.")?,
    }
    Ok(())
}

/// Adds the fewest files that reach new code to the repository's corpus.
fn keep(programs: &Path, target: &str) -> anyhow::Result<()> {
    let mut merge = Command::new(programs.join(target));
    merge.args(["-set_cover_merge=1", "-use_counters=0"]);
    merge.arg(corpus(target)).arg(found(target));
    run(merge.stderr(Stdio::null()))
}

/// The corpus in the repository, which only [`keep`] changes.
fn corpus(target: &str) -> PathBuf {
    root().join("fuzz/corpus").join(target)
}

/// Inputs found since the target directory was made.
fn found(target: &str) -> PathBuf {
    target_directory().join("fuzz/corpus").join(target)
}

fn artifacts(target: &str) -> PathBuf {
    target_directory().join("fuzz/artifacts").join(target)
}

fn log(target: &str) -> PathBuf {
    target_directory().join("fuzz").join(format!("{target}.log"))
}

fn read_log(target: &str) -> anyhow::Result<String> {
    // Generated inputs may be printed as they are.
    let bytes = fs::read(log(target)).context("the log of a target is gone")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

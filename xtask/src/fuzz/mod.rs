//! `cargo xtask fuzz`: every fuzz target for a while, with what it reached.

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

/// Longest that one input may take, in seconds.
const TIMEOUT: u32 = 10;
/// Longest input, in bytes: room for jumbo frames and for what netlink sends at once.
const LONGEST: u32 = 16 << 10;
/// What the targets take besides the build itself: little is gained by optimising more, and
/// half of the time to build is lost.
const PROFILE: [(&str, &str); 3] =
    [("LTO", "off"), ("OPT_LEVEL", "1"), ("DEBUG", "line-tables-only")];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long each target runs; as many run at a time as there are CPUs.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Only this target; may be given more than once.
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// With AddressSanitizer: slower, for what is unsafe in dependencies. A stable compiler is
    /// told by RUSTC_BOOTSTRAP=1 to have it.
    #[arg(long)]
    address_sanitizer: bool,
    /// Add to the corpus in the repository what reached code that it did not.
    #[arg(long)]
    keep: bool,
}

impl Arguments {
    /// What continuous integration runs.
    pub(crate) const fn short() -> Self {
        Self { seconds: 10, target: Vec::new(), address_sanitizer: false, keep: false }
    }
}

pub(crate) fn fuzz(arguments: &Arguments) -> anyhow::Result<()> {
    setup::ensure(Group::Test, true)?;
    run_targets(arguments)
}

/// The same where everything is known to be there.
pub(crate) fn run_targets(arguments: &Arguments) -> anyhow::Result<()> {
    let targets = choose(&arguments.target)?;
    let programs = build(arguments.address_sanitizer)?;
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let mut reports = Vec::new();
    for targets in targets.chunks(at_once) {
        let running = targets.iter().map(|target| start(&programs, target, arguments.seconds));
        // All of them are waited for, whichever does not start.
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

/// All targets, or those that were asked for.
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

/// Builds all targets; the folder that holds the programs.
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

/// Starts a target, which goes on from what earlier runs and the repository have.
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

/// Says what went wrong, and how to see it again.
fn explain(programs: &Path, target: &str, report: &Report) -> anyhow::Result<()> {
    out!("\n{target} failed. The end of {}:", log(target).display())?;
    out!("{}", report::cause(&read_log(target)?))?;
    match &report.reproducer {
        Some(input) => out!(
            "The input is {input}. Again: {} {input}\nOnce it is fixed, put the input into {}, \
             so that `cargo test -p xknock-fuzz` tries it for ever.",
            programs.join(target).display(),
            corpus(target).display()
        )?,
        None => out!("It left no input behind.")?,
    }
    Ok(())
}

/// Adds to the repository's corpus what reaches more code, as few files as will do.
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

/// What was found since the target directory was made.
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
    // Made-up inputs are printed as they are.
    let bytes = fs::read(log(target)).context("the log of a target is gone")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

//! `cargo xtask test --kernel`: tests on other kernels, in qemu.

mod abreast;
mod archive;
mod initramfs;
mod known;
mod machine;
mod programs;
mod results;
mod scratch;
mod userland;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use knock_output::{OutputError, out};

use crate::command::target_directory;
use crate::setup::{self, Group};
use crate::test::Totals;
use abreast::Voice;
use archive::Unpacked;
use initramfs::Tree;
use known::{Expect, Kernel};
use machine::Acceleration;
use programs::{Part, Programs};
use results::{Line, Outcome};
use scratch::Scratch;

/// Factor of the tests' time limits, because an emulated machine is several times slower.
const PATIENCE: u32 = 8;

/// Room on the disk for the archive of a guest, in MiB.
const ARCHIVE: u64 = 1000;

/// The kernel that every change is tested on.
pub(crate) const OF_CI: &str = "6.1";

/// The tests to run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Selection<'a> {
    /// Those whose names contain one of these, or all if there are none.
    Named(&'a [String]),
    /// All of the shorter test programs, and some of the longest.
    Essential,
}

/// Runs tests on the kernels that `name` stands for, and adds up what they say.
pub(crate) fn test(
    name: &str,
    selection: Selection<'_>,
    totals: &mut Totals,
) -> anyhow::Result<()> {
    let kernels = known::find(name).map_err(|why| anyhow!(why))?;
    if cfg!(not(target_arch = "x86_64")) {
        bail!("other kernels are booted on x86_64 only, so far");
    }
    setup::ensure(Group::Kernel, true)?;
    let scratch = Scratch::below(&target_directory().join("kernels"))?;
    let programs = Programs::build(&scratch)?;
    // One after the other: they share the network, and apt prints much.
    let fetch = |kernel| (kernel, archive::fetch(kernel, &folder(kernel)));
    let fetched: Vec<_> = kernels.iter().map(fetch).collect();
    let at_once = abreast::at_once().min(fetched.len());
    archive::room(scratch.path(), ARCHIVE * at_once as u64)?;
    let (run, totals) = (Run { scratch, programs, selection }, Mutex::new(totals));
    let rows = abreast::each(&fetched, at_once, |(kernel, unpacked)| {
        let voice = Voice::of(kernel.version, fetched.len() == 1);
        Row::of(kernel, unpacked.as_ref(), &run, &voice, &totals)
    });
    out!("\n{:<8} {:<26} {:<12} {:>8}  verifier", "kernel", "package", "result", "seconds")?;
    rows.iter().try_for_each(Row::print)?;
    let those = |which: fn(&&Row<'_>) -> bool| {
        let versions = rows.iter().filter(which).map(|row| row.kernel.version);
        versions.collect::<Vec<_>>().join(", ")
    };
    let failed = those(|row| row.result.is_err());
    if !failed.is_empty() {
        bail!("failed on {failed}");
    }
    // For tests chosen by name, the sum over all kernels shows whether any ran.
    let idle = those(|row| !row.ran);
    if !idle.is_empty() && !matches!(selection, Selection::Named([_, ..])) {
        bail!("no test ran on {idle}");
    }
    Ok(())
}

/// What the guests of one run share.
struct Run<'a> {
    scratch: Scratch,
    programs: Programs,
    selection: Selection<'a>,
}

/// Where a kernel is, and the consoles of guests that failed on it.
fn folder(kernel: &Kernel) -> PathBuf {
    target_directory().join("kernels").join(kernel.version)
}

/// How a kernel did.
struct Row<'a> {
    kernel: &'a Kernel,
    package: String,
    result: anyhow::Result<()>,
    /// Whether any test program ran.
    ran: bool,
    /// Why a part could not run.
    skipped: Option<String>,
    /// What the agent printed about the verifier.
    verifier: String,
    took: Duration,
}

impl<'a> Row<'a> {
    fn of(
        kernel: &'a Kernel,
        unpacked: Result<&Unpacked, &anyhow::Error>,
        run: &Run<'_>,
        voice: &Voice,
        totals: &Mutex<&mut Totals>,
    ) -> Self {
        voice.say(format_args!("\n== kernel {} ({})", kernel.version, kernel.of));
        let start = Instant::now();
        let mut row = Self {
            kernel,
            package: String::new(),
            result: Ok(()),
            ran: false,
            skipped: None,
            verifier: String::new(),
            took: Duration::ZERO,
        };
        row.result = match unpacked {
            Ok(unpacked) => row.run(unpacked, run, voice, totals),
            Err(why) => Err(anyhow!("{why:#}")),
        };
        if let Err(error) = &row.result {
            voice.say(format_args!("kernel {}: {error:#}", kernel.version));
        }
        row.took = start.elapsed();
        row
    }

    fn run(
        &mut self,
        unpacked: &Unpacked,
        run: &Run<'_>,
        voice: &Voice,
        totals: &Mutex<&mut Totals>,
    ) -> anyhow::Result<()> {
        let folder = folder(self.kernel);
        self.package.clone_from(&unpacked.package);
        let parts = run.programs.parts(&run.scratch, self.kernel.expect, run.selection)?;
        if parts.is_empty() {
            self.skipped = Some("no test of that name is for this kernel".into());
            return Ok(());
        }
        let initramfs = run.scratch.path().join(format!("initramfs.{}", self.kernel.version));
        tree(unpacked, run, &parts)?.write(&initramfs)?;
        let acceleration = Acceleration::probe(&unpacked.image);
        let console = machine::console_of(&folder);
        let mut outcome = Outcome::default();
        let mut wrong_release = None;
        let ended = machine::boot(acceleration, &unpacked.image, &initramfs, &console, |text| {
            let line = Line::parse(text);
            outcome.note(&line);
            match line {
                Line::Booted(release) if release != unpacked.release => {
                    wrong_release = Some(release.to_owned());
                }
                Line::Booted(release) => {
                    voice.say(format_args!("booted {release} ({acceleration:?})"));
                }
                Line::Begin(name) => voice.say(format_args!("     Running {name}")),
                Line::Skip(name, why) => {
                    voice.say(format_args!("     Skipped {name}: {why}"));
                }
                Line::End(..) | Line::Done => {}
                Line::Output(text) => {
                    locked(totals).add(text);
                    if let Some(rest) = text.strip_prefix("verifier: ") {
                        rest.clone_into(&mut self.verifier);
                    }
                    voice.say(text);
                }
            }
        });
        // It is large, and the next guest writes one, too.
        let _ = fs::remove_file(&initramfs);
        ended?;
        if let Some(release) = wrong_release {
            bail!("it booted {release} in place of {}", unpacked.release);
        }
        if !outcome.done() {
            bail!(
                "the guest ended before its plan did; the end of its console:\n{}",
                machine::end_of(&console)
            );
        }
        for part in &parts {
            if let Some(why) = outcome.skipped(&part.name) {
                locked(totals).skip(part.tests);
                self.skipped = Some(format!("{}: {why}", part.name));
            } else {
                self.ran |= part.tests > 0;
            }
        }
        let failed = outcome.failed(parts.iter().map(|part| part.name.as_str()));
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        fs::remove_file(&console).context("the console's log cannot be removed")
    }

    fn print(&self) -> Result<(), OutputError> {
        let result = match (&self.result, &self.skipped, self.kernel.expect) {
            (Err(_), ..) => "FAILED",
            (Ok(()), Some(_), _) if self.ran => "ok in part",
            (Ok(()), Some(_), _) => "skipped",
            (Ok(()), None, Expect::Green) => "ok",
            (Ok(()), None, Expect::Refusal) => "ok (refused)",
        };
        let (version, package, took) = (self.kernel.version, &self.package, self.took.as_secs());
        let skipped = self.skipped.iter().map(|why| format!("skipped {why}"));
        let verifier = Some(self.verifier.clone()).filter(|figures| !figures.is_empty());
        let notes: Vec<_> = verifier.into_iter().chain(skipped).collect();
        let notes = notes.join("; ");
        out!("{version:<8} {package:<26} {result:<12} {took:>8}  {notes}")
    }
}

fn locked<'a, 'b>(totals: &'a Mutex<&'b mut Totals>) -> MutexGuard<'a, &'b mut Totals> {
    totals.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The guest's root: the host's programs, the kernel's modules, what was built, and init.
fn tree(unpacked: &Unpacked, run: &Run<'_>, parts: &[Part]) -> anyhow::Result<Tree> {
    let mut tree = Tree::default();
    for folder in ["/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/var/tmp"] {
        tree.folder(Path::new(folder));
    }
    let kept = |program: &PathBuf| run.scratch.kept(program);
    let libraries_of: Vec<PathBuf> = run.programs.files().map(kept).collect();
    let fail = |path: &Path| format!("cannot read {}", path.display());
    for path in userland::files(&libraries_of)? {
        tree.add(&path).with_context(|| fail(&path))?;
    }
    for program in run.programs.files() {
        tree.add_kept(program, kept(program)).with_context(|| fail(program))?;
    }
    let modules = Path::new("/usr/lib/modules").join(&unpacked.release);
    tree.add_below(&unpacked.modules, &modules)
        .with_context(|| format!("cannot read {}", unpacked.modules.display()))?;
    tree.program(Path::new("/init"), include_str!("init.sh"));
    let plan: String = parts.iter().map(Part::line).collect();
    tree.program(Path::new("/xknock/plan"), &plan);
    Ok(tree)
}

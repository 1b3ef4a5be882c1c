//! `cargo xtask test --kernel`: the tests on other kernels, in qemu.

mod archive;
mod initramfs;
mod known;
mod machine;
mod programs;
mod results;
mod userland;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};

use crate::{
    command::target_directory,
    setup::{self, Group},
    test::Totals,
};
use archive::Unpacked;
use initramfs::Tree;
use known::{Expect, Kernel};
use machine::Acceleration;
use programs::{Part, Programs};
use results::{Line, Outcome};

/// Emulated, everything takes some times as long; the tests multiply their time limits.
const PATIENCE: u32 = 8;

/// The kernel that every change is tested on.
pub(crate) const OF_CI: &str = "6.1";

/// Which tests are run.
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
    let programs = Programs::build()?;
    let mut rows = Vec::new();
    for kernel in kernels {
        rows.push(Row::of(kernel, &programs, selection, totals));
    }
    println!("\n{:<8} {:<26} {:<12} {:>8}  verifier", "kernel", "package", "result", "seconds");
    rows.iter().for_each(Row::print);
    let failed: Vec<_> =
        rows.iter().filter(|row| row.result.is_err()).map(|row| row.kernel.version).collect();
    if failed.is_empty() {
        return Ok(());
    }
    bail!("failed on {}", failed.join(", "))
}

/// How a kernel did.
struct Row<'a> {
    kernel: &'a Kernel,
    package: String,
    result: anyhow::Result<()>,
    /// Why some of it could not run.
    skipped: Option<String>,
    /// What the agent said of the verifier.
    verifier: String,
    took: Duration,
}

impl<'a> Row<'a> {
    fn of(
        kernel: &'a Kernel,
        programs: &Programs,
        selection: Selection<'_>,
        totals: &mut Totals,
    ) -> Self {
        println!("\n== kernel {} ({})", kernel.version, kernel.of);
        let start = Instant::now();
        let mut row = Self {
            kernel,
            package: String::new(),
            result: Ok(()),
            skipped: None,
            verifier: String::new(),
            took: Duration::ZERO,
        };
        row.result = row.run(programs, selection, totals);
        if let Err(error) = &row.result {
            println!("kernel {}: {error:#}", kernel.version);
        }
        row.took = start.elapsed();
        row
    }

    fn run(
        &mut self,
        programs: &Programs,
        selection: Selection<'_>,
        totals: &mut Totals,
    ) -> anyhow::Result<()> {
        let folder = target_directory().join("kernels").join(self.kernel.version);
        let unpacked = archive::fetch(self.kernel, &folder)?;
        self.package.clone_from(&unpacked.package);
        let parts = programs.parts(self.kernel.expect, selection)?;
        // Two runs at once share the kernel, and nothing else.
        let run = std::process::id();
        let initramfs = folder.join(format!("initramfs.{run}"));
        tree(&unpacked, programs, &parts)?.write(&initramfs)?;
        let acceleration = Acceleration::probe(&unpacked.image);
        let console = machine::console_of(&folder, run);
        let mut outcome = Outcome::default();
        let mut wrong_release = None;
        let ended = machine::boot(acceleration, &unpacked.image, &initramfs, &console, |text| {
            let line = Line::parse(text);
            outcome.note(&line);
            match line {
                Line::Booted(release) if release != unpacked.release => {
                    wrong_release = Some(release.to_owned());
                }
                Line::Booted(release) => println!("booted {release} ({acceleration:?})"),
                Line::Begin(name) => println!("     Running {name}"),
                Line::Skip(name, why) => println!("     Skipped {name}: {why}"),
                Line::End(..) | Line::Done => {}
                Line::Output(text) => {
                    totals.add(text);
                    if let Some(rest) = text.strip_prefix("verifier: ") {
                        rest.clone_into(&mut self.verifier);
                    }
                    println!("{text}");
                }
            }
        });
        // It is large, and not needed again.
        fs::remove_file(&initramfs).context("the archive cannot be removed")?;
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
                totals.skip(part.tests);
                self.skipped = Some(why.to_owned());
            }
        }
        let failed = outcome.failed(parts.iter().map(|part| part.name.as_str()));
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        fs::remove_file(&console).context("the console's log cannot be removed")
    }

    fn print(&self) {
        let result = match (&self.result, &self.skipped, self.kernel.expect) {
            (Err(_), ..) => "FAILED",
            (Ok(()), Some(_), _) => "skipped",
            (Ok(()), None, Expect::Green) => "ok",
            (Ok(()), None, Expect::Refusal) => "ok (refused)",
        };
        let (version, package, took) = (self.kernel.version, &self.package, self.took.as_secs());
        let notes = self.skipped.as_ref().unwrap_or(&self.verifier);
        println!("{version:<8} {package:<26} {result:<12} {took:>8}  {notes}");
    }
}

/// The guest's root: the host's programs, the kernel's modules, what was built, and init.
fn tree(unpacked: &Unpacked, programs: &Programs, parts: &[Part]) -> anyhow::Result<Tree> {
    let mut tree = Tree::default();
    for folder in ["/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/var/tmp"] {
        tree.folder(Path::new(folder));
    }
    let binaries: Vec<PathBuf> = programs.files().cloned().collect();
    for path in userland::files(&binaries)?.iter().chain(&binaries) {
        tree.add(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    let modules = Path::new("/usr/lib/modules").join(&unpacked.release);
    tree.add_below(&unpacked.modules, &modules)
        .with_context(|| format!("cannot read {}", unpacked.modules.display()))?;
    tree.program(Path::new("/init"), include_str!("kernel/init.sh"));
    let plan: String = parts.iter().map(Part::line).collect();
    tree.program(Path::new("/xknock/plan"), &plan);
    Ok(tree)
}

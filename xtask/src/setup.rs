//! `cargo xtask setup`: finds missing packages and tools, and installs them.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use knock_output::{note, out};
use xknock_toolchain as toolchain;

use crate::command::{as_root, cargo, run};
use crate::packages;

/// `bpf-linker`, in the release that the build is known to work with.
const LINKER_VERSION: &str = "0.13.0";

/// Checks that are not part of cargo: the program, and suitable releases.
const TOOLS: [(&str, &str); 3] =
    [("cargo-deny", "^0.20"), ("cargo-fuzz", "^0.13"), ("cargo-machete", "^0.9")];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Report what is missing, and install nothing. The exit status is 1 if anything is missing.
    #[arg(long)]
    no_install: bool,
}

/// A purpose that needs packages and tools. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// Building the agent, the client and the XDP program.
    Build,
    /// Running the demo.
    Demo,
    /// Running every check and test.
    Test,
    /// The tests on other kernels, too.
    Kernel,
}

pub(crate) fn setup(arguments: &Arguments) -> anyhow::Result<()> {
    ensure(Group::Kernel, !arguments.no_install)?;
    let found = toolchain::find()?;
    out!(
        "Everything is there. The XDP program is built with the toolchain {} and {}.",
        found.compiler.name,
        found.linker.display()
    )?;
    Ok(())
}

/// Installs what `group` needs and is missing.
///
/// Without `install`, it changes nothing and fails if anything is missing.
pub(crate) fn ensure(group: Group, install: bool) -> anyhow::Result<()> {
    if which::which("dpkg-query").is_err() || which::which("apt-get").is_err() {
        return check_elsewhere(group);
    }
    let mut missing = Vec::new();
    let mut plan = Plan { install, missing: &mut missing };
    plan.packages(&wanted_packages(group))?;
    plan.compiler(group)?;
    plan.linker()?;
    if group >= Group::Test {
        plan.tools()?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("missing: {}; `cargo xtask setup` installs it", missing.join(", "))
}

/// Installs the peers that are available. The benchmark names the others and leaves their columns
/// out.
pub(crate) fn offer_peers() {
    let Ok(missing) = packages::not_installed(packages::PEERS) else { return };
    for package in missing {
        if let Err(error) = apt_install(&[package]) {
            note!("{package} cannot be installed, so it is not measured: {error}");
        }
    }
}

fn wanted_packages(group: Group) -> Vec<&'static str> {
    let mut wanted = packages::BUILD.to_vec();
    if group >= Group::Demo {
        wanted.extend(packages::DEMO);
    }
    if group >= Group::Test {
        wanted.extend(packages::TEST);
    }
    if group >= Group::Kernel && cfg!(target_arch = "x86_64") {
        wanted.extend(packages::KERNEL);
    }
    wanted
}

/// Names what is missing on other distributions, where packages have other names.
fn check_elsewhere(group: Group) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    let libraries = ["libnftnl", "libmnl"];
    missing
        .extend(libraries.into_iter().filter(|library| !has_library(library)).map(str::to_owned));
    if let Err(error) = toolchain::find() {
        missing.push(format!("the BPF toolchain ({error})"));
    }
    if group >= Group::Test {
        let tools = TOOLS.map(|(program, _)| program);
        missing.extend(tools.into_iter().filter(|t| which::which(t).is_err()).map(str::to_owned));
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "this is neither Debian nor Ubuntu, so please install by hand what is missing: {}. \
         Needed are a C compiler, pkg-config, the development files of libnftnl and libmnl, \
         `rustup toolchain install nightly --component rust-src`, and bpf-linker \
         {LINKER_VERSION} linked with an LLVM no older than that nightly's; \
         the tests also drive {} and {}; other kernels come from Debian's archive through apt, so \
         they can be tested on Debian only",
        missing.join(", "),
        packages::DEMO.join(", "),
        packages::TEST.join(", ")
    )
}

fn has_library(name: &str) -> bool {
    let status = Command::new("pkg-config").args(["--exists", name]).status();
    status.is_ok_and(|status| status.success())
}

/// Installs or notes whatever is missing.
struct Plan<'a> {
    install: bool,
    missing: &'a mut Vec<String>,
}

impl Plan<'_> {
    fn packages(&mut self, wanted: &[&str]) -> anyhow::Result<()> {
        let missing = packages::not_installed(wanted)?;
        if missing.is_empty() {
            return Ok(());
        }
        if !self.install {
            self.missing.extend(missing.into_iter().map(|package| format!("package {package}")));
            return Ok(());
        }
        out!("Missing packages: {}. Installing them with apt.", missing.join(" "))?;
        let known = packages::policy(&missing)?;
        if missing.iter().any(|package| packages::candidate(&known, package).is_none()) {
            apt(&["update"])?;
        }
        apt_install(&missing)
    }

    fn compiler(&mut self, group: Group) -> anyhow::Result<()> {
        if let Some(found) = toolchain::find_compiler() {
            return self.clippy(group, &found);
        }
        if !self.install {
            self.missing.push(format!("a compiler for {}", toolchain::TARGET));
            return Ok(());
        }
        out!("Missing: a compiler for {}.", toolchain::TARGET)?;
        let names = packages::COMPILERS.map(|compiler| compiler.build).concat();
        let mut choice = packages::choose_compiler(&packages::policy(&names)?);
        if choice.is_none() {
            apt(&["update"])?;
            choice = packages::choose_compiler(&packages::policy(&names)?);
        }
        match choice {
            Some(compiler) => self.packages(&compiler.build)?,
            None if which::which("rustup").is_ok() => {
                out!("The distribution has no recent one. Installing a nightly with rustup.")?;
                let install = ["toolchain", "install", "nightly", "--profile", "minimal"];
                run(Command::new("rustup").args(install).args(["--component", "rust-src"]))?;
            }
            None => bail!(
                "the distribution has no Rust {} or later that can compile for {}, and there is \
                 no rustup: install it from https://rustup.rs and try again",
                toolchain::MINIMUM,
                toolchain::TARGET
            ),
        }
        let found = toolchain::find_compiler()
            .context("the compiler was installed, yet it cannot be found")?;
        self.clippy(group, &found)
    }

    /// Installs clippy of the same release as the compiled `core`, which it reads.
    fn clippy(&mut self, group: Group, compiler: &toolchain::Compiler) -> anyhow::Result<()> {
        if group < Group::Test || compiler.sysroot.join("bin/clippy-driver").exists() {
            return Ok(());
        }
        if compiler.core == toolchain::Core::FromSource {
            if !self.install {
                self.missing.push(format!("clippy of {}", compiler.name));
                return Ok(());
            }
            let add = ["component", "add", "clippy", "--toolchain", &compiler.name];
            return run(Command::new("rustup").args(add));
        }
        let installed = |packages: [&str; 2]| {
            packages::not_installed(&packages).is_ok_and(|missing| missing.is_empty())
        };
        let owner = packages::COMPILERS.into_iter().find(|compiler| installed(compiler.build));
        let owner = owner.with_context(|| {
            format!("{} has no clippy, and is of no known package", compiler.name)
        })?;
        self.packages(&owner.lint)
    }

    fn linker(&mut self) -> anyhow::Result<()> {
        if toolchain::find_linker().is_some() {
            return Ok(());
        }
        if !self.install {
            self.missing.push(format!("bpf-linker {LINKER_VERSION}"));
            return Ok(());
        }
        let compiler = toolchain::find_compiler().context("no compiler to link for")?;
        let llvm = compiler.version.llvm;
        out!("Missing: bpf-linker. Building {LINKER_VERSION} with LLVM {llvm}.")?;
        let wanted = packages::linker(llvm);
        self.packages(&wanted.iter().map(String::as_str).collect::<Vec<_>>())?;

        // The first `llvm-config` on the path decides which LLVM is linked.
        let prefix = format!("/usr/lib/llvm-{llvm}");
        let inherited = env::var_os("PATH").unwrap_or_default();
        let first = Path::new(&prefix).join("bin");
        let path = env::join_paths([first].into_iter().chain(env::split_paths(&inherited)))?;
        let feature = format!("llvm-{llvm}");
        let mut install = cargo(["install", "bpf-linker", "--locked", "--version", LINKER_VERSION]);
        install.args(["--no-default-features", "--features", &feature]);
        run(install.env("PATH", path).env("LLVM_PREFIX", prefix))
    }

    fn tools(&mut self) -> anyhow::Result<()> {
        for (program, version) in TOOLS {
            // All are cargo subcommands, which cargo also finds in its own directory.
            if which::which(program).is_ok() {
                continue;
            }
            if !self.install {
                self.missing.push(program.to_owned());
                continue;
            }
            out!("Missing: {program}. Building it, which takes some minutes.")?;
            let mut install = cargo(["install", program, "--locked", "--version", version]);
            // It runs for a second, once; most of the time would go into optimising it.
            for (key, value) in [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("OPT_LEVEL", "1")] {
                install.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
            }
            run(&mut install)?;
        }
        Ok(())
    }
}

/// Installs packages. If that fails, it tries once more with a fresh list of packages: one that is
/// some days old names versions that the archive has replaced.
fn apt_install(packages: &[&str]) -> anyhow::Result<()> {
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    apt(&install).or_else(|_| {
        out!("That failed, perhaps over an old list of packages. Trying again with a new one.")?;
        apt(&["update"])?;
        apt(&install)
    })
}

fn apt(arguments: &[&str]) -> anyhow::Result<()> {
    // Through `env`, since sudo does not hand the environment on.
    let quiet = ["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"];
    run(as_root("env").args(quiet).args(arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_includes_the_one_before() {
        let build = wanted_packages(Group::Build);
        let demo = wanted_packages(Group::Demo);
        let test = wanted_packages(Group::Test);
        assert!(build.iter().all(|package| demo.contains(package)));
        assert!(demo.iter().all(|package| test.contains(package)));
        assert!(build.len() < demo.len() && demo.len() < test.len());
    }
}

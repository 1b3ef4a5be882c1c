//! Finds the toolchain that builds the XDP program.
//!
//! Compiling for `bpfel-unknown-none` takes a `core` for that target and the linker
//! `bpf-linker`. No stable rustup toolchain brings such a `core`, so it comes either from a
//! distribution that ships it compiled (Debian's `libstd-rust-web-dev-bpf`) or from a rustup
//! nightly that has the sources and compiles it on the way (`-Z build-std`).
//!
//! The build script and `cargo xtask` both ask here, so that they cannot disagree. Nothing is
//! installed and nothing outside this process is changed.

mod version;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use version::{MINIMUM, RustcVersion};

/// The target that the XDP program is compiled for on a little-endian host.
pub const TARGET: &str = "bpfel-unknown-none";

/// The crates that may use unstable features under a stable compiler.
///
/// `RUSTC_BOOTSTRAP` takes crate names, which is narrower than `1`. With `1` aya-build would also
/// compile `core` again, for which the distribution's compiler has no sources.
const BOOTSTRAP_CRATES: &str = "aya_ebpf,knock_ebpf";

/// Where distributions put their compiler.
const SYSTEM_PREFIXES: [&str; 2] = ["/usr", "/usr/local"];

/// How a compiler comes by `core` for [`TARGET`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Core {
    /// It lies compiled below the sysroot.
    Precompiled,
    /// Cargo compiles it from the sources below the sysroot, with `-Z build-std`.
    FromSource,
}

/// A compiler that can build for [`TARGET`], with or without a linker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// The toolchain as `rustup run` takes it: a name, or the path of a sysroot.
    pub name: String,
    /// The compiler's sysroot.
    pub sysroot: PathBuf,
    /// Where its `core` comes from.
    pub core: Core,
    /// Its release, and that of its LLVM.
    pub version: RustcVersion,
    /// Whether programs of this toolchain are started through rustup.
    pub through_rustup: bool,
}

/// A compiler and a linker: all that building the XDP program takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BpfToolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// The path of `bpf-linker`.
    pub linker: PathBuf,
}

/// What is missing to build the XDP program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// There is no compiler; a linker was found.
    #[error("no Rust {MINIMUM} or later that can compile for {TARGET}")]
    Compiler,
    /// There is no linker; a compiler was found.
    #[error("no bpf-linker")]
    Linker,
    /// There is neither.
    #[error("no Rust {MINIMUM} or later that can compile for {TARGET}, and no bpf-linker")]
    Both,
}

/// Finds the toolchain that builds the XDP program.
///
/// # Errors
///
/// [`Missing`] names the parts that were not found.
pub fn find() -> Result<BpfToolchain, Missing> {
    match (find_compiler(), find_linker()) {
        (Some(compiler), Some(linker)) => Ok(BpfToolchain { compiler, linker }),
        (None, Some(_)) => Err(Missing::Compiler),
        (Some(_), None) => Err(Missing::Linker),
        (None, None) => Err(Missing::Both),
    }
}

/// Finds a compiler for [`TARGET`]: the distribution's, else a rustup nightly with sources.
///
/// The distribution's comes first because it is a release, and its LLVM moves with the packages
/// that `bpf-linker` is linked with; a nightly's LLVM may overtake the linker's at any update.
#[must_use]
pub fn find_compiler() -> Option<Compiler> {
    let through_rustup = which::which("rustup").is_ok();
    let mut system =
        SYSTEM_PREFIXES.iter().filter_map(|prefix| system_compiler(prefix, through_rustup));
    system.next().or_else(|| through_rustup.then(nightly_compiler).flatten())
}

/// Finds `bpf-linker`, on the path or where `cargo install` puts it.
#[must_use]
pub fn find_linker() -> Option<PathBuf> {
    let installed = || {
        let home = env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| env::home_dir().map(|home| home.join(".cargo")))?;
        which::which(home.join("bin/bpf-linker")).ok()
    };
    which::which("bpf-linker").ok().or_else(installed)
}

fn system_compiler(prefix: &str, through_rustup: bool) -> Option<Compiler> {
    let sysroot = Path::new(prefix);
    let core = core_below(sysroot)?;
    let version = RustcVersion::of(Command::new(sysroot.join("bin/rustc")))?;
    // A release has no `-Z build-std`, so sources are no help to it.
    (core == Core::Precompiled && version.is_recent_enough()).then(|| Compiler {
        name: prefix.to_owned(),
        sysroot: sysroot.to_owned(),
        core,
        version,
        through_rustup,
    })
}

fn nightly_compiler() -> Option<Compiler> {
    let list = stdout_of(Command::new("rustup").args(["toolchain", "list"]))?;
    let home = PathBuf::from(stdout_of(Command::new("rustup").args(["show", "home"]))?.trim());
    nightlies(&list).into_iter().find_map(|name| {
        let sysroot = home.join("toolchains").join(name);
        let core = core_below(&sysroot)?;
        let version = RustcVersion::of(Command::new(sysroot.join("bin/rustc")))?;
        let name = name.to_owned();
        version.is_recent_enough().then_some(Compiler {
            name,
            sysroot,
            core,
            version,
            through_rustup: true,
        })
    })
}

/// The nightlies in the output of `rustup toolchain list`: plain ones before dated ones.
fn nightlies(list: &str) -> Vec<&str> {
    let mut names: Vec<_> = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("nightly"))
        .collect();
    let is_dated = |name: &str| name["nightly".len()..].starts_with("-2");
    names.sort_by_key(|name| is_dated(name));
    names
}

fn core_below(sysroot: &Path) -> Option<Core> {
    let rustlib = sysroot.join("lib/rustlib");
    // The sources are complete only with the lock file, which `-Z build-std` insists on.
    let sources = || rustlib.join("src/rust/library/Cargo.lock").is_file();
    let is_core = |name: OsString| name.to_string_lossy().starts_with("libcore-");
    let compiled = || {
        let entries = rustlib.join(TARGET).join("lib").read_dir().into_iter().flatten();
        entries.flatten().any(|entry| is_core(entry.file_name()))
    };
    if compiled() { Some(Core::Precompiled) } else { sources().then_some(Core::FromSource) }
}

fn stdout_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

impl Compiler {
    /// What `RUSTC_BOOTSTRAP` has to be, or `None` if it must not be set.
    #[must_use]
    pub fn bootstrap(&self) -> Option<&'static str> {
        (self.core == Core::Precompiled).then_some(BOOTSTRAP_CRATES)
    }
}

impl BpfToolchain {
    /// The search path under which the compiler finds the linker.
    ///
    /// Without rustup the compiler itself is found through it too.
    #[must_use]
    pub fn path(&self) -> OsString {
        let inherited = env::var_os("PATH").unwrap_or_default();
        let first = (!self.compiler.through_rustup).then(|| self.compiler.sysroot.join("bin"));
        let last = self.linker.parent().map(Path::to_owned);
        let entries = first.into_iter().chain(env::split_paths(&inherited)).chain(last);
        env::join_paths(entries).unwrap_or(inherited)
    }

    /// A command that runs `program` of this toolchain with the environment that it needs.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = if self.compiler.through_rustup {
            let mut command = Command::new("rustup");
            command.args(["run", &self.compiler.name, program]);
            command
        } else {
            Command::new(self.compiler.sysroot.join("bin").join(program))
        };
        // Cargo hands these to what it runs; they would bring back the host's compiler.
        for key in ["RUSTC", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN", "CARGO"] {
            command.env_remove(key);
        }
        command.env("PATH", self.path());
        if let Some(crates) = self.compiler.bootstrap() {
            command.env("RUSTC_BOOTSTRAP", crates);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn plain_nightlies_come_before_dated_ones() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default)\n\
                    nightly-2026-01-02-x86_64-unknown-linux-gnu\n\
                    nightly-x86_64-unknown-linux-gnu\ndebian\n";
        assert_eq!(
            nightlies(list),
            ["nightly-x86_64-unknown-linux-gnu", "nightly-2026-01-02-x86_64-unknown-linux-gnu"]
        );
        assert!(nightlies("no installed toolchains\n").is_empty());
    }

    #[test]
    fn core_is_looked_for_below_the_sysroot() {
        let sysroot = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(core_below(sysroot.path()), None);

        let library = sysroot.path().join("lib/rustlib/src/rust/library");
        fs::create_dir_all(&library).expect("directories");
        assert_eq!(core_below(sysroot.path()), None);
        fs::write(library.join("Cargo.lock"), "").expect("a file");
        assert_eq!(core_below(sysroot.path()), Some(Core::FromSource));

        let compiled = sysroot.path().join("lib/rustlib").join(TARGET).join("lib");
        fs::create_dir_all(&compiled).expect("directories");
        assert_eq!(core_below(sysroot.path()), Some(Core::FromSource));
        fs::write(compiled.join("libcore-8056e5e5b270ef4d.rlib"), "").expect("a file");
        assert_eq!(core_below(sysroot.path()), Some(Core::Precompiled));
    }

    #[test]
    fn only_a_release_needs_leave_for_unstable_features() {
        let compiler = |core| Compiler {
            name: "any".to_owned(),
            sysroot: PathBuf::from("/usr"),
            core,
            version: RustcVersion { major: 1, minor: 96, llvm: 22 },
            through_rustup: false,
        };
        assert_eq!(compiler(Core::Precompiled).bootstrap(), Some(BOOTSTRAP_CRATES));
        assert_eq!(compiler(Core::FromSource).bootstrap(), None);
    }

    #[test]
    fn the_path_holds_compiler_and_linker() {
        let toolchain = BpfToolchain {
            compiler: Compiler {
                name: "/opt/rust".to_owned(),
                sysroot: PathBuf::from("/opt/rust"),
                core: Core::Precompiled,
                version: RustcVersion { major: 1, minor: 96, llvm: 22 },
                through_rustup: false,
            },
            linker: PathBuf::from("/opt/linker/bpf-linker"),
        };
        let path = toolchain.path();
        let entries: Vec<_> = env::split_paths(&path).collect();
        assert_eq!(entries.first(), Some(&PathBuf::from("/opt/rust/bin")));
        assert_eq!(entries.last(), Some(&PathBuf::from("/opt/linker")));
    }

    #[test]
    fn what_is_missing_is_said() {
        assert_eq!(Missing::Linker.to_string(), "no bpf-linker");
        assert!(Missing::Both.to_string().contains(TARGET));
    }
}

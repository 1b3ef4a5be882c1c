//! Other programs, each of which is printed before it runs.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use knock_output::{OutputError, out};

/// The workspace's root. Every command runs there.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Cargo's target directory.
pub(crate) fn target_directory() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(target)
}

/// Creates a command for the cargo of the workspace's own toolchain.
pub(crate) fn cargo<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(arguments: I) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Creates the command that builds the agent and the client.
pub(crate) fn build_programs() -> Command {
    cargo(["build", "--package", "knock-userspace", "--package", "knock-client", "--bins"])
}

/// Creates a command that runs as root: through sudo where this process does not.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Command {
    if nix::unistd::geteuid().is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        command.arg(program);
        command
    }
}

/// Prints a command, as it could be typed.
pub(crate) fn print(command: &Command) -> Result<(), OutputError> {
    let name = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = command.get_args().map(OsStr::to_string_lossy);
    let line = words.fold(name.to_string_lossy().into_owned(), |line, word| line + " " + &word);
    out!("$ {line}")
}

/// Prints and runs a command, which must succeed.
///
/// It gets no input, so a program that asks a question fails instead of waiting for an answer.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    print(command)?;
    let program = command.get_program().to_owned();
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("{} does not start", program.display()))?;
    if !status.success() {
        bail!("{} failed: {status}", program.display());
    }
    Ok(())
}

/// Prints a command and replaces this process by it, so that signals reach it and its exit status
/// is that of this process. Returns only if it does not start.
pub(crate) fn exec(command: &mut Command) -> anyhow::Error {
    if let Err(error) = print(command) {
        return error.into();
    }
    let program = command.get_program().to_owned();
    anyhow::Error::new(command.exec()).context(format!("{} does not start", program.display()))
}

/// Returns the target that the workspace's compiler builds for by default.
pub(crate) fn host() -> anyhow::Result<String> {
    let verbose = output(Command::new("rustc").arg("-vV"))?;
    let host = verbose.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

/// Returns the standard output of a command, whether or not it succeeds.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_owned();
    let output =
        command.output().with_context(|| format!("{} does not start", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

//! Standard output and standard error of the commands, and how a command ends.
//!
//! Rust programs ignore SIGPIPE, so a reader that has gone (`xknockd status | head -1`) shows as an
//! error of the next write, and `println!` panics. The signal cannot have its default back: it
//! would end an agent that writes to a socket, and a client that still has to close a door.
//!
//! [`out!`] returns the error instead, so that what the command holds is given back on the way out,
//! and [`run`] ends the command quietly. [`note!`] is for standard error. It drops what cannot be
//! written, because the exit status says the same. The commands deny clippy's `print_stdout` and
//! `print_stderr`.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Write as _, stderr, stdout};
use std::process::ExitCode;

use clap::Parser;

/// Exit status of a command whose reader has gone: what a shell shows for a program that SIGPIPE
/// has ended, 128 + 13.
pub const READER_GONE: u8 = 141;

/// Standard output could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub struct OutputError(#[from] io::Error);

impl OutputError {
    /// Whether the other end of the pipe was closed.
    pub fn is_reader_gone(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Writes a line to standard output.
///
/// Takes what `println!` takes, and returns a `Result` with an [`OutputError`].
#[macro_export]
macro_rules! out {
    ($($text:tt)*) => {
        $crate::write(::core::format_args!("{}\n", ::core::format_args!($($text)*)))
    };
}

/// Writes a line to standard error, if that can be written.
///
/// Takes what `eprintln!` takes.
#[macro_export]
macro_rules! note {
    ($($text:tt)*) => { $crate::write_note(::core::format_args!($($text)*)) };
}

/// Writes to standard output and flushes it, so that part of a line is seen at once.
///
/// # Errors
///
/// If it cannot be written.
pub fn write(text: fmt::Arguments<'_>) -> Result<(), OutputError> {
    let mut stdout = stdout().lock();
    stdout.write_fmt(text)?;
    Ok(stdout.flush()?)
}

/// Writes a line to standard error. [`note!`] calls it.
pub fn write_note(text: fmt::Arguments<'_>) {
    let _ = writeln!(stderr().lock(), "{text}");
}

/// The whole of a command called `name`: reads the command line, calls `work`, and reports the
/// error if it returns one.
///
/// The exit status is the one that `work` returns, 1 after an error, 2 for a command line that
/// cannot be understood, and [`READER_GONE`].
pub fn run<T: Parser>(name: &str, work: impl FnOnce(T) -> anyhow::Result<ExitCode>) -> ExitCode {
    match T::try_parse() {
        Ok(arguments) => conclude(name, work(arguments)),
        Err(refusal) => explain(name, &refusal),
    }
}

/// The end of a command called `name`, for commands without arguments. [`run`] calls it.
pub fn conclude(name: &str, result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| end(name, &error))
}

/// Prints the help or the version that was asked for, or what is wrong with the command line.
fn explain(name: &str, refusal: &clap::Error) -> ExitCode {
    match refusal.print() {
        Err(error) if !refusal.use_stderr() => end(name, &OutputError(error).into()),
        _ => ExitCode::from(u8::try_from(refusal.exit_code()).unwrap_or(1)),
    }
}

/// Reports why a command failed. Returns the exit status that says so.
fn end(name: &str, error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref().is_some_and(OutputError::is_reader_gone) {
        return ExitCode::from(READER_GONE);
    }
    note!("{name}: {error:#}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    fn broken(kind: io::ErrorKind) -> anyhow::Error {
        OutputError::from(io::Error::from(kind)).into()
    }

    #[test]
    fn a_reader_that_has_gone_is_known_below_any_context() {
        let is_quiet = |error: anyhow::Error| {
            let found: Option<&OutputError> = error.downcast_ref();
            found.is_some_and(OutputError::is_reader_gone)
        };
        assert!(is_quiet(broken(io::ErrorKind::BrokenPipe)));
        let result: anyhow::Result<()> = Err(broken(io::ErrorKind::BrokenPipe));
        let nested = result.context("stage").context("run").unwrap_err();
        assert!(is_quiet(nested));
        assert!(!is_quiet(broken(io::ErrorKind::StorageFull)));
        // The broken pipe of a socket is an error like any other.
        assert!(!is_quiet(io::Error::from(io::ErrorKind::BrokenPipe).into()));
    }
}

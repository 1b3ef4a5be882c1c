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
    let arguments = match T::try_parse() {
        Ok(arguments) => arguments,
        Err(refusal) => return explain(name, &refusal),
    };
    work(arguments).unwrap_or_else(|error| end(name, &error))
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

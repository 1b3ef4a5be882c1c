//! Lists and removes the traces of labs, and fails if there were any.
//!
//! With `XKNOCK_TEST_RUN`, it takes the traces of all processes of that run, which must have ended.
//! Otherwise it takes those of all processes that are gone.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use knock_lab::leftovers::{RUN, sweep, sweep_run};
use knock_output::{OutputError, note, out};

fn main() -> ExitCode {
    knock_output::conclude("leftovers", leftovers().map_err(Into::into))
}

fn leftovers() -> Result<ExitCode, OutputError> {
    let run = std::env::var(RUN).ok().and_then(|run| run.parse().ok());
    let traces = run.map_or_else(sweep, sweep_run);
    if traces.is_empty() {
        out!("No lab has left anything.")?;
        return Ok(ExitCode::SUCCESS);
    }
    for trace in traces {
        note!("left by process {}, and removed now: {trace}", trace.owner.process);
    }
    Ok(ExitCode::FAILURE)
}

//! Lists and removes the traces of labs, and fails if there were any.
//!
//! With `XKNOCK_TEST_RUN`, it takes the traces of all processes of that run, which must have ended.
//! Otherwise it takes those of all processes that are gone.

use std::process::ExitCode;

use knock_lab::leftovers::{self, RUN};

fn main() -> ExitCode {
    let run = std::env::var(RUN).ok().and_then(|run| run.parse().ok());
    let traces = run.map_or_else(leftovers::sweep, leftovers::sweep_run);
    if traces.is_empty() {
        println!("No lab has left anything.");
        return ExitCode::SUCCESS;
    }
    for trace in traces {
        eprintln!("left by process {}, and removed now: {trace}", trace.owner.process);
    }
    ExitCode::FAILURE
}

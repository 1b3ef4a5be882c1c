//! `cargo xtask` with a standard output or standard error that nothing reads.

use std::io;
use std::process::{Command, Output, Stdio};

use knock_output::READER_GONE;

fn xtask(arguments: &[&str], stdout: Stdio, stderr: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    command.spawn().expect("xtask runs").wait_with_output().expect("its end")
}

/// The writing end of a pipe whose reader has gone.
fn closed() -> Stdio {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

#[test]
fn help_ends_quietly_when_nothing_reads_it() {
    let help = xtask(&["--help"], Stdio::piped(), Stdio::piped());
    let help = String::from_utf8(help.stdout).expect("text");
    let verbs = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs = verbs.take_while(|line| !line.is_empty());
    // Descriptions go on further to the right.
    let verbs =
        verbs.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    let verbs: Vec<_> = verbs.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(verbs.contains(&"setup") && verbs.contains(&"ci"), "{help}");
    for verb in verbs {
        let output = xtask(&["help", verb], closed(), Stdio::piped());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), &*said), (Some(READER_GONE.into()), ""), "{verb}");
        assert!(xtask(&["help", verb], Stdio::piped(), closed()).status.success(), "{verb}");
    }
}

#[test]
fn a_command_ends_quietly_at_the_first_line_that_it_cannot_print() {
    // Each command that is run is printed first, so this runs none.
    let output = xtask(&["check-features"], closed(), Stdio::piped());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), &*said), (Some(READER_GONE.into()), ""));
}

#[test]
fn failures_show_in_the_exit_status_when_nothing_reads_standard_error() {
    for (arguments, expected) in
        [(&["tets"][..], 2), (&["run"], 2), (&["test", "--kernel", "0.1"], 1)]
    {
        for (stdout, stderr) in [(closed(), Stdio::piped()), (Stdio::piped(), closed())] {
            let output = xtask(arguments, stdout, stderr);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!said.contains("panicked"), "{arguments:?}: {said}");
            let ends = [Some(expected), Some(READER_GONE.into())];
            assert!(ends.contains(&output.status.code()), "{arguments:?}: {said}");
        }
    }
}

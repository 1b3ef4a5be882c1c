//! The command that runs while the door is open.

use std::io;
use std::process::{self, ExitStatus};

/// Runs a command to its end. With `pass_on`, a signal that would end this process is handed on to
/// the command, because this process still has to close the door.
pub(crate) fn run(program: &str, arguments: &[String], pass_on: bool) -> io::Result<ExitStatus> {
    let mut command = process::Command::new(program);
    command.args(arguments);
    wait(&mut command, pass_on)
}

/// Returns the exit status that a shell would show for a command that has ended.
pub(crate) fn code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
    #[cfg(not(unix))]
    let signal = None;
    status.code().or(signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Returns the exit status that a shell would show for a command that cannot be run.
pub(crate) fn code_of(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
}

#[cfg(unix)]
fn wait(command: &mut process::Command, pass_on: bool) -> io::Result<ExitStatus> {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    use signal_hook::flag;
    use signal_hook::low_level::pipe;

    // An interrupt from the terminal reaches the command by itself.
    for signal in [SIGINT, SIGQUIT] {
        flag::register(signal, Arc::default())?;
    }
    if !pass_on {
        return command.status();
    }
    let (mut notices, notifier) = UnixStream::pair()?;
    let caught = [(SIGTERM, Signal::SIGTERM), (SIGHUP, Signal::SIGHUP)]
        .map(|(number, signal)| (number, signal, Arc::<AtomicBool>::default()));
    for (number, _, noticed) in &caught {
        flag::register(*number, Arc::clone(noticed))?;
    }
    for number in [SIGTERM, SIGHUP, SIGCHLD] {
        pipe::register(number, notifier.try_clone()?)?;
    }
    let mut child = command.spawn()?;
    loop {
        // Until this returns a status, no other process can have its number.
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let id = i32::try_from(child.id()).map_err(io::Error::other)?;
        for (_, signal, noticed) in &caught {
            if noticed.swap(false, Ordering::SeqCst) {
                // It fails for a process of another user, as with sudo. That one is waited for.
                let _ = kill(Pid::from_raw(id), *signal);
            }
        }
        match notices.read(&mut [0; 16]) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
    }
}

#[cfg(not(unix))]
fn wait(command: &mut process::Command, _: bool) -> io::Result<ExitStatus> {
    command.status()
}

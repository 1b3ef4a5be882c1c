//! A process that lasts no longer than its value, and whose standard error can be awaited line by
//! line.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The longest time that anything may take on a slow, busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Returns the factor by which everything may take longer here. `XKNOCK_TEST_PATIENCE` sets it on
/// an emulated machine. No limit is a measurement.
pub fn slowness() -> u32 {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| {
        let said = std::env::var("XKNOCK_TEST_PATIENCE").ok();
        said.map_or(1, |factor| factor.parse().expect("XKNOCK_TEST_PATIENCE is a number"))
    });
    *FACTOR
}

/// Returns a time as configs have it, in which as much can happen here as elsewhere in `count`
/// seconds.
pub fn seconds(count: u32) -> String {
    format!("{}s", count * slowness())
}

/// Returns [`PATIENCE`] for this machine.
pub fn patience() -> Duration {
    PATIENCE * slowness()
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    /// Starts `command` without standard input. Its lines are those on standard error, and on
    /// standard output if that is a pipe.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            hand_on(stdout, sender.clone());
        }
        hand_on(child.stderr.take().expect("standard error is a pipe"), sender);
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits for the first line of which `wanted` returns something, and returns that.
    ///
    /// # Panics
    ///
    /// If no such line comes in time, or the process ends.
    pub fn await_line<T>(&mut self, what: &str, wanted: impl FnMut(&str) -> Option<T>) -> T {
        self.await_line_within(patience(), what, wanted)
    }

    /// Waits for such a line for at most `limit`.
    ///
    /// # Panics
    ///
    /// As [`Process::await_line`].
    pub fn await_line_within<T>(
        &mut self,
        limit: Duration,
        what: &str,
        wanted: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let found = self.look_for(limit, what, wanted);
        found.unwrap_or_else(|| panic!("the process ended before {what}: {:#?}", self.seen))
    }

    /// Waits for such a line. Returns `None` if the process ends before.
    ///
    /// # Panics
    ///
    /// If neither happens in time.
    pub fn line_or_end<T>(
        &mut self,
        what: &str,
        wanted: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        self.look_for(patience(), what, wanted)
    }

    fn look_for<T>(
        &mut self,
        limit: Duration,
        what: &str,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let found = wanted(&line);
                    self.seen.push(line);
                    if found.is_some() {
                        return found;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {what} in time: {:#?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Waits for the next line for at most `limit`.
    ///
    /// # Errors
    ///
    /// If no line comes in time, or the process has closed its output.
    pub fn next_line(&mut self, limit: Duration) -> Result<String, RecvTimeoutError> {
        let line = self.lines.recv_timeout(limit)?;
        self.seen.push(line.clone());
        Ok(line)
    }

    /// Returns all lines so far.
    pub fn seen(&mut self) -> &[String] {
        self.seen.extend(self.lines.try_iter());
        &self.seen
    }

    /// Returns its process identifier.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Panics
    ///
    /// If the process is gone.
    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().try_into().expect("a process id"));
        kill(id, signal).expect("the process is there");
    }

    /// Waits for its end, and returns its status and all its lines.
    ///
    /// # Panics
    ///
    /// If it does not end in time.
    pub fn wait(mut self) -> (ExitStatus, Vec<String>) {
        let deadline = Instant::now() + patience();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {:#?}", self.seen),
            }
        }
        let status = self.child.wait().expect("it can be waited for");
        (status, std::mem::take(&mut self.seen))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it has ended and was waited for, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends each line of a pipe until it is closed.
fn hand_on(pipe: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
}

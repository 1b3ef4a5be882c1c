//! A network namespace that lasts as long as its value.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};

use crate::leftovers::{self, NAMESPACES};

/// A named network namespace.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace with a unique name and with `lo` up.
    ///
    /// # Panics
    ///
    /// Without root, or without iproute2.
    pub fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        leftovers::sweep_once();
        let name = format!("{}-{count}-{role}", leftovers::label());
        run(Command::new("ip").args(["netns", "add", &name]));
        let netns = Self { name };
        netns.ip("link set lo up");
        netns
    }

    /// Returns its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip -n THIS` with these words and returns what it printed.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn ip(&self, words: &str) -> String {
        run(Command::new("ip").arg("-n").arg(&self.name).args(words.split_whitespace()))
    }

    /// Returns a command that will run in here.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let file = self.file();
        let mut command = Command::new(program);
        // SAFETY: setns(2) is a plain system call, safe between fork and exec.
        unsafe { command.pre_exec(move || Ok(setns(&file, CloneFlags::CLONE_NEWNET)?)) };
        command
    }

    /// Runs a shell line in here to its end and returns its output.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn shell(&self, line: &str) -> Output {
        self.command("sh").args(["-c", line]).output().expect("sh runs")
    }

    /// Runs a shell line in here, which must succeed, and returns what it printed.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn sh(&self, line: &str) -> String {
        run(self.command("sh").args(["-c", line]))
    }

    /// Runs `work` on a thread of its own in here.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let file = self.file();
        thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            work()
        })
    }

    /// Runs `work` in here and returns its result.
    ///
    /// # Panics
    ///
    /// As `work` does.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.spawn(work).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    fn file(&self) -> File {
        File::open(self.path()).expect("the namespace is there")
    }

    fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.name)
    }

    /// Kills what still runs in here.
    pub(crate) fn end_processes(&self) {
        leftovers::end_processes(&self.path());
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.end_processes();
        // Sockets of this process that are still in there keep the namespace itself alive a
        // little longer. Its name is free at once.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// Runs a command, which must succeed, and returns what it printed.
///
/// # Panics
///
/// If it cannot be started or fails, with what it said.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

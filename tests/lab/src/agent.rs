//! The agent under test.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::Host;
use crate::leftovers;
use crate::process::{Process, patience};

/// Returns the path of one of the project's programs, which lies beside the test that runs.
///
/// # Panics
///
/// If it was not built.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let mut folders = test.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    let found = folders.find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("{name} is not built: run `cargo build` with the same profile first")
    })
}

/// A config file in a folder of its own.
#[derive(Debug)]
pub struct Config {
    path: PathBuf,
    /// The folder, if it is removed with the config.
    _folder: Option<TempDir>,
}

impl Config {
    /// Writes a config file.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn new(text: impl Into<String>) -> Self {
        let folder = leftovers::folder();
        let path = folder.path().join("xknockd.toml");
        fs::write(&path, text.into()).expect("the config is written");
        Self { path, _folder: Some(folder) }
    }

    /// Uses a config file that is there already.
    pub const fn at(path: PathBuf) -> Self {
        Self { path, _folder: None }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    config: Config,
}

impl Agent {
    /// Starts the agent on `host` with `config` and waits until it is ready.
    pub fn start(host: &Host, config: impl Into<String>) -> Self {
        Self::start_with(host, config, &[])
    }

    /// Starts the agent with more arguments after `run`, and waits until it is ready.
    pub fn start_with(host: &Host, config: impl Into<String>, arguments: &[&str]) -> Self {
        let config = Config::new(config);
        let mut command = xknockd(host);
        command.arg("run").arg("--config").arg(config.path()).args(arguments);
        Self::spawn(command, config)
    }

    /// Starts the next agent with the config of one that has ended.
    pub fn start_again(host: &Host, config: Config) -> Self {
        let mut command = xknockd(host);
        command.arg("run").arg("--config").arg(config.path());
        Self::spawn(command, config)
    }

    /// Starts `command`, which runs an agent with `config`, and waits until it is ready.
    pub fn spawn(mut command: Command, config: Config) -> Self {
        let mut process = Process::start(&mut command);
        process.await_line("ready", |line| message(line, "ready"));
        Self { process, config }
    }

    /// Kills it with SIGKILL and returns its config.
    pub fn kill(self) -> Config {
        self.process.signal(Signal::SIGKILL);
        let Self { process, config } = self;
        process.wait();
        config
    }

    /// Stops it as an init system does and returns its config.
    ///
    /// # Panics
    ///
    /// If it does not end well.
    pub fn terminate(self) -> Config {
        self.process.signal(Signal::SIGTERM);
        let Self { process, config } = self;
        let (status, log) = process.wait();
        assert!(status.success(), "{status}: {log:#?}");
        config
    }

    /// Its config.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Overwrites the config that it was started with.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn rewrite_config(&self, text: impl Into<String>) {
        fs::write(self.config.path(), text.into()).expect("the config is written");
    }

    /// Waits until the log says that `service` is open for `source`, and returns the record.
    pub fn await_opened(&mut self, source: IpAddr, service: &str) -> Value {
        self.await_grant("opened", source, service)
    }

    /// Waits until the log says that the grant has ended, and returns the record.
    pub fn await_closed(&mut self, source: IpAddr, service: &str) -> Value {
        self.await_grant("closed", source, service)
    }

    fn await_grant(&mut self, what: &str, source: IpAddr, service: &str) -> Value {
        let source = source.to_string();
        self.process.await_line(&format!("{what} {service} for {source}"), |line| {
            message(line, what)
                .filter(|record| record["source"] == source && record["service"] == service)
        })
    }

    /// Waits for a record whose message contains `text`.
    pub fn await_message(&mut self, text: &str) -> Value {
        self.await_message_within(text, patience())
    }

    /// Waits for such a record for at most `limit`.
    pub fn await_message_within(&mut self, text: &str, limit: Duration) -> Value {
        self.process.await_line_within(limit, text, |line| {
            let record: Value = serde_json::from_str(line).ok()?;
            record["message"].as_str()?.contains(text).then_some(record)
        })
    }

    /// Waits for a line that contains `text`, unless one has come already.
    pub fn await_in_log(&mut self, text: &str) {
        if !self.process.seen().iter().any(|line| line.contains(text)) {
            self.process.await_line(text, |line| line.contains(text).then_some(()));
        }
    }

    /// Returns whether the log so far says that anything opened for `source`.
    pub fn has_opened_for(&mut self, source: IpAddr) -> bool {
        let source = source.to_string();
        let opened = |line: &String| message(line, "opened").is_some_and(|r| r["source"] == source);
        self.process.seen().iter().any(opened)
    }

    /// Returns all that the agent has logged.
    pub fn log(&mut self) -> String {
        self.process.seen().join("\n")
    }

    /// Returns its resident memory in bytes.
    ///
    /// # Panics
    ///
    /// If it has ended.
    pub fn resident(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = fs::read_to_string(path).expect("the agent runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
        let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("digits");
        kib << 10
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Waits for its end, which something else has brought about.
    ///
    /// # Panics
    ///
    /// If it does not end well.
    pub fn process_ends(self) {
        let (status, log) = self.process.wait();
        assert!(status.success(), "{status}: {log:#?}");
    }

    /// Stops it as an init system does and returns its last counters.
    ///
    /// # Panics
    ///
    /// If it does not end well.
    pub fn stop(self) -> Counters {
        self.process.signal(Signal::SIGTERM);
        let (status, log) = self.process.wait();
        assert!(status.success(), "{status}: {log:#?}");
        let counters = log.iter().rev().find_map(|line| message(line, "counters"));
        Counters(
            counters.expect("counters at the end")["counters"].as_str().unwrap_or("").to_owned(),
        )
    }
}

/// Counters as the agent prints them when it stops.
#[derive(Debug)]
pub struct Counters(String);

impl Counters {
    /// Returns one of them, 0 if nothing was counted.
    pub fn get(&self, name: &str) -> u64 {
        let pairs = self.0.split(' ').filter_map(|pair| pair.split_once('='));
        let value = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next();
        value.map_or(0, |value| value.parse().expect("a number"))
    }

    /// Returns the number of packets: each ends in one counter.
    pub fn packets(&self) -> u64 {
        let values = self.0.split(' ').filter_map(|pair| pair.split_once('='));
        values.map(|(_, value)| value.parse::<u64>().expect("a number")).sum()
    }
}

/// Returns a command of the agent's program on `host`.
pub fn xknockd(host: &Host) -> Command {
    let mut command = host.command(program("xknockd"));
    command.env_remove("RUST_LOG").env_remove("JOURNAL_STREAM").env("RUST_BACKTRACE", "0");
    // An SSH session from which the tests run is none of those that a test is about.
    command.env_remove("SSH_CONNECTION").env("XKNOCKD_INSTANCE", host.name());
    command
}

/// Gives a command of the agent clocks that are `offset` off, as in `-30s`.
pub fn with_clock(mut xknockd: Command, offset: &str) -> Command {
    xknockd.env("LD_PRELOAD", FAKETIME).env("FAKETIME", offset);
    xknockd
}

/// The library that shows a program other clocks. The loader finds this host's folder of libraries.
pub const FAKETIME: &str = "/usr/$LIB/faketime/libfaketime.so.1";

/// Runs the agent's program on `host` to its end and returns its output.
///
/// # Panics
///
/// If it cannot be started.
pub fn xknockd_output(host: &Host, arguments: &[&str]) -> Output {
    xknockd(host).args(arguments).output().expect("xknockd runs")
}

fn message(line: &str, wanted: &str) -> Option<Value> {
    let record: Value = serde_json::from_str(line).ok()?;
    (record["message"] == wanted).then_some(record)
}

//! Devices with keys, and a capture of what they send.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use knock_keys::{Folder, Key, KeyDoor, KeyLine, Kind};
use knock_userspace::instance_paths::InstancePaths;
use knock_userspace::keyring::ReplayStore;
use tempfile::TempDir;

use crate::agent::{Agent, Config, program, xknockd};
use crate::config::ConfigText;
use crate::lab::Host;
use crate::leftovers;
use crate::process::{Process, seconds};

/// A server's config and keys, in a folder of their own.
#[derive(Debug)]
pub struct Keys {
    folder: TempDir,
}

impl Keys {
    /// For the agent with this config, to which the folder of keys is added.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn new(config: ConfigText) -> Self {
        let keys = Self { folder: leftovers::folder() };
        keys.set_config(config);
        keys
    }

    /// Writes another config.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn set_config(&self, config: ConfigText) {
        let folder = self.folder().display().to_string();
        let text = config.top("keys", folder).to_string();
        fs::write(self.config(), text).expect("the config is written");
    }

    /// Returns the path of the config.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("xknockd.toml")
    }

    /// Returns the folder of the key files.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    /// Runs `xknockd key` on `server` and returns what it printed.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn key(&self, server: &Host, arguments: &[&str]) -> String {
        let mut command = xknockd(server);
        command.arg("key").args(arguments).arg("--config").arg(self.config());
        let output = command.output().expect("xknockd runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Draws `count` keys for these doors and returns the line of the last. Faster than `xknockd`,
    /// which draws one at a time.
    ///
    /// # Panics
    ///
    /// If they cannot be written.
    pub fn draw(&self, server: &Host, count: usize, doors: &[KeyDoor]) -> KeyLine {
        let folder = Folder::new(self.folder());
        fs::create_dir(folder.path()).expect("a folder");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let mut last = None;
        for number in 0..count {
            let (name, host) = (format!("device-{number}"), server.v4.to_string());
            let drawn = Key::draw(name, host, Kind::Shared, doors.to_vec(), now, None, None);
            let (key, line) = drawn.expect("random bytes");
            // Not `Folder::write`, which waits for the disk each time.
            let path = folder.file(&key.name);
            fs::write(&path, key.to_text().as_bytes()).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
            last = Some(line);
        }
        ReplayStore::create_if_absent(&InstancePaths::of(server.name()).newest()).expect("made");
        last.expect("one key at least")
    }

    /// Starts the agent and waits until it is ready.
    pub fn start(&self, server: &Host) -> Agent {
        self.start_with(server, &[])
    }

    /// Starts the agent with these variables in its environment, and waits until it is ready.
    pub fn start_with(&self, server: &Host, environment: &[(&str, &str)]) -> Agent {
        let mut command = xknockd(server);
        command.arg("run").arg("--config").arg(self.config()).envs(environment.iter().copied());
        Agent::spawn(command, Config::at(self.config()))
    }
}

/// A user of a client host, with a home folder.
#[derive(Debug)]
pub struct Device {
    home: TempDir,
}

impl Device {
    /// Imports the key in `line` for the server at `address`, under the name `server`.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn new(host: &Host, line: &str, address: &str) -> Self {
        let device = Self { home: leftovers::folder() };
        let import = ["import", line.trim(), "--as", "server", "--host", address];
        let output = device.xknock(host, &import);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        device
    }

    /// Returns the user's home folder.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Returns a command that this user runs on `host`.
    pub fn command(&self, host: &Host, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = host.command(program);
        command.env("HOME", self.home()).env_remove("XDG_CONFIG_HOME").env_remove("XDG_STATE_HOME");
        command
    }

    /// Runs the client to its end and returns its output.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn xknock(&self, host: &Host, arguments: &[&str]) -> Output {
        let mut command = self.command(host, program("xknock"));
        command.args(arguments).output().expect("xknock runs")
    }

    /// Runs the client, which must succeed, and returns what it said.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn knock(&self, host: &Host, arguments: &[&str]) -> String {
        // As long as it takes here, unless a test is about that.
        let patient = ["--timeout", &seconds(30)];
        let chosen = ["--timeout", "--close"].iter().any(|word| arguments.contains(word));
        let more: &[&str] = if chosen { &[] } else { &patient };
        let output = self.xknock(host, &[arguments, more].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }
}

/// A capture of all frames that reach a host.
#[derive(Debug)]
pub struct Capture {
    folder: TempDir,
    tcpdump: Process,
}

impl Capture {
    /// Starts to capture at `eth0` of `host`.
    pub fn start(host: &Host) -> Self {
        let folder = leftovers::folder();
        let file = folder.path().join("capture.pcap");
        let mut command = host.command("tcpdump");
        // Another user could not write into the folder. Each packet is written at once.
        command.args(["-Z", "root", "-U", "--immediate-mode", "-i", "eth0", "-w"]).arg(file);
        command.arg("udp or tcp");
        let mut tcpdump = Process::start(&mut command);
        tcpdump.await_line("listening", |line| line.contains("listening on").then_some(()));
        Self { folder, tcpdump }
    }

    /// Ends the capture and returns its frames in order.
    ///
    /// # Panics
    ///
    /// If the file cannot be read.
    pub fn stop(self) -> Vec<Vec<u8>> {
        self.tcpdump.signal(nix::sys::signal::Signal::SIGINT);
        let (status, said) = self.tcpdump.wait();
        assert!(status.success(), "{said:?}");
        frames(&fs::read(self.folder.path().join("capture.pcap")).expect("a capture"))
    }
}

/// Returns the frames of a capture file in the byte order of this machine (pcap-savefile(5)).
fn frames(mut file: &[u8]) -> Vec<Vec<u8>> {
    const FILE_HEADER: usize = 24;
    const PACKET_HEADER: usize = 16;
    let mut frames = Vec::new();
    file = &file[FILE_HEADER..];
    while let Some((header, rest)) = file.split_first_chunk::<PACKET_HEADER>() {
        let length = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let (frame, rest) = rest.split_at(length.try_into().expect("a frame"));
        frames.push(frame.to_vec());
        file = rest;
    }
    frames
}

/// Returns the datagrams over IPv4 to `port` among `frames`.
pub fn datagrams_to(frames: &[Vec<u8>], port: u16) -> Vec<Vec<u8>> {
    let to_port = |frame: &&Vec<u8>| {
        frame.len() > 42 && frame[23] == 17 && frame[36..38] == port.to_be_bytes()
    };
    frames.iter().filter(to_port).cloned().collect()
}

//! The systemd unit, and an agent that is started as systemd would start it: as a user of its own,
//! with no more than the unit grants.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use knock_userspace::instance_paths::InstancePaths;
use tempfile::TempDir;

use crate::agent::{Agent, Config, program};
use crate::lab::Host;
use crate::leftovers;
use crate::netns::run;

/// A user and group without an entry in `/etc/passwd`, so that they own nothing.
const USER: u32 = 64_999;

/// The unit. It is built in, because a guest that runs the tests has no sources.
const UNIT: &str = include_str!("../../../packaging/systemd/xknockd.service");

/// Returns the path of the unit in the sources.
pub fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd/xknockd.service")
}

/// Returns the last value of `key` in the unit, with continued lines joined.
///
/// # Panics
///
/// If the unit has no such key.
pub fn setting(key: &str) -> String {
    settings(key).pop().unwrap_or_else(|| panic!("no {key} in the unit"))
}

/// Returns all values of `key` in order.
fn settings(key: &str) -> Vec<String> {
    let text = UNIT.replace("\\\n", " ");
    let values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.map(str::to_owned).collect()
}

/// A BPF file system for one agent, prepared by the command that the unit runs first, and the
/// folders that systemd makes for the agent.
#[derive(Debug)]
pub struct OwnUser {
    bpf: TempDir,
    config: PathBuf,
}

impl OwnUser {
    /// Prepares `host` for an agent with `config`, which the agent's group may read.
    ///
    /// # Panics
    ///
    /// If the command of the unit fails, or a folder cannot be made.
    pub fn prepare(host: &Host, config: &Config) -> Self {
        let bpf = leftovers::folder();
        run(Command::new("mount").args(["-t", "bpf", "-o", "mode=0700", "bpf"]).arg(bpf.path()));
        let own = Self { bpf, config: config.path() };
        let paths = InstancePaths::of(host.name());
        let pins = paths.pins.file_name().expect("a folder").to_string_lossy().into_owned();
        let place = own.bpf.path().display();
        let mut commands = settings("ExecStartPre").into_iter();
        let command = commands
            .find(|command| command.contains("/sys/fs/bpf"))
            .expect("a command that prepares the file system")
            .replace("/sys/fs/bpf/xknock", &format!("{place}/{pins}"))
            .replace("/sys/fs/bpf", &place.to_string())
            .replace("xknockd:xknockd", &format!("{USER}:{USER}"))
            .replace("chgrp xknockd", &format!("chgrp {USER}"));
        let command = command.strip_prefix("-+").expect("a command of root");
        run(Command::new("sh").args(["-c", command]));
        fs::create_dir(&paths.run).expect("the runtime directory");
        fs::set_permissions(&paths.run, fs::Permissions::from_mode(0o700)).expect("its mode");
        chown(&paths.run, Some(USER), Some(USER)).expect("its owner");
        let folder = own.config.parent().expect("a folder");
        for (path, mode) in [(folder, 0o750), (own.config.as_path(), 0o640)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
            chown(path, Some(0), Some(USER)).expect("a group");
        }
        own
    }

    /// Starts an agent as that user with what the unit grants, and waits until it is ready.
    pub fn start(&self, host: &Host, config: Config) -> Agent {
        Agent::spawn(self.command(host), config)
    }

    fn command(&self, host: &Host) -> Command {
        let capabilities: String = setting("AmbientCapabilities")
            .split(' ')
            .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
            .collect();
        let only = format!("-all{capabilities}");
        let user = USER.to_string();
        let mut command = host.command("unshare");
        let script = "mount --bind \"$1\" /sys/fs/bpf && shift && exec setpriv \"$@\"";
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(self.bpf.path());
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--no-new-privs"]);
        command.args(["--inh-caps", &only, "--ambient-caps", &only, "--bounding-set", &only]);
        command.arg(program("xknockd")).args(["run", "--config"]).arg(&self.config);
        command.env("XKNOCKD_INSTANCE", host.name()).env("RUST_BACKTRACE", "0");
        command.env_remove("RUST_LOG").env_remove("JOURNAL_STREAM");
        command.env_remove("SSH_CONNECTION");
        command
    }
}

impl Drop for OwnUser {
    fn drop(&mut self) {
        // Pinned links and maps go with the file system.
        let _ = Command::new("umount").arg("--lazy").arg(self.bpf.path()).output();
    }
}

//! Every command of `xknockd` with a standard output or standard error that nothing reads.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use knock_control::{Done, Reply, Request};
use knock_output::READER_GONE;
use knock_userspace::control_socket::{Call, serve};
use knock_userspace::instance_paths::InstancePaths;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::sync::mpsc;

const CONFIG: &str = r#"
[[door]]
name = "ssh"
opens = ["tcp/22"]
method = "sealed"
"#;

const STATUS: &str = r#"{"version":"0.1.0","process":1,"mode":"observe","trial_seconds":null,
"confirmed":false,"connections":"stateless","interfaces":[{"name":"lo","index":1,"mode":"generic"}],
"awaited":[],"doors":0,"grants":0,"refused_packets":0,"restored":0,"late":0,"pinned":true,"keys":0,
"key_knocks":{},"packets":{}}"#;

/// A network namespace for the thread of the test, with a config and an instance's folders.
struct Host {
    folder: TempDir,
    paths: InstancePaths,
    instance: String,
}

impl Host {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace, as root");
        let folder = TempDir::new().expect("a folder");
        let config = format!("keys = \"{}\"\n{CONFIG}", folder.path().join("keys").display());
        fs::write(folder.path().join("xknockd.toml"), config).expect("a config");
        let name = folder.path().file_name().expect("a name").to_string_lossy().replace('.', "");
        // So that the sweep of the lab finds what a killed test leaves.
        let instance = format!("xk{}-output{name}", std::process::id());
        let paths = InstancePaths::of(&instance);
        fs::create_dir_all(&paths.run).expect("a folder for the socket");
        Self { folder, paths, instance }
    }

    fn xknockd(&self, arguments: &[&str]) -> Command {
        let config = self.folder.path().join("xknockd.toml").display().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_xknockd"));
        command.env("XKNOCKD_INSTANCE", &self.instance).stdin(Stdio::null());
        command.args(arguments.iter().map(|word| word.replace("CONFIG", &config)));
        command
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for folder in [&self.paths.run, &self.paths.state, &self.paths.pins] {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Returns a command of the same program that the kernel kills when this thread ends.
fn end_with_this_test(command: &mut Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
    bound.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    bound.stdin(Stdio::null());
    bound
}

/// The writing end of a pipe whose reader has gone.
fn closed() -> Stdio {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn without_stdout(mut command: Command) -> Output {
    let child = command.stdout(closed()).stderr(Stdio::piped()).spawn().expect("xknockd runs");
    child.wait_with_output().expect("its end")
}

fn without_stderr(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(closed()).spawn().expect("xknockd runs");
    child.wait_with_output().expect("its end")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Answers requests as an agent does that has no door and no grant.
fn answer(host: &Host) {
    let socket = host.paths.socket();
    let (outbox, mut inbox) = mpsc::channel::<Call>(1);
    let (ready, is_ready) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let _server = serve(&socket, outbox).expect("a socket");
            ready.send(()).expect("a test that waits");
            while let Some(call) = inbox.recv().await {
                let reply = match call.request {
                    Request::Status => {
                        Reply::Status(serde_json::from_str(STATUS).expect("a status"))
                    }
                    Request::Doors => Reply::Doors(Vec::new()),
                    Request::Grants | Request::Open(_) | Request::Revoke(_) => {
                        Reply::Grants(Vec::new())
                    }
                    _ => Reply::Done(Done { message: "done".to_owned() }),
                };
                let _ = call.answer.send(Ok(reply));
            }
        });
    });
    is_ready.recv().expect("an agent that listens");
}

/// Command lines that succeed, with the exit status where nothing reads standard output.
const ROWS: &[(&str, u8)] = &[
    ("--help", READER_GONE),
    ("--version", READER_GONE),
    ("help key add", READER_GONE),
    ("check --config CONFIG", READER_GONE),
    ("check --kernel", READER_GONE),
    ("ports", READER_GONE),
    ("ports --json", READER_GONE),
    ("status", READER_GONE),
    ("status --json", READER_GONE),
    ("doors", READER_GONE),
    ("doors --json", READER_GONE),
    ("grants", READER_GONE),
    ("grants --json", READER_GONE),
    ("open ssh 192.0.2.1", READER_GONE),
    ("revoke --all", READER_GONE),
    ("reload", READER_GONE),
    ("try 1m", READER_GONE),
    ("confirm", READER_GONE),
    ("key list --config CONFIG", READER_GONE),
    ("key show phone --config CONFIG", READER_GONE),
    // A line that was not handed over must not stay in force, so these say that they failed.
    ("key add laptop --door ssh --config CONFIG", 1),
    ("key rotate phone --config CONFIG", 1),
    ("key remove phone --config CONFIG", READER_GONE),
    ("off", READER_GONE),
];

/// The verbs in a help text.
fn verbs(help: &str) -> BTreeSet<&str> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    // Descriptions go on further to the right.
    let names =
        listed.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect()
}

#[test]
fn every_command_ends_quietly_when_nothing_reads_its_output() {
    let host = Host::new();
    answer(&host);
    for (row, expected) in ROWS {
        let words: Vec<_> = row.split(' ').collect();
        // Earlier rows may have removed it.
        let add = ["key", "add", "phone", "--door", "ssh", "--config", "CONFIG"];
        host.xknockd(&add).output().expect("xknockd runs");
        let output = without_stdout(host.xknockd(&words));
        assert_eq!(output.status.code(), Some((*expected).into()), "{row}: {}", stderr(&output));
        if *expected == READER_GONE {
            assert_eq!(stderr(&output), "", "{row}");
        } else {
            let said = stderr(&output);
            assert!(said.contains("cannot write to standard output"), "{row}: {said}");
            assert!(!said.contains("panicked"), "{row}: {said}");
        }
        host.xknockd(&add).output().expect("xknockd runs");
        let output = without_stderr(host.xknockd(&words));
        assert_eq!(output.status.code(), Some(0), "{row}");
        assert!(!output.stdout.is_empty(), "{row}");
    }
}

#[test]
fn no_verb_is_missing_above() {
    let help = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xknockd"));
        let output = command.args(arguments).output().expect("xknockd runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let tried = |verb: &str| ROWS.iter().any(|(row, _)| row.split(' ').any(|word| word == verb));
    let text = help(&["--help"]);
    let missing: Vec<_> = verbs(&text).into_iter().filter(|verb| !tried(verb)).collect();
    assert_eq!(missing, ["run"], "an agent has a test of its own");
    let text = help(&["key", "--help"]);
    let missing: Vec<_> = verbs(&text).into_iter().filter(|verb| !tried(verb)).collect();
    assert_eq!(missing, [] as [&str; 0]);
}

#[test]
fn failures_show_in_the_exit_status_when_nothing_reads_standard_error() {
    let host = Host::new();
    for (row, expected) in [
        ("status", 1),
        ("key show nothing --config CONFIG", 1),
        ("check --config /nowhere.toml", 1),
        ("statsu", 2),
        ("open ssh", 2),
    ] {
        let words: Vec<_> = row.split(' ').collect();
        for output in [without_stdout(host.xknockd(&words)), without_stderr(host.xknockd(&words))] {
            assert_eq!(output.status.code(), Some(expected), "{row}: {}", stderr(&output));
            assert!(!stderr(&output).contains("panicked"), "{row}: {}", stderr(&output));
        }
    }
}

#[test]
fn a_disk_that_is_full_is_named() {
    let host = Host::new();
    let full = fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let mut check = host.xknockd(&["check", "--config", "CONFIG"]);
    let output = check.stdout(full).output().expect("xknockd runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot write to standard output: No space"), "{output:?}");
}

/// An agent under test, which does not outlive the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_agent_outlives_the_readers_of_its_output() {
    let host = Host::new();
    // Without a config, it prints how to knock once it is ready.
    let mut run = host.xknockd(&["run", "--interface", "lo", "--clean"]);
    let mut run = end_with_this_test(&mut run);
    let mut agent = Agent(run.stdout(closed()).stderr(closed()).spawn().expect("xknockd runs"));
    let deadline = Instant::now() + Duration::from_secs(60);
    while !host.xknockd(&["status"]).output().expect("xknockd runs").status.success() {
        assert_eq!(agent.0.try_wait().expect("its state"), None, "the agent has ended");
        assert!(Instant::now() < deadline, "the agent does not answer");
        thread::sleep(Duration::from_millis(20));
    }
    // Each reload writes to the log.
    assert!(host.xknockd(&["reload"]).output().expect("xknockd runs").status.success());
    let id = i32::try_from(agent.0.id()).expect("a process");
    kill(Pid::from_raw(id), Signal::SIGTERM).expect("a signal");
    assert!(agent.0.wait().expect("its end").success());
}

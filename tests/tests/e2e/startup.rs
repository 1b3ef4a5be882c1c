//! Starts of the agent, and failed ones, which leave nothing behind.

use std::process::{Output, Stdio};

use knock_detector::Nothing;
use knock_lab::agent::{Agent, Config, xknockd, xknockd_output};
use knock_lab::clients::xknock_steps;
use knock_lab::process::Process;
use knock_lab::services::{Echo, tcp_open};
use knock_lab::{ConfigText, Host, Lab};
use knock_userspace::instance_paths::InstancePaths;

use crate::{NO_TIME, SSH, STEPS};

fn start(host: &Host, text: ConfigText, arguments: &[&str]) -> (Output, String) {
    let config = Config::new(text);
    let mut command = xknockd(host);
    let output = command.arg("run").arg("--config").arg(config.path()).args(arguments).output();
    let output = output.expect("xknockd runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    (output, stderr)
}

/// Asserts that no table and no XDP program is left on `host`.
fn assert_untouched(host: &Host) {
    assert_eq!(host.sh("nft list tables"), "");
    let links = host.ip("-d link show");
    assert!(!links.contains("xdp"), "{links}");
    assert_eq!(pinned(host), [] as [String; 0]);
}

/// Returns the pins of agents on `host` that would keep a program or its progress alive.
fn pinned(host: &Host) -> Vec<String> {
    let folder = InstancePaths::of(host.name()).pins;
    let files = |folder: &str| -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        entries.flatten().map(|entry| entry.path().display().to_string()).collect()
    };
    let folders = files(&folder.display().to_string());
    let all = folders.iter().flat_map(|folder| files(folder));
    all.filter(|path| !path.ends_with("/STATE") && !path.ends_with("/GRANTS")).collect()
}

#[test]
fn when_a_second_interface_fails_the_first_is_detached_again() {
    let lab = Lab::new();
    // The driver of a bridge has no XDP, so native mode is refused once eth0 is attached.
    lab.server.ip("link add br7 type bridge");
    let native = ConfigText::ssh().top("attach", "native");
    let (_, said) = start(&lab.server, native, &["--interface", "eth0", "--interface", "br7"]);
    assert!(said.contains("cannot attach to `br7` in native mode"), "{said}");
    assert_untouched(&lab.server);
}

#[test]
fn where_the_driver_refuses_the_agent_falls_back_and_says_so() {
    let lab = Lab::new();
    lab.server.ip("link add br7 type bridge");
    let mut agent = Agent::start_with(
        &lab.server,
        ConfigText::ssh(),
        &["--interface", "eth0", "--interface", "br7"],
    );
    let log = agent.log();
    let mode_of = |interface: &str| {
        let line = log.lines().find(|line| line.contains("attached") && line.contains(interface));
        line.map(|line| if line.contains("native") { "native" } else { "generic" })
    };
    assert_eq!((mode_of("eth0"), mode_of("br7")), (Some("native"), Some("generic")), "{log}");
}

#[test]
fn a_foreign_xdp_program_is_named_and_keeps_its_place() {
    let lab = Lab::new();
    let other = lab.server.run(|| Nothing::attach("eth0").expect("a foreign program"));
    let (_, said) = start(&lab.server, ConfigText::ssh(), &[]);
    assert!(said.contains("`eth0` already runs the XDP program `empty` (id "), "{said}");
    assert!(said.contains("bpftool net show dev eth0"), "{said}");
    assert_eq!(lab.server.sh("nft list tables"), "");
    drop(other);
    Agent::start(&lab.server, ConfigText::ssh()).stop();
}

#[test]
fn a_first_start_that_fails_after_its_table_leaves_no_port_closed() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    // What looks like another layout and cannot be removed stops the start when the table is there.
    let strange = InstancePaths::of(lab.server.name()).pins.join("x/y");
    std::fs::create_dir_all(&strange).expect("folders in the BPF file system");
    let (_, said) = start(&lab.server, ConfigText::ssh(), &[]);
    assert!(said.contains("/x/y"), "{said}");
    assert_eq!(lab.server.sh("nft list tables"), "");
    assert!(tcp_open(&lab.stranger, lab.server.v4, 22));
    std::fs::remove_dir(&strange).expect("an empty folder");
    Agent::start(&lab.server, ConfigText::ssh()).stop();
}

#[test]
fn a_program_that_comes_later_does_not_push_the_detector_out() {
    let lab = Lab::new();
    let mut agent = Agent::start(&lab.server, ConfigText::ssh());
    let refused = lab.server.run(|| Nothing::attach("eth0").is_err());
    assert!(refused, "the kernel gives an interface to one program");
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
}

#[test]
fn a_second_agent_refuses_to_start_and_names_the_first() {
    let lab = Lab::new();
    let first = Agent::start(&lab.server, ConfigText::ssh());
    let (_, said) = start(&lab.server, ConfigText::ssh(), &[]);
    let expected = format!("xknockd already runs here as process {}", first.process().id());
    assert!(said.contains(&expected), "{said}");
    assert!(lab.server.ip("-d link show eth0").contains("xdp"), "the first goes on");
    first.stop();
}

#[test]
fn without_privilege_the_missing_capabilities_are_named() {
    let lab = Lab::new();
    let config = Config::new(ConfigText::ssh());
    let mut command = lab.server.command("setpriv");
    command.args(["--bounding-set", "-net_admin,-bpf,-sys_admin", "--inh-caps", "-all"]);
    command.arg(knock_lab::agent::program("xknockd")).arg("run").arg("--config").arg(config.path());
    let output = command.output().expect("setpriv runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("missing CAP_BPF") && said.contains("CAP_NET_ADMIN"), "{said}");
    assert!(!said.contains("CAP_PERFMON"), "{said}");
    assert_untouched(&lab.server);
}

#[test]
fn a_bad_config_changes_nothing_and_shows_where_it_is_bad() {
    let lab = Lab::new();
    for command in ["run", "check"] {
        let config = Config::new(NO_TIME);
        let path = config.path().display().to_string();
        let output = xknockd_output(&lab.server, &[command, "--config", &path]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("xknockd.toml:8:12"), "{said}");
        assert_untouched(&lab.server);
    }
}

#[test]
fn a_door_that_a_scan_would_open_is_refused() {
    let lab = Lab::new();
    let text = ConfigText::ssh().sequence("tcp/7000,tcp/7001,tcp/7002");
    let (_, said) = start(&lab.server, text, &[]);
    assert!(said.contains("door `ssh`") && said.contains("ascending"), "{said}");
    assert_untouched(&lab.server);
}

#[test]
fn check_prints_the_doors_and_changes_nothing() {
    let lab = Lab::new();
    let config = Config::new(ConfigText::ssh().open_for("5m"));
    let path = config.path().display().to_string();
    let output = xknockd_output(&lab.server, &["check", "--config", &path]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    for part in ["ssh", "tcp/22", "tcp/7000, udp/8000, tcp/9000", "5m", "mode enforce", "1 doors"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert_untouched(&lab.server);
}

#[test]
fn nothing_to_watch_is_an_error() {
    let lab = Lab::new();
    let output = xknockd_output(&lab.server, &["run"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--interface"), "{said}");
    assert_untouched(&lab.server);
}

#[test]
fn without_a_config_it_observes_and_prints_commands_that_open_the_door() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut command = xknockd(&lab.server);
    command.args(["run", "--interface", "eth0"]).stdout(Stdio::piped());
    let mut agent = Process::start(&mut command);
    // It says so once it is ready, as the last line.
    agent.await_line("the commands", |line| line.contains("Observing").then_some(()));
    let help: Vec<_> = agent.seen().iter().map(|line| line.trim().to_owned()).collect();
    assert!(tcp_open(&lab.stranger, lab.server.v4, 22), "no host is locked out");
    for (program, host) in [("xknock", &lab.client), ("knock", &lab.stranger)] {
        let line = help.iter().find(|line| line.starts_with(&format!("{program} ")));
        let line = line.unwrap_or_else(|| panic!("no {program} command in {help:?}"));
        let path = knock_lab::agent::program("xknock");
        let folder = path.parent().expect("a folder").display();
        host.sh(&format!("PATH=$PATH:{folder}; {line}"));
        let source = host.v4.to_string();
        agent.await_line("opened", |line| {
            (line.contains("opened") && line.contains(&source)).then_some(())
        });
    }
}

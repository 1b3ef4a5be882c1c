//! The privileges of a running agent, started by root or as a user of its own.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::Command;

use knock_lab::clients::xknock_steps;
use knock_lab::services::{Echo, tcp_open};
use knock_lab::unit::OwnUser;
use knock_lab::{Agent, Config, ConfigText, Lab};
use knock_userspace::syscalls;
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;

use crate::{SSH, STEPS, refused, verb};

/// Returns a value of `/proc/PID/status` (proc(5)).
fn status(agent: &Agent, key: &str) -> String {
    let path = format!("/proc/{}/status", agent.process().id());
    let text = fs::read_to_string(path).expect("the agent runs");
    let mut values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    values.next().unwrap_or_else(|| panic!("no {key}")).trim().to_owned()
}

/// Asserts that the kernel grants it three capabilities and filters its system calls.
fn assert_least(agent: &Agent) {
    // CAP_NET_ADMIN is 12, CAP_PERFMON 38, CAP_BPF 39 (linux/capability.h).
    let three = format!("{:016x}", (1u64 << 12) | (1 << 38) | (1 << 39));
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(status(agent, set), three, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(status(agent, set), "0".repeat(16), "{set}");
    }
    assert_eq!(status(agent, "NoNewPrivs"), "1");
    assert_eq!(status(agent, "Seccomp"), "2", "a filter");
}

#[test]
fn an_agent_started_by_root_keeps_three_capabilities() {
    let lab = Lab::new();
    let agent = Agent::start(&lab.server, ConfigText::ssh());
    assert_eq!(status(&agent, "Uid"), "0\t0\t0\t0");
    assert_least(&agent);
    agent.stop();
}

#[test]
fn an_agent_with_its_own_user_can_do_everything_with_what_the_unit_grants() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let config_file = Config::new(ConfigText::ssh().open_for("10m"));
    let own = OwnUser::prepare(&lab.server, &config_file);
    let mut agent = own.start(&lab.server, config_file);
    assert_ne!(status(&agent, "Uid"), "0\t0\t0\t0");
    assert_least(&agent);
    assert!(!agent.log().contains("nothing but the table"), "{}", agent.log());
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));

    // The confined agent loads, attaches and pins another program and other maps, and attaches to
    // an interface that comes later.
    let text = ConfigText::ssh().open_for("10m").top("max_sources", 2048);
    agent.rewrite_config(text.interfaces(["eth0", "lan*"]));
    verb(&lab.server, &["reload"]);
    lab.server.ip("link add lan0 type veth peer name lan0peer");
    agent.await_message("attached");
    lab.server.sh("nft flush ruleset");
    agent.await_message("restored what was changed");
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
    lab.server.ip("link del lan0");
    agent.await_message("detached");

    let file = agent.kill();
    xknock_steps(&lab.stranger, lab.server.v4, STEPS);
    let mut next = own.start(&lab.server, file);
    next.await_opened(lab.stranger.v4, SSH);
    assert!(tcp_open(&lab.client, lab.server.v4, 22), "grants are adopted");
    let mut third = own.start(&lab.server, next.terminate());
    assert!(verb(&lab.server, &["grants"]).contains(&lab.client.v4.to_string()));
    assert!(!third.log().contains("lost"), "all was adopted: {}", third.log());

    verb(&lab.server, &["off"]);
    assert!(!third.log().contains("ERROR"), "{}", third.log());
    third.process_ends();
    assert_eq!(lab.server.sh("nft list tables"), "");
    assert!(!lab.server.ip("-d link show").contains("xdp"));
}

/// The work of a process behind the filter.
type Work = fn() -> io::Result<()>;

/// Runs `work` in a process of its own behind the filter and returns how that process ends, or the
/// error of `work`.
fn filtered(work: Work) -> io::Result<std::process::ExitStatus> {
    let mut command = Command::new("true");
    // SAFETY: between fork and exec only system calls are made, and memory is allocated, for
    // which the C library is prepared after a fork.
    unsafe {
        command.pre_exec(move || {
            syscalls::restrict().map_err(io::Error::other)?;
            work()
        });
    }
    command.spawn()?.wait()
}

/// Makes a system call that takes numbers only.
fn call(number: libc::c_long) -> io::Result<()> {
    // SAFETY: none of the calls below takes a pointer that is not null here, so that without
    // the filter they would fail or change nothing but this process.
    let result = unsafe { libc::syscall(number, 0, 0, 0, 0, 0) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

#[test]
fn system_calls_that_only_an_intruder_makes_kill_the_process() {
    let rows: [(&str, Work); 6] = [
        ("execve, which follows", || Ok(())),
        ("ptrace", || call(libc::SYS_ptrace)),
        ("mount", || call(libc::SYS_mount)),
        ("setuid", || call(libc::SYS_setuid)),
        ("unshare", || call(libc::SYS_unshare)),
        ("io_uring_setup", || call(libc::SYS_io_uring_setup)),
    ];
    for (what, work) in rows {
        let ended = filtered(work).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(ended.signal(), Some(Signal::SIGSYS as i32), "{what}: {ended}");
    }
}

#[test]
fn other_system_calls_that_are_not_needed_fail_with_eperm() {
    for work in [|| call(libc::SYS_getpriority), || call(libc::SYS_sync)] as [Work; 2] {
        let error = filtered(work).expect_err("an error");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
    }
}

/// Returns whether this kernel restricts files by Landlock (landlock(7)).
fn landlock() -> bool {
    const VERSION: libc::c_long = 1;
    // SAFETY: with this flag the call takes no pointer, and returns the version.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, VERSION) };
    version > 0
}

#[test]
fn files_elsewhere_are_out_of_reach_even_for_root() {
    let lab = Lab::new();
    let agent = Agent::start(&lab.server, ConfigText::ssh());
    let elsewhere = Config::new(ConfigText::ssh().open_for("10m"));
    let path = agent.config().path();
    fs::remove_file(&path).expect("the config is removed");
    symlink(elsewhere.path(), &path).expect("a link to a config elsewhere");
    if landlock() {
        let said = refused(&lab.server, &["reload"]);
        assert!(said.contains("Permission denied"), "{said}");
    } else {
        verb(&lab.server, &["reload"]);
    }
    fs::remove_file(&path).expect("the link is removed");
    fs::copy(elsewhere.path(), &path).expect("the same config in its own folder");
    verb(&lab.server, &["reload"]);
    agent.stop();
}

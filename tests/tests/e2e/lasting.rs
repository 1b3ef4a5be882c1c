//! Agents that end and others that take their place: no knock is lost, and no stranger gets in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};

use knock_common::LAYOUT;
use knock_common::sequence::{Protocol, Step};
use knock_lab::agent::{program, with_clock, xknockd};
use knock_lab::clients::xknock_steps;
use knock_lab::leftovers;
use knock_lab::process::Process;
use knock_lab::services::{Echo, tcp_open};
use knock_lab::table::await_table;
use knock_lab::{Agent, Config, ConfigText, Lab, Packet, wire};
use knock_userspace::instance_paths::InstancePaths;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{SSH, STEPS, assert_no_trace, granted, verb};

/// Returns a config that keeps grants for ten minutes and takes knocks that waited for five.
fn long_and_patient() -> ConfigText {
    ConfigText::ssh().open_for("10m").top("late_grants", "5m")
}

#[test]
fn a_knock_made_while_no_agent_runs_opens_when_the_next_one_comes() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let config = Agent::start(&lab.server, long_and_patient()).kill();
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    assert!(!tcp_open(&lab.client, lab.server.v4, 22), "no agent gives grants now");
    let mut next = Agent::start_again(&lab.server, config);
    next.await_opened(lab.client.v4, SSH);
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
    let once = next.terminate();
    let mut third = Agent::start_again(&lab.server, once);
    assert!(!third.has_opened_for(lab.client.v4), "a knock counts once");
}

#[test]
fn a_knock_that_waited_too_long_opens_nothing() {
    let lab = Lab::new();
    let text = ConfigText::ssh().top("late_grants", "9s");
    let config = Agent::start(&lab.server, text).kill();
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    // To this agent, the kernel's time of the knock is that long ago.
    let mut command = with_clock(xknockd(&lab.server), "+10s");
    command.arg("run").arg("--config").arg(config.path());
    let mut next = Agent::spawn(command, config);
    let late = next.await_message("late: opens nothing");
    assert_eq!(late["source"], lab.client.v4.to_string());
    assert!(verb(&lab.server, &["status"]).contains("late knocks"));
    let mut third = Agent::start_again(&lab.server, next.kill());
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    third.await_opened(lab.client.v4, SSH);
}

#[test]
fn a_knock_half_way_goes_on_with_the_next_agent() {
    let lab = Lab::new();
    for end in [Agent::kill, Agent::terminate] {
        let agent = Agent::start(&lab.server, ConfigText::ssh().within("1m"));
        xknock_steps(&lab.client, lab.server.v4, "tcp/7000");
        let next = Agent::start_again(&lab.server, end(agent));
        xknock_steps(&lab.client, lab.server.v4, "udp/8000");
        let mut third = Agent::start_again(&lab.server, end(next));
        xknock_steps(&lab.client, lab.server.v4, "tcp/9000");
        third.await_opened(lab.client.v4, SSH);
        third.stop();
        verb(&lab.server, &["off"]);
    }
    assert_no_trace(&lab.server);
}

#[test]
fn grants_come_back_with_their_time_after_a_flush_that_no_agent_saw() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().open_for("10m"));
    for (host, address) in [(&lab.client, lab.server.v4), (&lab.client, lab.server.v6)] {
        xknock_steps(host, address, STEPS);
    }
    agent.await_opened(lab.client.v4, SSH);
    agent.await_opened(lab.client.v6, SSH);
    let config = agent.kill();
    lab.server.sh("nft flush ruleset");
    let mut next = Agent::start_again(&lab.server, config);
    assert!(next.log().contains("its grants are back"), "{}", next.log());
    for server in [lab.server.v4, lab.server.v6] {
        assert!(tcp_open(&lab.client, server, 22));
        assert!(!tcp_open(&lab.stranger, server, 22));
    }
    let left = verb(&lab.server, &["grants"]);
    assert!(left.contains("9m") && !left.contains("10m"), "not given anew: {left}");
}

#[test]
fn elements_that_another_tool_added_while_no_agent_ran_are_not_grants() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let config = Agent::start(&lab.server, ConfigText::ssh().open_for("10m")).kill();
    let element = format!("{{ {} . tcp . 22 timeout 1h }}", lab.stranger.v4);
    lab.server.sh(&format!("nft 'add element inet xknock open4 {element}'"));
    assert!(tcp_open(&lab.stranger, lab.server.v4, 22));
    let _next = Agent::start_again(&lab.server, config);
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
}

/// Sends whole knocks, one after the other and each from another source, and reports each on `sent`
/// until the receiver is gone. Returns their number.
fn stream_of_knocks(lab: &Lab, sent: &Sender<()>) -> usize {
    const SEQUENCE: [Step; 3] = [
        Step::new(Protocol::Tcp, 7000),
        Step::new(Protocol::Udp, 8000),
        Step::new(Protocol::Tcp, 9000),
    ];
    /// 10.80.0.0.
    const FIRST: u32 = 0x0a50_0000;
    for number in 1.. {
        let source = IpAddr::from((FIRST + number).to_be_bytes());
        let frames = SEQUENCE.map(|step| Packet::to(&lab.server, source).knock(step));
        wire::send(&lab.client, frames.to_vec());
        if sent.send(()).is_err() {
            return number as usize;
        }
    }
    unreachable!("there are more addresses than this test has time for")
}

#[test]
fn ten_restarts_under_a_stream_of_knocks_lose_none() {
    let lab = Lab::new();
    let mut agent = Agent::start(&lab.server, long_and_patient());
    let (agent, sent) = std::thread::scope(|scope| {
        let (sender, receiver) = channel();
        let stream = scope.spawn({
            let lab = &lab;
            move || stream_of_knocks(lab, &sender)
        });
        for restart in 0..10 {
            receiver.try_iter().for_each(drop);
            assert_eq!(receiver.iter().take(3).count(), 3, "the stream goes on");
            let config = if restart % 2 == 0 { agent.terminate() } else { agent.kill() };
            agent = Agent::start_again(&lab.server, config);
        }
        drop(receiver);
        (agent, stream.join().expect("the stream ends"))
    });
    eprintln!("{sent} knocks");
    let granted = || lab.server.sh("nft -n list set inet xknock open4").matches("expires").count();
    await_table(&lab.server, "grant for each", || granted() == sent);
    assert_eq!(agent.stop().get("completed"), sent as u64);
}

#[test]
fn a_program_of_another_layout_is_replaced_and_the_log_says_what_was_lost() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let agent = granted(&lab);
    let config = agent.terminate();
    let pins = InstancePaths::of(lab.server.name()).pins;
    let (own, other) = (pins.join(format!("v{LAYOUT}")), pins.join("v0"));
    std::fs::rename(&own, &other).expect("a layout that this program does not know");
    let mut next = Agent::start_again(&lab.server, config);
    assert!(next.log().contains("of another layout"), "{}", next.log());
    assert!(own.is_dir() && !other.exists());
    assert!(tcp_open(&lab.client, lab.server.v4, 22), "the table's grants stay");
    xknock_steps(&lab.stranger, lab.server.v4, STEPS);
    next.await_opened(lab.stranger.v4, SSH);
}

#[test]
fn a_start_that_fails_leaves_the_detector_of_another_layout_where_it_is() {
    let lab = Lab::new();
    let config = granted(&lab).terminate();
    let pins = InstancePaths::of(lab.server.name()).pins;
    let (own, other) = (pins.join(format!("v{LAYOUT}")), pins.join("v0"));
    std::fs::rename(&own, &other).expect("a layout that this program does not know");
    let too_many = Config::new(ConfigText::ssh().top("max_sources", 1 << 29));
    let path = too_many.path();
    let failed = xknockd(&lab.server).arg("run").arg("--config").arg(path).output();
    assert!(!failed.expect("xknockd runs").status.success());
    assert!(other.is_dir() && !own.exists());
    assert!(lab.server.ip("-d link show eth0").contains("xdp"), "the detector goes on");
    Agent::start_again(&lab.server, config).stop();
}

#[test]
fn other_sizes_make_other_maps_and_keep_grants() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let agent = granted(&lab);
    agent.rewrite_config(ConfigText::ssh().open_for("10m").top("max_sources", 2048));
    let mut next = Agent::start_again(&lab.server, agent.terminate());
    assert!(next.log().contains("knocks under way"), "{}", next.log());
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
    xknock_steps(&lab.stranger, lab.server.v4, STEPS);
    next.await_opened(lab.stranger.v4, SSH);
}

/// System calls by which a start changes something, or asks whether it may.
const CALLS: [&str; 7] = ["bpf", "flock", "mkdir", "seccomp", "sendmsg", "sendto", "unlink"];

/// Returns a command of the agent under strace(1), which writes those calls to `trace`.
fn traced(lab: &Lab, config: &Config, trace: &Path, more: &[String]) -> Command {
    let mut command = lab.server.command("strace");
    command.args(["--follow-forks", "--trace", &CALLS.join(","), "--output"]).arg(trace);
    command.args(more).arg(program("xknockd")).env("XKNOCKD_INSTANCE", lab.server.name());
    command.args(["run", "--config"]).arg(config.path());
    command
}

/// Ends a traced agent, and strace with it.
fn end_traced(lab: &Lab, process: Process, signal: Signal) {
    let lock = std::fs::read_to_string(InstancePaths::of(lab.server.name()).lock());
    let id = lock.expect("the lock of the agent").trim().parse().expect("its process");
    // It may be about to end by itself.
    let _ = kill(Pid::from_raw(id), signal);
    process.wait();
}

/// Returns each of the calls that a start makes until it is ready, as its name and the number of
/// calls of that name before it.
fn stages(lab: &Lab, config: &Config) -> Vec<(String, usize)> {
    let folder = leftovers::folder();
    let trace = folder.path().join("trace");
    let mut process = Process::start(&mut traced(lab, config, &trace, &[]));
    process.await_line("ready", |line| line.contains("\"ready\"").then_some(()));
    end_traced(lab, process, Signal::SIGKILL);
    let text = std::fs::read_to_string(trace).expect("a trace");
    let mut counts = HashMap::new();
    let mut stages = Vec::new();
    for line in text.lines() {
        let call = line.split_whitespace().nth(1).and_then(|word| word.split_once('('));
        if let Some((call, _)) = call.filter(|(call, _)| CALLS.contains(call)) {
            let count: &mut usize = counts.entry(call.to_owned()).or_default();
            stages.push((call.to_owned(), *count));
            *count += 1;
        }
    }
    stages
}

#[test]
fn an_end_in_any_stage_of_start_up_leaves_nothing_that_disturbs_the_next() {
    const ENDS: usize = 24;
    let lab = Lab::new();
    let config = Config::new(ConfigText::ssh());
    let stages = stages(&lab, &config);
    assert!(stages.len() > 2 * ENDS, "{stages:?}");
    let mut ended = 0;
    for end in 0..ENDS {
        let signal = if end % 2 == 0 { Signal::SIGKILL } else { Signal::SIGTERM };
        let (call, before) = &stages[end * stages.len() / ENDS];
        let inject = format!("--inject={call}:signal={signal}:when={}", before + 1);
        let nowhere = Path::new("/dev/null");
        let mut process = Process::start(&mut traced(&lab, &config, nowhere, &[inject]));
        let is_ready = |line: &str| line.contains("\"ready\"").then_some(());
        if process.line_or_end("ready", is_ready).is_some() {
            // SIGTERM is seen once it is ready. And where another has left much, a start makes
            // fewer calls of some names.
            end_traced(&lab, process, signal);
        } else {
            ended += 1;
            process.wait();
        }
        if end % 4 == 3 {
            // Sometimes nothing is left, so that every stage is one of a first start, too.
            verb(&lab.server, &["off"]);
        }
    }
    assert!(ended > ENDS / 3, "{ended} of {ENDS} ended before they were ready");
    let mut agent = Agent::start_again(&lab.server, config);
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    verb(&lab.server, &["off"]);
    agent.process_ends();
    assert_no_trace(&lab.server);
}

#[test]
fn where_nothing_can_be_pinned_the_agent_says_so_and_works() {
    let lab = Lab::new();
    let config = Config::new(ConfigText::ssh());
    let mut command = lab.server.command("unshare");
    // Without CAP_SYS_ADMIN nothing can be mounted in the place of what was taken away.
    let script =
        "umount -l /sys/fs/bpf; exec setpriv --bounding-set -sys_admin --inh-caps -all \"$@\"";
    command.args(["--mount", "sh", "-c", script, "sh"]);
    command.arg(program("xknockd")).env("XKNOCKD_INSTANCE", lab.server.name());
    command.args(["run", "--config"]).arg(config.path());
    let mut agent = Agent::spawn(command, config);
    assert!(agent.log().contains("nothing but the table will outlive"), "{}", agent.log());
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    assert!(verb(&lab.server, &["status"]).contains("the table only"));
    agent.stop();
    let links = lab.server.ip("-d link show eth0");
    assert!(!links.contains("xdp"), "{links}");
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    let lab = Lab::new();
    let config = Config::new(ConfigText::ssh());
    let run = InstancePaths::of(lab.server.name()).run;
    std::fs::create_dir_all(&run).expect("a folder to mount on");
    let mut command = lab.server.command("unshare");
    // There is room for the lock and none for a socket.
    let script =
        format!("mount -t tmpfs -o nr_inodes=2,mode=700 none {}; exec \"$@\"", run.display());
    command.args(["--mount", "sh", "-c", &script, "sh"]);
    command.arg(program("xknockd")).env("XKNOCKD_INSTANCE", lab.server.name());
    command.args(["run", "--config"]).arg(config.path());
    let output = command.output().expect("unshare runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("cannot take requests at") && said.contains("No space left"), "{said}");
}

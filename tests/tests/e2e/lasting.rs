//! Agents die and others take their place: nothing is lost, and nobody gets in.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use knock_common::LAYOUT;
use knock_common::sequence::{Protocol, Step};
use knock_tests::agent::xknockd;
use knock_tests::clients::xknock_steps;
use knock_tests::services::{Echo, eventually, tcp_open};
use knock_tests::{Agent, Config, Lab, raw};
use knock_userspace::places::Places;
use nix::sys::signal::Signal;

use crate::{SSH, STEPS, assert_no_trace, config, granted, verb};

const PATIENT: &str = "late_grants = \"5m\"";
const LONG: &str = "open_for = \"10m\"";

#[test]
fn a_knock_made_while_no_agent_runs_opens_when_the_next_one_comes() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let config = Agent::start(&lab.server, &config(PATIENT, LONG)).kill();
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    assert!(!tcp_open(&lab.client, lab.server.v4, 22), "nobody gives grants now");
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
    let text = config("late_grants = \"1s\"", "");
    let config = Agent::start(&lab.server, &text).kill();
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    // Time itself is what is waited for.
    std::thread::sleep(Duration::from_millis(1200));
    let mut next = Agent::start_again(&lab.server, config);
    let late = next.await_message("late: opens nothing");
    assert_eq!(late["source"], lab.client.v4.to_string());
    assert!(verb(&lab.server, &["status"]).contains("late knocks"));
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    next.await_opened(lab.client.v4, SSH);
}

#[test]
fn a_knock_half_way_goes_on_with_the_next_agent() {
    let lab = Lab::new();
    for end in [Agent::kill, Agent::terminate] {
        let agent = Agent::start(&lab.server, &config("", "within = \"1m\""));
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
    let mut agent = Agent::start(&lab.server, &config("", LONG));
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
fn what_somebody_else_put_into_the_table_meanwhile_is_no_grant() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let config = Agent::start(&lab.server, &config("", LONG)).kill();
    let element = "{ 10.77.0.3 . tcp . 22 timeout 1h }";
    lab.server.sh(&format!("nft 'add element inet xknock open4 {element}'"));
    assert!(tcp_open(&lab.stranger, lab.server.v4, 22));
    let _next = Agent::start_again(&lab.server, config);
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
}

/// Sends whole knocks, each from another source, until told to stop; how many.
fn stream_of_knocks(lab: &Lab, stop: &AtomicBool, sent: &AtomicU8) {
    const SEQUENCE: [Step; 3] = [
        Step::new(Protocol::Tcp, 7000),
        Step::new(Protocol::Udp, 8000),
        Step::new(Protocol::Tcp, 9000),
    ];
    for number in 1..=250 {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let source: IpAddr = [10, 77, 9, number].into();
        let frames = SEQUENCE.map(|step| raw::knock(&lab.server, source, step));
        raw::send(&lab.client, frames.to_vec());
        sent.store(number, Ordering::SeqCst);
        // The pace of a stream, not something waited for.
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn ten_restarts_under_a_stream_of_knocks_lose_none() {
    let lab = Lab::new();
    let (stop, sent) = (AtomicBool::new(false), AtomicU8::new(0));
    let mut agent = Agent::start(&lab.server, &config(PATIENT, LONG));
    let agent = std::thread::scope(|scope| {
        scope.spawn(|| stream_of_knocks(&lab, &stop, &sent));
        for restart in 0..10 {
            let before = sent.load(Ordering::SeqCst);
            eventually("more knocks", || {
                sent.load(Ordering::SeqCst) > before.saturating_add(2).min(248)
            });
            let config = if restart % 2 == 0 { agent.terminate() } else { agent.kill() };
            agent = Agent::start_again(&lab.server, config);
        }
        stop.store(true, Ordering::SeqCst);
        agent
    });
    let sent = usize::from(sent.load(Ordering::SeqCst));
    assert!(sent > 20);
    let granted = || lab.server.sh("nft -n list set inet xknock open4").matches("expires").count();
    eventually("every grant", || granted() == sent);
    assert_eq!(agent.stop().get("completed"), sent as u64);
}

#[test]
fn a_program_of_another_layout_is_replaced_and_the_log_says_what_was_lost() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let agent = granted(&lab);
    let config = agent.terminate();
    let pins = Places::of(lab.server.name()).pins;
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
fn other_sizes_make_other_maps_and_keep_grants() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let agent = granted(&lab);
    agent.rewrite_config(&config("max_sources = 2048", LONG));
    let mut next = Agent::start_again(&lab.server, agent.terminate());
    assert!(next.log().contains("knocks under way"), "{}", next.log());
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
    xknock_steps(&lab.stranger, lab.server.v4, STEPS);
    next.await_opened(lab.stranger.v4, SSH);
}

#[test]
fn an_end_in_any_stage_of_start_up_leaves_nothing_that_disturbs_the_next() {
    let lab = Lab::new();
    let config = Config::new(&config("", ""));
    let started = Instant::now();
    let mut whole = None;
    for (step, signal) in (0u32..).zip([Signal::SIGKILL, Signal::SIGTERM].into_iter().cycle()) {
        // Spread over the time that a whole start takes here.
        let (numerator, denominator) = (step % 12, 12);
        let delay = whole.unwrap_or(Duration::ZERO) * numerator / denominator;
        let mut command = xknockd(&lab.server);
        command.arg("run").arg("--config").arg(config.path());
        let begun = Instant::now();
        let mut process = knock_tests::process::Process::start(&mut command);
        if whole.is_none() {
            process.await_line("ready", |line| line.contains("\"ready\"").then_some(()));
            whole = Some(begun.elapsed());
        }
        std::thread::sleep(delay.saturating_sub(begun.elapsed()));
        process.signal(signal);
        process.wait();
        if step >= 24 {
            break;
        }
    }
    eprintln!("25 starts in {:?}", started.elapsed());
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
    let config = Config::new(&config("", ""));
    let mut command = lab.server.command("unshare");
    // Without CAP_SYS_ADMIN nothing can be mounted in the place of what was taken away.
    let script =
        "umount -l /sys/fs/bpf; exec setpriv --bounding-set -sys_admin --inh-caps -all \"$@\"";
    command.args(["--mount", "sh", "-c", script, "sh"]);
    command.arg(knock_tests::agent::program("xknockd")).env("XKNOCKD_INSTANCE", lab.server.name());
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
    let config = Config::new(&config("", ""));
    let run = Places::of(lab.server.name()).run;
    std::fs::create_dir_all(&run).expect("a folder to mount on");
    let mut command = lab.server.command("unshare");
    // Room for the lock, and for no socket.
    let script =
        format!("mount -t tmpfs -o nr_inodes=2,mode=700 none {}; exec \"$@\"", run.display());
    command.args(["--mount", "sh", "-c", &script, "sh"]);
    command.arg(knock_tests::agent::program("xknockd")).env("XKNOCKD_INSTANCE", lab.server.name());
    command.args(["run", "--config"]).arg(config.path());
    let output = command.output().expect("unshare runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("cannot take requests at") && said.contains("No space left"), "{said}");
}

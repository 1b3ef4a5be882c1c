//! Changes of the table and the interfaces by other tools and the kernel.

use knock_common::LAYOUT;
use knock_lab::clients::xknock_steps;
use knock_lab::netns::Netns;
use knock_lab::process::seconds;
use knock_lab::services::{Echo, eventually, tcp_open};
use knock_lab::{Agent, ConfigText, Host, Lab};
use knock_userspace::instance_paths::InstancePaths;
use nix::sys::signal::Signal;

use crate::{SSH, STEPS, granted, verb};

fn assert_as_before(lab: &Lab, what: &str) {
    assert!(tcp_open(&lab.client, lab.server.v4, 22), "after {what}");
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22), "after {what}");
}

#[test]
fn what_another_tool_changes_in_the_table_is_restored_and_named() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = granted(&lab);
    lab.server.sh("nft add table inet other");
    let (client, stranger) = (lab.client.v4, lab.stranger.v4);
    let delete = format!("delete element inet xknock open4 {{ {client} . tcp . 22 }}");
    let add = format!("add element inet xknock open4 {{ {stranger} . tcp . 22 timeout 1h }}");
    for (restored, change) in (1..).zip([
        "flush ruleset",
        "delete table inet xknock",
        "flush chain inet xknock check",
        "flush chain inet xknock guard",
        "flush set inet xknock open4",
        "flush set inet xknock guarded",
        delete.as_str(),
        "insert rule inet xknock check accept",
        add.as_str(),
    ]) {
        lab.server.sh(&format!("nft '{change}'"));
        let record = agent.await_message("restored what was changed");
        let by = record["by"].as_str().expect("a name");
        assert!(by.contains("`nft` (process "), "{change}: {by}");
        println!("{change}: {} ms", record["took_ms"]);
        assert_as_before(&lab, change);
        let status = verb(&lab.server, &["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        assert_eq!(status["restored"], restored, "{change}");
    }
    lab.server.sh("nft add table inet yet_another; nft flush table inet yet_another");
    agent.stop();
}

/// Loads the table anew as `list` shows it, with a set for one grant at most.
fn limit_to_one_grant(server: &Host, list: &str) {
    server.sh(&format!(
        "(echo delete table inet xknock; {list} table inet xknock | \
         sed '/set open4/,/}}/s/flags timeout/size 1; flags timeout/') | nft -f -"
    ));
    assert!(is_limited(server));
}

fn is_limited(server: &Host) -> bool {
    server.sh("nft list set inet xknock open4").contains("size 1")
}

#[test]
fn a_set_that_another_tool_limits_is_made_anew_when_it_is_full() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = granted(&lab);
    limit_to_one_grant(&lab.server, "nft list");
    agent.await_message("restored what was changed");
    assert!(is_limited(&lab.server));
    xknock_steps(&lab.stranger, lab.server.v4, STEPS);
    agent.await_message("restored what was changed");
    let both_are_in = || {
        let are_in = [&lab.client, &lab.stranger].map(|host| tcp_open(host, lab.server.v4, 22));
        assert_eq!(are_in, [true, true], "both have knocked");
        assert!(!is_limited(&lab.server));
    };
    both_are_in();
    // While no agent runs, and with more grants on record than there is room for.
    let config = agent.kill();
    limit_to_one_grant(&lab.server, "nft --terse list");
    Agent::start_again(&lab.server, config);
    both_are_in();
}

#[test]
fn elements_without_an_end_or_with_a_far_one_are_removed() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = granted(&lab);
    let add = |host: &Host, timeout: &str| {
        let element = format!("{} . tcp . 22 {timeout}", host.v4);
        lab.server.sh(&format!("nft add element inet xknock open4 '{{ {element} }}'"));
    };
    // Of a source with a grant, and of one without.
    lab.server.sh("nft flush set inet xknock open4");
    add(&lab.client, "");
    add(&lab.stranger, "");
    eventually("a table without the stranger", || !tcp_open(&lab.stranger, lab.server.v4, 22));
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
    agent.await_message("restored what was changed");
    // The same where the next agent finds no record of who earned what.
    let config = agent.kill();
    verb(&lab.server, &["revoke", &lab.client.v4.to_string()]);
    std::fs::remove_dir_all(InstancePaths::of(lab.server.name()).pins.join(format!("v{LAYOUT}")))
        .expect("the record is gone");
    add(&lab.client, "");
    add(&lab.stranger, "timeout 1100d");
    let agent = Agent::start_again(&lab.server, config);
    for host in [&lab.client, &lab.stranger] {
        assert!(!tcp_open(host, lab.server.v4, 22));
    }
    agent.stop();
}

#[test]
fn changes_whose_notification_was_lost_are_restored() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = granted(&lab);
    agent.process().signal(Signal::SIGSTOP);
    // More changes of another table than the queue holds, and ours among the lost ones.
    lab.server.sh("nft add table inet other; nft add set inet other s '{ type ipv4_addr; }'; \
         for round in 1 2 3 4; do for n in $(seq 250); do for m in 1 2 3 4 5 6 7 8; do \
         echo add element inet other s { 10.$round.$n.$m }; done; done; done > /dev/shm/xk-$$; \
         nft -f /dev/shm/xk-$$; rm /dev/shm/xk-$$; nft flush ruleset");
    agent.process().signal(Signal::SIGCONT);
    agent.await_message("restored what was changed");
    assert_as_before(&lab, "a lost message");
}

/// Joins `interface` of the server to another host.
fn join(server: &Host, interface: &str) -> Netns {
    let other = Netns::new("other");
    server.ip(&format!("link add {interface} type veth peer name eth0 netns {}", other.name()));
    server.ip(&format!("address add 10.78.0.1/24 dev {interface}"));
    server.ip(&format!("link set {interface} up"));
    other.ip("address add 10.78.0.2/24 dev eth0");
    other.ip("link set eth0 up");
    other
}

fn knock_over(agent: &mut Agent, other: &Netns) {
    let server = "10.78.0.1".parse().expect("an address");
    assert!(!tcp_open(other, server, 22), "closed from the first packet on");
    other.sh("for p in 7000:tcp 8000:udp 9000:tcp; do knock 10.78.0.1 $p; done");
    agent.await_opened("10.78.0.2".parse().expect("an address"), SSH);
    assert!(tcp_open(other, server, 22));
}

/// Waits for the end of what [`knock_over`] opened.
fn await_end(agent: &mut Agent, other: &Netns) {
    agent.await_closed("10.78.0.2".parse().expect("an address"), SSH);
    let server = "10.78.0.1".parse().expect("an address");
    eventually("the end of the grant", || !tcp_open(other, server, 22));
}

/// Returns the number of links that are pinned for this host's agent.
fn links(host: &Host) -> usize {
    let folder = InstancePaths::of(host.name()).pins.join("links");
    std::fs::read_dir(folder).expect("a folder").count()
}

#[test]
fn interfaces_are_watched_when_they_come_and_forgotten_when_they_go() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let text = ConfigText::ssh().open_for(&seconds(2)).interfaces(["eth0", "lan*", "wan0"]);
    let mut agent = Agent::start(&lab.server, text);
    assert!(agent.log().contains("waiting for it"), "{}", agent.log());
    let source = "10.78.0.2".parse().expect("an address");
    for _ in 0..2 {
        let other = join(&lab.server, "lan1");
        agent.await_message("attached");
        knock_over(&mut agent, &other);
        lab.server.ip("link set lan1 down");
        lab.server.ip("link set lan1 up");
        await_end(&mut agent, &other);
        knock_over(&mut agent, &other);
        lab.server.ip("link set lan1 down");
        lab.server.ip("link set lan1 name wan0");
        agent.await_message("renamed");
        lab.server.ip("link set wan0 up");
        await_end(&mut agent, &other);
        knock_over(&mut agent, &other);
        lab.server.ip("link set wan0 down");
        lab.server.ip("link set wan0 name dmz0");
        agent.await_message("detached");
        eventually("no program", || !lab.server.ip("-d link show dmz0").contains("xdp"));
        agent.await_closed(source, SSH);
        lab.server.ip("link set dmz0 name lan2");
        agent.await_message("attached");
        lab.server.ip("link del lan2");
        let why = agent.await_message("detached");
        assert_eq!(why["why"], "the interface is gone");
        assert_eq!(links(&lab.server), 1, "only eth0 is left");
    }
    agent.stop();
}

#[test]
fn an_agent_whose_only_interface_is_not_there_waits_for_it() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let text = ConfigText::ssh().interfaces(["lan0"]);
    let mut agent = Agent::start(&lab.server, text);
    let other = join(&lab.server, "lan0");
    agent.await_message("attached");
    knock_over(&mut agent, &other);
}

#[test]
fn an_interface_recreated_while_no_agent_ran_is_watched_again() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let text = ConfigText::ssh().interfaces(["lan0"]);
    let other = join(&lab.server, "lan0");
    let agent = Agent::start(&lab.server, text);
    let index = lab.server.ip("-o link show lan0");
    let index = index.split(':').next().expect("an index").to_owned();
    let config = agent.kill();
    lab.server.ip("link del lan0");
    drop(other);
    let other = Netns::new("other");
    // The same index again, so that the pinned link seems to be to this one.
    lab.server.ip(&format!(
        "link add lan0 index {index} type veth peer name eth0 netns {}",
        other.name()
    ));
    lab.server.ip("address add 10.78.0.1/24 dev lan0");
    lab.server.ip("link set lan0 up");
    other.ip("address add 10.78.0.2/24 dev eth0");
    other.ip("link set eth0 up");
    let mut agent = Agent::start_again(&lab.server, config);
    knock_over(&mut agent, &other);
    assert_eq!(links(&lab.server), 1);
}

#[test]
fn a_wall_clock_that_jumps_by_a_year_changes_nothing() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let file = knock_lab::Config::new(ConfigText::ssh().open_for(&seconds(3)));
    // It lies beside the config, since the agent can read nowhere else.
    let clock = file.path().with_file_name("clock");
    std::fs::write(&clock, "+0").expect("the clock as it is");
    let mut command = knock_lab::agent::xknockd(&lab.server);
    command
        .env("LD_PRELOAD", knock_lab::agent::FAKETIME)
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .args(["run", "--config"])
        .arg(file.path());
    let mut agent = Agent::spawn(command, file);
    for jump in ["+365d", "-365d"] {
        xknock_steps(&lab.client, lab.server.v4, STEPS);
        agent.await_opened(lab.client.v4, SSH);
        std::fs::write(&clock, jump).expect("another year");
        assert!(tcp_open(&lab.client, lab.server.v4, 22), "{jump}: a grant does not end early");
        agent.await_closed(lab.client.v4, SSH);
        // The kernel's clock for elements may be late where processors wait for a turn.
        eventually(&format!("{jump}: nor late"), || !tcp_open(&lab.client, lab.server.v4, 22));
    }
    let years: std::collections::HashSet<_> =
        agent.log().lines().filter_map(|line| line.get(14..18).map(str::to_owned)).collect();
    assert!(years.len() >= 2, "the agent saw the clock jump: {years:?}");
}

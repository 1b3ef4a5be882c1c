//! Honest clients, which open doors for themselves alone.

use std::net::IpAddr;

use knock_lab::clients::{knock, xknock, xknock_steps};
use knock_lab::services::{Echo, tcp_open};
use knock_lab::{Agent, ConfigText, Lab};

use crate::{CLASSIC, SSH, STEPS};

#[test]
fn the_classic_client_opens_the_door_for_itself_alone() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = Agent::start(&lab.server, ConfigText::ssh());
    assert!(!tcp_open(&lab.client, lab.server.v4, 22));
    knock(&lab.client, lab.server.v4, CLASSIC);
    let opened = agent.await_opened(lab.client.v4, SSH);
    assert_eq!((&opened["door"], &opened["extended"]), (&"ssh".into(), &false.into()));
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
    assert!(!tcp_open(&lab.client, lab.server.v6, 22), "the grant is for the address that knocked");
    let counters = agent.stop();
    assert_eq!((counters.get("completed"), counters.get("event_lost")), (1, 0));
}

#[test]
fn the_classic_client_knocks_over_ipv6() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = Agent::start(&lab.server, ConfigText::ssh());
    assert!(!tcp_open(&lab.client, lab.server.v6, 22));
    knock(&lab.client, lab.server.v6, CLASSIC);
    agent.await_opened(lab.client.v6, SSH);
    assert!(tcp_open(&lab.client, lab.server.v6, 22));
    assert!(!tcp_open(&lab.stranger, lab.server.v6, 22));
    assert!(!tcp_open(&lab.client, lab.server.v4, 22));
}

#[test]
fn netcat_in_a_loop_is_a_client() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let text = ConfigText::ssh().sequence("tcp/7000,tcp/9000,tcp/8000");
    let mut agent = Agent::start(&lab.server, text);
    let server = lab.server.v4;
    lab.client.shell(&format!("for p in 7000 9000 8000; do nc -z -w1 {server} $p; done"));
    agent.await_opened(lab.client.v4, SSH);
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
}

#[test]
fn netcat_retransmits_to_silent_ports_and_still_opens() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let text = ConfigText::ssh().top("knocks", "drop").within("30s");
    let text = text.sequence("tcp/7000,tcp/9000,tcp/8500");
    let mut agent = Agent::start(&lab.server, text);
    // Each attempt lasts three seconds, and its SYN is sent again after one and three.
    let server = lab.server.v4;
    lab.client.shell(&format!("for p in 7000 9000 8500; do nc -z -w3 {server} $p; done"));
    agent.await_opened(lab.client.v4, SSH);
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
}

#[test]
fn our_client_waits_until_the_port_answers() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let _agent = Agent::start(&lab.server, ConfigText::ssh());
    for server in [lab.server.v4, lab.server.v6] {
        let output = xknock(&lab.client, server, &["--steps", STEPS, "--wait", "tcp/22"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("tcp/22") && said.contains("answers after"), "{said}");
    }
    let output = xknock(
        &lab.stranger,
        lab.server.v4,
        &["--steps", "tcp/7000", "--wait", "tcp/22", "--timeout", "1s"],
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn two_users_behind_one_address_knock_on_two_doors_at_once() {
    let lab = Lab::new();
    let text = ConfigText::ssh().door("web", ["tcp/443"]).sequence("udp/6100,tcp/6300,udp/6200");
    let mut agent = Agent::start(&lab.server, text);
    let interleaved = "tcp/7000,udp/6100,udp/8000,tcp/6300,udp/6200,tcp/9000";
    xknock_steps(&lab.client, lab.server.v4, interleaved);
    agent.await_opened(lab.client.v4, "tcp/443");
    agent.await_opened(lab.client.v4, SSH);
}

#[test]
fn doors_share_a_beginning() {
    let lab = Lab::new();
    let text = ConfigText::ssh().door("web", ["tcp/443"]).sequence("tcp/7000,udp/8000,udp/5000");
    let mut agent = Agent::start(&lab.server, text);
    xknock_steps(&lab.client, lab.server.v4, "tcp/7000,udp/8000,udp/5000");
    agent.await_opened(lab.client.v4, "tcp/443");
    assert!(!agent.log().contains("tcp/22"));
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
}

#[test]
fn packets_that_are_not_a_knock_open_nothing() {
    let lab = Lab::new();
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().within("1s"));
    let wrong = [
        ("in the wrong order", "tcp/7000,tcp/9000,udp/8000"),
        ("in the wrong order, and the last step again", "tcp/7000,tcp/9000,udp/8000,tcp/9000"),
        ("backwards", "tcp/9000,udp/8000,tcp/7000"),
        ("over the wrong protocol", "udp/7000,tcp/8000,udp/9000"),
        ("without the middle", "tcp/7000,tcp/9000"),
        ("with decoys between", "tcp/7000,tcp/6999,tcp/7001,tcp/7002,udp/8000,tcp/9000"),
    ];
    for (_, steps) in wrong {
        xknock_steps(&lab.client, lab.server.v4, steps);
    }
    let slow = xknock(&lab.client, lab.server.v4, &["--steps", STEPS, "--gap", "700ms"]);
    assert!(slow.status.success());
    // Events come in order: had one of those opened, it would stand before this one.
    xknock_steps(&lab.stranger, lab.server.v4, STEPS);
    agent.await_opened(lab.stranger.v4, SSH);
    assert!(!agent.has_opened_for(lab.client.v4), "{}", agent.log());
    let counters = agent.stop();
    assert_eq!(counters.get("completed"), 1);
    assert!(counters.get("wrong") >= 2);
    assert!(counters.get("forgotten") + counters.get("stray") >= 3);
    assert!(counters.get("late") + counters.get("unexpected") >= 1);
}

#[test]
fn steps_of_two_sources_do_not_add_up_to_a_knock() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = Agent::start(&lab.server, ConfigText::ssh());
    // Each of the two sends what the other lacks.
    let half = |host: &knock_lab::Host, steps: &str| xknock_steps(host, lab.server.v4, steps);
    half(&lab.client, "tcp/7000,udp/8000");
    half(&lab.stranger, "tcp/9000");
    let third: IpAddr = lab.client.v6;
    xknock_steps(&lab.client, lab.server.v6, STEPS);
    agent.await_opened(third, SSH);
    assert!(!agent.has_opened_for(lab.client.v4) && !agent.has_opened_for(lab.stranger.v4));
}

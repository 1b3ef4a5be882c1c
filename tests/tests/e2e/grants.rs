//! The life of a grant: opened, extended, ended.

use std::time::{Duration, Instant};

use knock_lab::clients::xknock_steps;
use knock_lab::process::{seconds, slowness};
use knock_lab::services::{Echo, eventually, tcp_open, udp_open};
use knock_lab::{Agent, ConfigText, Lab};

use crate::{SSH, STEPS};

#[test]
fn a_grant_ends_by_itself_and_the_port_is_closed_again() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().open_for(&seconds(2)));
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
    agent.await_closed(lab.client.v4, SSH);
    eventually("the end of the grant", || !tcp_open(&lab.client, lab.server.v4, 22));
}

#[test]
fn a_second_knock_extends_the_grant() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let open_for = Duration::from_secs(4) * slowness();
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().open_for(&seconds(4)));
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    let opened = Instant::now();
    let first_end = opened + open_for;
    // Knock again until it is a good while later, as a user who wants to stay does. What counts is
    // when the last knock began: on a busy machine it may take as long as all others.
    let mut begun = opened;
    while begun < opened + open_for / 2 {
        begun = Instant::now();
        xknock_steps(&lab.client, lab.server.v4, STEPS);
        let again = agent.await_opened(lab.client.v4, SSH);
        assert_eq!(again["extended"], true);
    }
    // To a moment, for which there is no event. One attempt after another would fill the service's
    // queue on a busy machine.
    let past = first_end + Duration::from_millis(200);
    std::thread::sleep(past.saturating_duration_since(Instant::now()));
    assert!(tcp_open(&lab.client, lab.server.v4, 22), "the port is open past the first end");
    agent.await_closed(lab.client.v4, SSH);
    eventually("the end of the grant", || !tcp_open(&lab.client, lab.server.v4, 22));
    let closings = agent.log().matches("\"closed\"").count();
    assert_eq!(closings, 1, "an extended grant ends once");
}

#[test]
fn one_knock_opens_every_service_of_its_door() {
    let lab = Lab::new();
    let _one = Echo::start(&lab.server, 22);
    let _two = Echo::start(&lab.server, 5353);
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().opens(["tcp/22", "udp/5353"]));
    assert!(!udp_open(&lab.client, lab.server.v4, 5353));
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    agent.await_opened(lab.client.v4, "udp/5353");
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
    assert!(udp_open(&lab.client, lab.server.v4, 5353));
    assert!(tcp_open(&lab.client, lab.server.v4, 5353), "only its UDP port is guarded");
    assert!(!udp_open(&lab.stranger, lab.server.v4, 5353));
}

#[test]
fn a_published_container_port_is_guarded_before_its_address_is_rewritten() {
    let lab = Lab::new();
    let container = knock_lab::netns::Netns::new("container");
    lab.server.ip(&format!("link add veth0 type veth peer name eth0 netns {}", container.name()));
    lab.server.ip("address add 172.30.0.1/24 dev veth0");
    lab.server.ip("link set veth0 up");
    container.ip("address add 172.30.0.2/24 dev eth0");
    container.ip("link set eth0 up");
    container.ip("route add default via 172.30.0.1");
    lab.server.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    for rule in [
        "add table ip docker",
        "add chain ip docker pre '{ type nat hook prerouting priority -100; }'",
        "add rule ip docker pre iifname eth0 tcp dport 8022 dnat to 172.30.0.2:22",
    ] {
        lab.server.sh(&format!("nft {rule}"));
    }
    let _ssh = Echo::start(&container, 22);
    assert!(tcp_open(&lab.stranger, lab.server.v4, 8022), "published");
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().opens(["tcp/8022"]));
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 8022));
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, "tcp/8022");
    assert!(tcp_open(&lab.client, lab.server.v4, 8022));
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 8022));
}

#[test]
fn a_knock_after_another_tool_flushed_the_ruleset_closes_the_port_again() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = Agent::start(&lab.server, ConfigText::ssh());
    lab.server.sh("nft flush ruleset");
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
}

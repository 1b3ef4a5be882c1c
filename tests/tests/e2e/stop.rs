//! Ends of the agent.

use knock_lab::clients::xknock_steps;
use knock_lab::services::{Echo, tcp_open};
use knock_lab::{Agent, ConfigText, Lab};
use nix::sys::signal::Signal;

use crate::{SSH, STEPS, assert_no_trace, granted};

#[test]
fn stopping_leaves_the_ports_closed_and_grants_to_end_in_time() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let agent = granted(&lab);
    agent.stop();
    let links = lab.server.ip("-d link show eth0");
    assert!(links.contains("xdp"), "the detector goes on for the next agent: {links}");
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
    let table = lab.server.sh("nft list table inet xknock");
    assert!(table.contains("expires"), "{table}");
}

#[test]
fn a_new_agent_keeps_running_grants() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut first = Agent::start(&lab.server, ConfigText::ssh().open_for("5m"));
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    first.await_opened(lab.client.v4, SSH);
    first.stop();
    let _second = Agent::start(&lab.server, ConfigText::ssh());
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
}

#[test]
fn a_killed_agent_leaves_the_ports_closed() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let agent = Agent::start(&lab.server, ConfigText::ssh());
    agent.process().signal(Signal::SIGKILL);
    drop(agent);
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
    let _next = Agent::start(&lab.server, ConfigText::ssh());
}

#[test]
fn clean_removes_every_trace() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = Agent::start_with(&lab.server, ConfigText::ssh(), &["--clean"]);
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    agent.process().signal(Signal::SIGINT);
    agent.await_message("stopped");
    agent.process_ends();
    assert_no_trace(&lab.server);
    assert!(tcp_open(&lab.stranger, lab.server.v4, 22));
}

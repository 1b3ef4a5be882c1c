//! Settings: observing, always allowed sources, dropped knocks, kernel messages, `ports`.

use knock_lab::agent::xknockd_output;
use knock_lab::clients::xknock_steps;
use knock_lab::services::{Echo, tcp_open, tcp_refuses};
use knock_lab::{Agent, ConfigText, Lab};
use serde_json::Value;

use crate::{SSH, STEPS};

#[test]
fn observing_drops_nothing_but_counts_and_logs() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().observing());
    assert!(tcp_open(&lab.stranger, lab.server.v4, 22));
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    let table = lab.server.sh("nft list table inet xknock");
    let counted = table.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
    assert!(counted.is_some_and(|packets| packets != "0"), "{table}");
    assert!(!table.contains("drop"), "{table}");
}

#[test]
fn the_command_line_overrides_the_mode() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let agent = Agent::start_with(&lab.server, ConfigText::ssh(), &["--observe"]);
    assert!(tcp_open(&lab.stranger, lab.server.v4, 22));
    agent.stop();
    let _agent = Agent::start_with(&lab.server, ConfigText::ssh().observing(), &["--enforce"]);
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
}

#[test]
fn always_allowed_sources_need_no_grant() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let allow = vec![format!("{}/32", lab.client.v4), lab.client.v6.to_string()];
    let _agent = Agent::start(&lab.server, ConfigText::ssh().top("always_allow", allow));
    assert!(tcp_open(&lab.client, lab.server.v4, 22) && tcp_open(&lab.client, lab.server.v6, 22));
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
    assert!(!tcp_open(&lab.stranger, lab.server.v6, 22));
}

#[test]
fn knock_ports_answer_as_any_closed_port_or_not_at_all() {
    let lab = Lab::new();
    let passing = Agent::start(&lab.server, ConfigText::ssh());
    assert!(tcp_refuses(&lab.client, lab.server.v4, 7000));
    passing.stop();
    let _dropping = Agent::start(&lab.server, ConfigText::ssh().top("knocks", "drop"));
    assert!(!tcp_refuses(&lab.client, lab.server.v4, 7000));
    assert!(tcp_refuses(&lab.client, lab.server.v4, 17));
}

#[test]
fn trace_kernel_logs_each_step_and_each_near_miss() {
    let lab = Lab::new();
    let mut agent = Agent::start_with(&lab.server, ConfigText::ssh(), &["--trace-kernel"]);
    xknock_steps(
        &lab.client,
        lab.server.v4,
        "tcp/7000,udp/8000,tcp/9000,tcp/7000,tcp/9000,tcp/7000,tcp/7001",
    );
    let client = lab.client.v4.to_string();
    for outcome in [
        "tcp/7000 first",
        "udp/8000 advanced",
        "tcp/9000 completed",
        "tcp/9000 wrong",
        "tcp/7001 stray",
    ] {
        let record = agent.await_message(outcome);
        assert_eq!(record["target"], "kernel");
        assert!(record["message"].as_str().is_some_and(|text| text.contains(&client)), "{record}");
    }
}

/// Returns firewall, application and reason of one port as `xknockd ports --json` has them.
fn port(lab: &Lab, service: &str, arguments: &[&str]) -> (String, String, String) {
    let output = xknockd_output(&lab.server, &[&["ports", "--json"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ports: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let port = ports.iter().find(|port| port["service"] == service);
    let port = port.unwrap_or_else(|| panic!("no {service} in {ports:?}"));
    let text = |key: &str| port[key].as_str().unwrap_or_default().to_owned();
    (text("firewall"), text("application"), text("reason"))
}

#[test]
fn ports_are_seen_in_all_four_states() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let _web = Echo::start(&lab.server, 80);
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().opens(["tcp/22", "udp/5000"]));
    let state = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(port(&lab, SSH, &[]), state("closed", "listening", "guarded"));
    assert_eq!(port(&lab, "udp/5000", &[]), state("closed", "none", "guarded"));
    assert_eq!(port(&lab, "tcp/80", &[]), state("open", "listening", "unguarded"));
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, "udp/5000");
    let client = lab.client.v4.to_string();
    let from = ["--from", client.as_str()];
    assert_eq!(port(&lab, SSH, &from), state("open", "listening", "granted"));
    assert_eq!(port(&lab, "udp/5000", &from), state("open", "none", "granted"));
    assert_eq!(
        port(&lab, SSH, &["--from", &lab.stranger.v4.to_string()]),
        state("closed", "listening", "guarded")
    );
    let table = xknockd_output(&lab.server, &["ports"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("tcp/22") && table.contains("guarded, no grant"), "{table}");
}

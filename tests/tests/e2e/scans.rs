//! Port scans, which open nothing.

use knock_lab::clients::xknock_steps;
use knock_lab::services::{Echo, tcp_open};
use knock_lab::{Agent, ConfigText, Lab};

use crate::{SSH, STEPS};

/// Runs `scan` of the server on the stranger, then shows with an honest knock that nothing opened.
fn opens_nothing(config: &ConfigText, steps: &str, scan: &str) {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = Agent::start(&lab.server, config);
    let scan = scan.replace("SERVER", &lab.server.v4.to_string());
    let output = lab.stranger.shell(&scan);
    assert!(output.status.success(), "{scan}: {}", String::from_utf8_lossy(&output.stderr));
    xknock_steps(&lab.client, lab.server.v4, steps);
    agent.await_opened(lab.client.v4, SSH);
    assert!(!agent.has_opened_for(lab.stranger.v4), "{}", agent.log());
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
    let counters = agent.stop();
    assert!(counters.get("forgotten") > 0, "the scan lost progress: {counters:?}");
}

/// Returns a config with ascending steps over one protocol, which a naive matcher opens to a scan,
/// and the steps.
fn ascending(protocol: &str) -> (ConfigText, String) {
    let steps = [7000, 7400, 7900].map(|port| format!("{protocol}/{port}")).join(",");
    (ConfigText::ssh().within("5m").sequence(&steps), steps)
}

#[test]
fn nmap_in_ascending_order_over_tcp() {
    let (config, steps) = ascending("tcp");
    opens_nothing(&config, &steps, "nmap -Pn -n -r -T5 --max-retries 0 -p6900-8000 SERVER");
}

#[test]
fn nmap_in_its_own_order_over_tcp() {
    let (config, steps) = ascending("tcp");
    // The order is drawn. Where the first step comes last, hardly a decoy follows: one scan in forty
    // loses no progress.
    let scan = "for n in 1 2 3; do nmap -Pn -n -T5 --max-retries 0 -p6900-8000 SERVER; done";
    opens_nothing(&config, &steps, scan);
}

#[test]
fn nmap_in_ascending_order_over_udp() {
    let (config, steps) = ascending("udp");
    let scan = "nmap -Pn -n -r -sU -T5 --max-retries 0 --min-rate 2000 -p6900-8000 SERVER";
    opens_nothing(&config, &steps, scan);
}

#[test]
fn nmap_over_all_ports_of_both_protocols() {
    const ALL: &str = "-Pn -n -r -T5 --max-retries 0 --min-rate 20000 -p- SERVER";
    for (protocol, kind) in [("tcp", "-sS"), ("udp", "-sU")] {
        let (config, steps) = ascending(protocol);
        opens_nothing(&config, &steps, &format!("nmap {kind} {ALL}"));
    }
}

#[test]
fn hping_in_ascending_order_over_tcp() {
    let (config, steps) = ascending("tcp");
    let scan = "hping3 -q -S -i u500 -c 1200 -p ++6900 SERVER >/dev/null 2>&1; true";
    opens_nothing(&config, &steps, scan);
}

#[test]
fn a_stranger_who_spoofs_the_client_opens_nothing_for_himself() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = Agent::start(&lab.server, ConfigText::ssh());
    xknock_steps(&lab.client, lab.server.v4, "tcp/7000,udp/8000");
    let (client, server) = (lab.client.v4, lab.server.v4);
    let output = lab.stranger.shell(&format!("hping3 -c 1 -S -p 9000 -a {client} {server}; true"));
    assert!(output.status.success());
    // The stranger has completed the client's knock, so the client's address has the grant.
    agent.await_opened(lab.client.v4, SSH);
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
    assert!(!agent.has_opened_for(lab.stranger.v4));
}

#[test]
fn a_stranger_can_spoil_a_knock_but_not_for_long() {
    let lab = Lab::new();
    let mut agent = Agent::start(&lab.server, ConfigText::ssh());
    xknock_steps(&lab.client, lab.server.v4, "tcp/7000,udp/8000");
    let spoof = format!("-a {} {}", lab.client.v4, lab.server.v4);
    lab.stranger.shell(&format!(
        "hping3 -c 1 -2 -p 8000 {spoof}; \
         for p in 6999 7001 7002; do hping3 -c 1 -S -p $p {spoof}; done"
    ));
    xknock_steps(&lab.client, lab.server.v4, "tcp/9000");
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    assert_eq!(agent.stop().get("completed"), 1);
}

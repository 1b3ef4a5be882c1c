//! Reloads of the config while packets come.

use knock_lab::clients::xknock_steps;
use knock_lab::services::{Echo, tcp_open};
use knock_lab::{Agent, ConfigText, Lab};
use nix::sys::signal::Signal;

use crate::{NO_TIME, SSH, STEPS, refused, verb};

/// Adds a door that begins with the steps of `ssh`.
fn with_web(text: ConfigText) -> ConfigText {
    text.door("web", ["tcp/80"]).sequence("tcp/7000,udp/8000,udp/3000")
}

#[test]
fn a_knock_half_way_does_not_notice_a_reload() {
    let lab = Lab::new();
    // The changes are made in place, by a program with other settings, and by a trie that needs
    // another map.
    let text = ConfigText::ssh().within("1m");
    let many = (0..1200).fold(text.clone(), |text, n| {
        let steps = format!("udp/{},tcp/5000,udp/{}", 10_000 + n, 20_000 + n);
        text.door(&format!("d{n}"), ["tcp/80"]).sequence(&steps)
    });
    let changes =
        [with_web(text.clone()), text.clone().top("strays", 5).top("knocks", "drop"), many];
    for changed in changes {
        let mut agent = Agent::start(&lab.server, &text);
        xknock_steps(&lab.client, lab.server.v4, "tcp/7000,udp/8000");
        agent.rewrite_config(changed);
        verb(&lab.server, &["reload"]);
        xknock_steps(&lab.client, lab.server.v4, "tcp/9000");
        agent.await_opened(lab.client.v4, SSH);
        verb(&lab.server, &["off"]);
        agent.process_ends();
    }
}

#[test]
fn a_new_door_opens_after_a_hang_up_and_a_removed_one_closes_at_once() {
    let lab = Lab::new();
    let (_ssh, _web) = (Echo::start(&lab.server, 22), Echo::start(&lab.server, 80));
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().open_for("10m"));
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    assert!(tcp_open(&lab.stranger, lab.server.v4, 80), "not guarded yet");
    agent.rewrite_config(with_web(ConfigText::ssh().open_for("10m")));
    agent.process().signal(Signal::SIGHUP);
    agent.await_message("reloaded");
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 80));
    assert!(tcp_open(&lab.client, lab.server.v4, 22), "grants of doors that stay, stay");
    xknock_steps(&lab.client, lab.server.v4, "tcp/7000,udp/8000,udp/3000");
    agent.await_opened(lab.client.v4, "tcp/80");

    agent.rewrite_config(with_web(ConfigText::new()));
    assert!(verb(&lab.server, &["reload"]).contains("1 grants ended"));
    agent.await_closed(lab.client.v4, SSH);
    assert!(tcp_open(&lab.client, lab.server.v4, 80));
    let table = lab.server.sh("nft -n list set inet xknock open4");
    assert_eq!(table.matches("expires").count(), 1, "{table}");
    assert!(tcp_open(&lab.stranger, lab.server.v4, 22), "guarded no more");
}

#[test]
fn a_wrong_config_is_shown_and_the_old_policy_stays() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = Agent::start(&lab.server, ConfigText::ssh());
    agent.rewrite_config(NO_TIME);
    let said = refused(&lab.server, &["reload"]);
    assert!(said.contains("xknockd.toml:8:12") && said.contains("no time at all"), "{said}");
    agent.process().signal(Signal::SIGHUP);
    agent.await_message("the old policy stays");
    // A door that a scan would open is found when it is compiled.
    agent.rewrite_config(ConfigText::ssh().sequence("tcp/7000,tcp/7001,tcp/7002"));
    assert!(refused(&lab.server, &["reload"]).contains("ascending"));
    agent.rewrite_config("");
    assert!(refused(&lab.server, &["reload"]).contains("there is no door"));
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
}

#[test]
fn mode_interfaces_and_sizes_change_without_a_restart() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let other = knock_lab::netns::Netns::new("other");
    lab.server.ip(&format!("link add lan0 type veth peer name eth0 netns {}", other.name()));
    let text = ConfigText::ssh().open_for("10m");
    let mut agent = Agent::start(&lab.server, text.clone().observing());
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    assert!(tcp_open(&lab.stranger, lab.server.v4, 22));
    let text = text.top("max_sources", 4096).top("max_grants", 7);
    agent.rewrite_config(text.interfaces(["eth0", "lan*"]));
    verb(&lab.server, &["reload"]);
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 22));
    assert!(tcp_open(&lab.client, lab.server.v4, 22));
    let status: serde_json::Value =
        serde_json::from_str(&verb(&lab.server, &["status", "--json"])).expect("JSON");
    assert_eq!(status["mode"], "enforce");
    let names: Vec<_> =
        status["interfaces"].as_array().expect("a list").iter().map(|i| &i["name"]).collect();
    assert_eq!(names, ["eth0", "lan0"]);
    // The new program counts where the old one ended, and its events are heard.
    xknock_steps(&lab.stranger, lab.server.v4, STEPS);
    agent.await_opened(lab.stranger.v4, SSH);
    assert_eq!(agent.stop().get("completed"), 2);
}

//! Another config, while packets come.

use knock_lab::clients::xknock_steps;
use knock_lab::services::{Echo, tcp_open};
use knock_lab::{Agent, Lab};
use nix::sys::signal::Signal;

use crate::{SSH, STEPS, config, refused, verb};

const WEB: &str = "[[door]]\nname = \"web\"\nopens = [\"tcp/80\"]\n\
                   sequence = [\"tcp/7000\", \"udp/8000\", \"udp/3000\"]\n";

#[test]
fn a_knock_half_way_does_not_notice_a_reload() {
    let lab = Lab::new();
    // In place; with a program of other settings; with a trie that needs another map.
    let many: String = (0..1200u32)
        .map(|n| {
            format!(
                "[[door]]\nname = \"d{n}\"\nopens = [\"tcp/80\"]\nsequence = [\"udp/{}\", \"tcp/5000\", \"udp/{}\"]\n",
                10_000 + n,
                20_000 + n
            )
        })
        .collect();
    let text = config("", "within = \"1m\"");
    let changes = [
        (String::new(), WEB),
        ("strays = 5\nknocks = \"drop\"".to_owned(), ""),
        (String::new(), &many),
    ];
    for (top, doors) in changes {
        let mut agent = Agent::start(&lab.server, &text);
        xknock_steps(&lab.client, lab.server.v4, "tcp/7000,udp/8000");
        agent.rewrite_config(&format!("{}{doors}", config(&top, "within = \"1m\"")));
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
    let mut agent = Agent::start(&lab.server, &config("", "open_for = \"10m\""));
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    assert!(tcp_open(&lab.stranger, lab.server.v4, 80), "not guarded yet");
    agent.rewrite_config(&format!("{}{WEB}", config("", "open_for = \"10m\"")));
    agent.process().signal(Signal::SIGHUP);
    agent.await_message("reloaded");
    assert!(!tcp_open(&lab.stranger, lab.server.v4, 80));
    assert!(tcp_open(&lab.client, lab.server.v4, 22), "grants of doors that stay, stay");
    xknock_steps(&lab.client, lab.server.v4, "tcp/7000,udp/8000,udp/3000");
    agent.await_opened(lab.client.v4, "tcp/80");

    let only_web = format!("interfaces = [\"eth0\"]\nmode = \"enforce\"\n{WEB}");
    agent.rewrite_config(&only_web);
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
    let mut agent = Agent::start(&lab.server, &config("", ""));
    agent.rewrite_config(&config("", "open_for = \"0s\""));
    let said = refused(&lab.server, &["reload"]);
    assert!(said.contains("xknockd.toml:8:12") && said.contains("no time at all"), "{said}");
    agent.process().signal(Signal::SIGHUP);
    agent.await_message("the old policy stays");
    // A door that a scan would open is found when it is compiled.
    agent.rewrite_config(&config("", "").replace("udp/8000", "tcp/7001").replace("9000", "7002"));
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
    let observing = config("", "open_for = \"10m\"").replace("enforce", "observe");
    let mut agent = Agent::start(&lab.server, &observing);
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    assert!(tcp_open(&lab.stranger, lab.server.v4, 22));
    let text = config("max_sources = 4096\nmax_grants = 7", "open_for = \"10m\"");
    agent.rewrite_config(&text.replace("[\"eth0\"]", "[\"eth0\", \"lan*\"]"));
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

//! Running connections when their grant ends, with and without connection tracking.

use knock_lab::clients::xknock_steps;
use knock_lab::process::{Process, seconds};
use knock_lab::services::{Echo, connect, echoes, eventually, tcp_open};
use knock_lab::{Agent, ConfigText, Lab};

use crate::{SSH, STEPS};

/// Opens the door, connects, and lets the grant end. Returns whether the connection still works.
fn connection_outlives_its_grant(connections: &str, cut: bool) -> bool {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let text = ConfigText::ssh().top("connections", connections);
    let text = text.open_for(&seconds(2)).in_door("cut", cut);
    let mut agent = Agent::start(&lab.server, text);
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    let mut connection = connect(&lab.client, lab.server.v4, 22).expect("the port is open");
    assert!(echoes(&mut connection));
    agent.await_closed(lab.client.v4, SSH);
    // The kernel's jiffies are late where processors wait for a turn.
    eventually("the end of the grant", || !tcp_open(&lab.client, lab.server.v4, 22));
    echoes(&mut connection)
}

#[test]
fn a_stateless_connection_outlives_its_grant() {
    assert!(connection_outlives_its_grant("stateless", false));
}

#[test]
fn a_tracked_connection_outlives_its_grant() {
    assert!(connection_outlives_its_grant("conntrack", false));
}

#[test]
fn a_cut_ends_a_stateless_connection_with_its_grant() {
    assert!(!connection_outlives_its_grant("stateless", true));
}

#[test]
fn a_cut_ends_a_tracked_connection_with_its_grant() {
    assert!(!connection_outlives_its_grant("conntrack", true));
}

/// Returns the number of connections that the namespace tracks.
fn tracked(lab: &Lab) -> u32 {
    let count = lab.server.shell("cat /proc/sys/net/netfilter/nf_conntrack_count");
    String::from_utf8_lossy(&count.stdout).trim().parse().unwrap_or(0)
}

#[test]
fn conntrack_is_used_only_where_it_is_already_in_use() {
    for in_use in [false, true] {
        let lab = Lab::new();
        let _ssh = Echo::start(&lab.server, 22);
        if in_use {
            for rule in [
                "add table ip other",
                "add chain ip other c '{ type filter hook input priority 0; }'",
                "add rule ip other c ct state invalid drop",
            ] {
                lab.server.sh(&format!("nft {rule}"));
            }
        }
        let mut agent = Agent::start(&lab.server, ConfigText::ssh().top("connections", "auto"));
        xknock_steps(&lab.client, lab.server.v4, STEPS);
        agent.await_opened(lab.client.v4, SSH);
        let _connection = connect(&lab.client, lab.server.v4, 22).expect("open");
        assert_eq!(tracked(&lab) > 0, in_use);
        let rules = lab.server.sh("nft list table inet xknock");
        assert_eq!(rules.contains("ct state"), in_use, "{rules}");
    }
}

/// Returns whether the server answers a SYN in fragments of 8 bytes, the first of which holds the
/// ports but not the flags.
fn fragmented_syn_is_answered(lab: &Lab) -> bool {
    let (server, stranger) = (lab.server.v4, lab.stranger.v4);
    let filter = format!("host {stranger} and (src port 22 or icmp[icmptype] = icmp-echoreply)");
    // Both streams in one, so that one reader sees "listening" and the packets.
    let mut shell = lab.server.command("sh");
    shell.args(["-c", &format!("exec tcpdump -lnni eth0 '{filter}' 1>&2")]);
    let mut capture = Process::start(&mut shell);
    capture.await_line("tcpdump", |line| line.contains("listening on").then_some(()));
    let script = format!(
        "from scapy.all import *; conf.verb = 0; \
         syn = IP(src='{stranger}', dst='{server}', id=77) \
         / TCP(sport=4444, dport=22, flags='S', options=[('MSS', 1460)]); \
         [send(part) for part in fragment(syn, 8)]"
    );
    // Debian's own interpreter, for which its package of scapy is.
    let mut python = lab.stranger.command("/usr/bin/python3");
    let sent = python.args(["-c", &script]).output().expect("python3 runs");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    // An answer to the SYN comes before the answer to this.
    lab.stranger.sh(&format!("ping -c1 -W5 {server}"));
    let mut answered = false;
    capture.await_line("an echo reply", |line| {
        answered |= line.contains("Flags [S.]");
        line.contains("echo reply").then_some(())
    });
    answered
}

#[test]
fn tiny_fragments_do_not_slip_through() {
    for (mode, passes) in [("observe", true), ("enforce", false)] {
        let lab = Lab::new();
        let _ssh = Echo::start(&lab.server, 22);
        let text = ConfigText::ssh().top("connections", "stateless").top("mode", mode);
        let _agent = Agent::start(&lab.server, text);
        assert_eq!(fragmented_syn_is_answered(&lab), passes, "{mode}");
    }
}

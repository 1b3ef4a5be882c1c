//! Jumbo frames, from before the agent starts or while it runs.

use knock_lab::clients::xknock_steps;
use knock_lab::process::seconds;
use knock_lab::services::{Echo, connect, echoes, eventually, tcp_open};
use knock_lab::{Agent, ConfigText, Lab};

use crate::{SSH, STEPS};

/// Sets the MTU of the server, the client, and all of the switch between them.
fn set_mtu(lab: &Lab, mtu: u32) {
    let switch = lab.switch();
    for port in ["port1", "port2", "br0"] {
        switch.ip(&format!("link set {port} mtu {mtu}"));
    }
    for host in [&lab.server, &lab.client] {
        host.ip(&format!("link set eth0 mtu {mtu}"));
    }
}

/// Returns the mode of the program, as `ip link` shows it.
fn mode(lab: &Lab) -> &'static str {
    let text = lab.server.ip("-json link show dev eth0");
    let link: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    // IFLA_XDP_ATTACHED of linux/if_link.h.
    match link[0]["xdp"]["mode"].as_u64() {
        Some(1) => "native",
        Some(2) => "generic",
        _ => "none",
    }
}

/// Knocks, with a datagram of `length` bytes as the second step.
fn knock_with(lab: &Lab, agent: &mut Agent, length: usize) {
    xknock_steps(&lab.client, lab.server.v4, "tcp/7000");
    let to = (lab.server.v4, 8000);
    lab.client.run(move || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        assert_eq!(socket.send_to(&vec![7; length], to).expect("it is sent"), length);
    });
    xknock_steps(&lab.client, lab.server.v4, "tcp/9000");
    agent.await_opened(lab.client.v4, SSH);
}

/// The payload of an IPv4 datagram in a frame of 9,000 bytes.
const JUMBO: usize = 9000 - 20 - 8;

#[test]
fn native_mode_takes_a_large_mtu_and_a_jumbo_frame_is_a_step() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    set_mtu(&lab, 9000);
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().top("attach", "native"));
    assert_eq!(mode(&lab), "native");
    knock_with(&lab, &mut agent, JUMBO);
    let mut connection = connect(&lab.client, lab.server.v4, 22).expect("the port is open");
    assert!(echoes(&mut connection));
    assert_eq!(agent.stop().get("fragment"), 0, "it came in one frame");
}

#[test]
fn generic_mode_takes_a_large_mtu_and_a_jumbo_frame_is_a_step() {
    let lab = Lab::new();
    set_mtu(&lab, 9000);
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().top("attach", "generic"));
    assert_eq!(mode(&lab), "generic");
    knock_with(&lab, &mut agent, JUMBO);
}

#[test]
fn the_mtu_may_change_while_the_detector_runs() {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().open_for(&seconds(1)));
    for (mtu, length) in [(1500, 1), (9000, JUMBO), (1280, 1), (1500, 1000)] {
        set_mtu(&lab, mtu);
        assert_eq!(mode(&lab), "native", "at {mtu}");
        knock_with(&lab, &mut agent, length);
        agent.await_closed(lab.client.v4, SSH);
        let guarded = format!("a guarded port at {mtu}");
        eventually(&guarded, || !tcp_open(&lab.client, lab.server.v4, 22));
    }
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
}

//! Packets that are made to mislead, on the wire: they open nothing, and without a grant they get
//! no answer from a guarded service. From a source with a grant they are let through.

use std::net::{IpAddr, UdpSocket};

use knock_common::sequence::{Protocol, Step};
use knock_lab::clients::xknock_steps;
use knock_lab::packet::{
    fragment, in_two, patched, tagged, with_extensions, with_flags, with_options,
};
use knock_lab::process::patience;
use knock_lab::services::Echo;
use knock_lab::{Agent, ConfigText, Host, Lab, Packet, wire};

use crate::{SSH, STEPS};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const XMAS: u8 = 0x29;

const TCP_22: Step = Step::new(Protocol::Tcp, 22);
const UDP_22: Step = Step::new(Protocol::Udp, 22);
/// A step to a port that no door guards. When its packet arrives, those before have been handled.
const MARKER: Step = Step::new(Protocol::Udp, 9);

/// Packets for a guarded port.
struct Row {
    what: &'static str,
    frames: Vec<Vec<u8>>,
    /// The number of them that a stateless guard refuses without a grant, or `None` where kernels
    /// differ.
    refused: Option<u64>,
    /// Whether they reach the service with a grant.
    served: bool,
    /// Whether they reach the service with a grant where connections are tracked.
    tracked: bool,
}

fn row(what: &'static str, frames: impl Into<Vec<Vec<u8>>>, refused: u64, served: bool) -> Row {
    Row { what, frames: frames.into(), refused: Some(refused), served, tracked: served }
}

/// A whole SYN as the payload of a later fragment. Rules are meant to read no port there, but
/// that of Linux 6.18 does, which costs such a fragment and helps no attacker.
fn later_fragment(frame: &[u8]) -> Row {
    Row { refused: None, ..row("a whole SYN in a last fragment", [fragment(frame, 1)], 0, false) }
}

/// Two destination headers, of which the first fragment has but one: a host puts the two
/// together, port and all, behind a guard that has seen no port. With connection tracking
/// they are put together before it.
fn headless(frame: &[u8]) -> Row {
    let frames = in_two(&with_extensions(frame, &[DESTINATION; 2]), 8);
    Row { tracked: true, ..row("IPv6 fragments, no TCP at all in the first", frames, 1, false) }
}

/// Returns all rows: packets of `from` to the guarded port of `to`.
fn rows(to: &Host, from: &Host) -> Vec<Row> {
    let tcp = Packet::to(to, from.v4).knock(TCP_22);
    let tcp6 = Packet::to(to, from.v6).knock(TCP_22);
    let udp = Packet::to(to, from.v4).knock(UDP_22);
    let flags = |flags| [with_flags(&tcp, flags)];
    let from_address = |source: IpAddr| [Packet::to(to, source).knock(TCP_22)];
    let spoofed = |source: &str| from_address(source.parse().expect("an address"));
    let priority_tag = [&tcp[..12], &[0x81, 0, 0, 0], &tcp[12..]].concat();
    let mut broken_checksum = tcp.clone();
    broken_checksum[24] ^= 1;
    vec![
        row("a SYN over IPv4", [tcp.clone()], 1, true),
        row("a SYN over IPv6", [tcp6.clone()], 1, true),
        row("SYN with PSH and URG", flags(SYN | 0x28), 1, true),
        row("SYN+FIN", flags(SYN | FIN), 1, false),
        row("SYN+RST", flags(SYN | RST), 1, false),
        row("SYN in an xmas tree", flags(SYN | XMAS), 1, false),
        row("SYN+FIN over IPv6", [with_flags(&tcp6, SYN | FIN)], 1, false),
        // These could be of a running connection, which needs no grant.
        row("SYN+ACK", flags(SYN | ACK), 0, false),
        row("ACK", flags(ACK), 0, false),
        row("null", flags(0), 0, false),
        row("xmas", flags(XMAS), 0, false),
        row("four bytes of IPv4 options", [with_options(&tcp, &[1; 4])], 1, true),
        row("forty bytes of IPv4 options", [with_options(&tcp, &[1; 40])], 1, true),
        // RFC 791, loose source and record route by way of one router. The host takes no such
        // packet.
        row("a source route", [with_options(&tcp, &[0x83, 7, 4, 10, 77, 0, 9, 1])], 1, false),
        row("IHL of 4", [patched(&tcp, 0, &[0x44])], 0, false),
        row("total length without TCP", [patched(&tcp, 2, &[0, 20])], 0, false),
        row("total length beyond the frame", [patched(&tcp, 2, &[5, 0])], 0, false),
        row("a wrong header checksum", [broken_checksum], 0, false),
        row("a priority tag", [priority_tag], 1, true),
        row("a tag", [tagged(&tcp, &[0x8100])], 0, false),
        row("a whole SYN in a first fragment", [fragment(&tcp, 0x2000)], 1, false),
        later_fragment(&tcp),
        row("a SYN in two fragments, no flags in the first", in_two(&tcp, 8), 1, true),
        row("a SYN in two fragments, flags in the first", in_two(&tcp, 16), 1, true),
        row("a datagram in two fragments", in_two(&[&udp[..], &[0; 8]].concat(), 8), 1, false),
        row("an atomic IPv6 fragment", [fragment(&tcp6, 0)], 1, true),
        row("a whole SYN in a first IPv6 fragment", [fragment(&tcp6, 1)], 1, false),
        row("a whole SYN in a last IPv6 fragment", [fragment(&tcp6, 1 << 3)], 0, false),
        // Since RFC 7112 a first fragment holds all headers, or the host takes none of it.
        row("IPv6 fragments, no flags in the first", in_two(&tcp6, 8), 1, false),
        headless(&tcp6),
        row("a destination header", [with_extensions(&tcp6, &[DESTINATION])], 1, true),
        row("eight destination headers", [with_extensions(&tcp6, &[DESTINATION; 8])], 1, true),
        row("hop-by-hop", [with_extensions(&tcp6, &[HOP_BY_HOP])], 1, true),
        row("a routing header", [with_extensions(&tcp6, &[ROUTING])], 1, false),
        row("IPv6 payload length of 0", [patched(&tcp6, 4, &[0, 0])], 0, false),
        row("the server's own address", from_address(to.v4), 1, false),
        row("the server's own IPv6 address", from_address(to.v6), 1, false),
        row("0.0.0.0", spoofed("0.0.0.0"), 1, false),
        row("127.0.0.1", spoofed("127.0.0.1"), 1, false),
        row("a multicast source", spoofed("224.0.0.1"), 1, false),
        row("::1", spoofed("::1"), 0, false),
        row("a multicast IPv6 source", spoofed("ff02::1"), 0, false),
    ]
}

/// Counts the answers of the service.
fn install_probe(server: &Host) {
    server.sh("nft -f - <<'END'\n\
         table inet probe {\n\
           counter served { }\n\
           chain out { type filter hook output priority 0; \
             tcp sport 22 tcp flags & (syn | ack) == syn | ack counter name served; }\n\
         }\nEND");
}

fn counter(host: &Host, table: &str, name: &str) -> u64 {
    let text = host.sh(&format!("nft --json list counter inet {table} {name}"));
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let objects = json["nftables"].as_array().expect("a list");
    let found = objects.iter().find_map(|object| object["counter"]["packets"].as_u64());
    found.expect("the counter")
}

/// Receives the markers of a whole test. One socket for all: a program that another test starts holds
/// a copy of it for a moment, and the port is taken until that is gone.
fn markers(lab: &Lab) -> UdpSocket {
    let socket = lab.server.run(|| UdpSocket::bind(("0.0.0.0", MARKER.port)).expect("a socket"));
    socket.set_read_timeout(Some(patience())).expect("a socket option");
    socket
}

/// Sends the frames and waits until all were handled. Returns how many of them the guard refused,
/// and how often the service answered.
fn send(lab: &Lab, markers: &UdpSocket, frames: Vec<Vec<u8>>) -> (u64, u64) {
    let count = |table, name| counter(&lab.server, table, name);
    let before = [count("xknock", "refused"), count("probe", "served")];
    let marker = Packet::to(&lab.server, lab.stranger.v4).knock(MARKER);
    wire::send_to_server(lab, [frames, vec![marker]].concat());
    markers.recv(&mut [0]).expect("the marker comes");
    (count("xknock", "refused") - before[0], count("probe", "served") - before[1])
}

/// Sends each row without a grant, and then with one.
fn nothing_is_served_without_a_grant(connections: &str) {
    let lab = Lab::new();
    let _ssh = Echo::start(&lab.server, 22);
    install_probe(&lab.server);
    let text = ConfigText::ssh().opens(["tcp/22", "udp/22"]).open_for("10m");
    let mut agent = Agent::start(&lab.server, text.top("connections", connections));
    let markers = markers(&lab);
    for Row { what, frames, refused, .. } in rows(&lab.server, &lab.stranger) {
        let (found, served) = send(&lab, &markers, frames);
        assert_eq!(served, 0, "{what}, without a grant, {connections}");
        // Connection tracking puts fragments together first and lets no odd packet be one of
        // a connection, so other packets are refused.
        if let ("stateless", Some(refused)) = (connections, refused) {
            assert_eq!(found, refused, "{what}: refused without a grant");
        }
    }
    for address in [lab.server.v4, lab.server.v6] {
        xknock_steps(&lab.stranger, address, STEPS);
    }
    agent.await_opened(lab.stranger.v4, SSH);
    agent.await_opened(lab.stranger.v6, SSH);
    for Row { what, frames, served, tracked, .. } in rows(&lab.server, &lab.stranger) {
        let (_, found) = send(&lab, &markers, frames);
        let served = if connections == "stateless" { served } else { tracked };
        assert_eq!(found > 0, served, "{what}, with a grant, {connections}");
    }
}

#[test]
fn nothing_misshapen_gets_an_answer_through_a_stateless_guard() {
    nothing_is_served_without_a_grant("stateless");
}

#[test]
fn nothing_misshapen_gets_an_answer_through_a_tracking_guard() {
    nothing_is_served_without_a_grant("conntrack");
}

const SEQUENCE: [Step; 3] = [
    Step::new(Protocol::Tcp, 7000),
    Step::new(Protocol::Udp, 8000),
    Step::new(Protocol::Tcp, 9000),
];

/// A change after which a frame is not a knock.
type Spoil = fn(&[u8]) -> Vec<u8>;

/// A whole sequence in which every packet is spoiled (the UDP one too, where flags are not
/// what is wrong), from a source of its own.
const SPOILED: [(&str, &str, Spoil); 16] = [
    ("10.77.0.100", "fragment", |frame| fragment(frame, 0x2000)),
    ("10.77.0.101", "fragment", |frame| fragment(frame, 0x2001)),
    ("10.77.0.102", "fragment", |frame| fragment(frame, 1)),
    ("10.77.0.103", "bad_header", |frame| patched(frame, 0, &[0x44])),
    ("10.77.0.104", "bad_header", |frame| patched(frame, 2, &[0, 20])),
    ("10.77.0.105", "bad_checksum", |frame| [&frame[..24], &[1, 2], &frame[26..]].concat()),
    ("10.77.0.106", "too_many_tags", |frame| tagged(frame, &[0x8100; 3])),
    ("10.77.0.107", "truncated", |frame| frame[..41].to_vec()),
    ("10.77.0.1", "bad_source", <[u8]>::to_vec),
    ("0.0.0.0", "bad_source", <[u8]>::to_vec),
    ("224.0.0.1", "bad_source", <[u8]>::to_vec),
    ("fd77::100", "fragment", |frame| fragment(frame, 1)),
    ("fd77::101", "fragment", |frame| fragment(frame, 0)),
    ("fd77::102", "too_many_extensions", |frame| with_extensions(frame, &[DESTINATION; 7])),
    ("fd77::103", "bad_header", |frame| patched(frame, 4, &[0, 0])),
    ("ff02::1", "bad_source", <[u8]>::to_vec),
];

#[test]
fn spoiled_packets_open_nothing_and_link_local_sources_can_knock() {
    let lab = Lab::new();
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().open_for("10m"));
    let frame = |source: &str, step| Packet::to(&lab.server, source.parse().unwrap()).knock(step);
    for (source, _, spoil) in SPOILED {
        let frames = SEQUENCE.map(|step| spoil(&frame(source, step)));
        wire::send_to_server(&lab, frames.to_vec());
    }
    // Of TCP with other flags only the datagram between the two is a step, the second one.
    for (source, flags) in [
        ("10.77.0.110", SYN | FIN),
        ("10.77.0.111", SYN | ACK),
        ("10.77.0.112", 0),
        ("fd77::113", XMAS),
    ] {
        let frames = SEQUENCE.map(|step| match step.protocol {
            Protocol::Tcp => with_flags(&frame(source, step), flags),
            Protocol::Udp => frame(source, step),
        });
        wire::send_to_server(&lab, frames.to_vec());
    }
    let honest = ["169.254.1.1", "fe80::77", "10.77.0.120", "fd77::120"];
    for source in honest {
        wire::send_to_server(&lab, SEQUENCE.map(|step| frame(source, step)).to_vec());
        agent.await_opened(source.parse().unwrap(), SSH);
    }
    let table = lab.server.sh("nft --numeric list table inet xknock");
    assert_eq!(table.matches("expires").count(), honest.len(), "{table}");
    let counters = agent.stop();
    for (name, least) in
        [("fragment", 15), ("bad_source", 12), ("not_an_opening", 8), ("unexpected", 4)]
    {
        assert!(counters.get(name) >= least, "{name}: {counters:?}");
    }
    for (_, name, _) in SPOILED {
        assert!(counters.get(name) >= 3, "{name}: {counters:?}");
    }
    assert_eq!(counters.get("completed"), honest.len() as u64, "{counters:?}");
}

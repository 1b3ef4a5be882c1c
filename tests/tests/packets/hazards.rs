//! A table of packets that are made to mislead a parser, each with the counter in which it ends in
//! the kernel. The host reads each the same way.

use std::net::IpAddr;

use knock_common::packet::parse;
use knock_common::sequence::{Protocol, Step};

use crate::{A, B, C, DetectorRig, PASS, knock};
use knock_lab::packet::{fragment, patched, tagged, with_extensions, with_flags, with_options};

/// A first step, as `A` is.
const D: Step = Step::new(Protocol::Udp, 4000);

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Offsets in an IPv4 header.
const TOTAL_LENGTH: usize = 2;
const SOURCE: usize = 12;
/// Offsets in an IPv6 header.
const PAYLOAD_LENGTH: usize = 4;
const SOURCE_V6: usize = 8;

/// The description of a packet, its bytes, and the counter in which it ends.
type Row = (String, Vec<u8>, &'static str);

fn v4() -> IpAddr {
    "198.51.100.7".parse().unwrap()
}

fn v6() -> IpAddr {
    "2001:db8::7".parse().unwrap()
}

/// Runs every row through the program, and asks the parser on the host as well.
fn check(rows: Vec<Row>) {
    let mut bench = DetectorRig::new(&[&[A, B, C], &[D, C, B]]);
    assert!(!rows.is_empty());
    for (what, frame, expected) in rows {
        let (verdict, end) = bench.send(&frame);
        assert_eq!((end.name(), verdict), (expected, PASS), "{what}");
        let on_host = parse(frame.as_slice()).and_then(|candidate| candidate.source(&frame[..]));
        match on_host {
            Err(refusal) => assert_eq!(refusal.name(), expected, "{what}, on the host"),
            Ok(_) => assert_eq!("first", expected, "{what}, on the host"),
        }
    }
}

fn row(what: impl Into<String>, frame: Vec<u8>, end: &'static str) -> Row {
    (what.into(), frame, end)
}

#[test]
fn every_header_cut_anywhere_is_truncated() {
    let mut rows = Vec::new();
    let extended = |kind| with_extensions(&knock(v6(), A), &[kind]);
    for (what, whole) in [
        ("IPv4, TCP", knock(v4(), A)),
        ("IPv4, UDP", knock(v4(), D)),
        ("IPv6, TCP", knock(v6(), A)),
        ("IPv6, UDP", knock(v6(), D)),
        ("one tag", tagged(&knock(v4(), A), &[0x8100])),
        ("two tags", tagged(&knock(v6(), D), &[0x88a8, 0x8100])),
        ("40 bytes of IPv4 options", with_options(&knock(v4(), A), &[1; 40])),
        ("hop-by-hop header", extended(HOP_BY_HOP)),
        ("routing header", extended(ROUTING)),
        ("destination header", extended(DESTINATION)),
        ("authentication header", extended(AUTHENTICATION)),
        ("chain of six", with_extensions(&knock(v6(), D), &[DESTINATION; 6])),
    ] {
        // The kernel takes no frame of less than an Ethernet header.
        for length in 14..whole.len() {
            let what = format!("{what}: {length} of {} bytes", whole.len());
            rows.push(row(what, whole[..length].to_vec(), "truncated"));
        }
        rows.push(row(format!("{what}: whole"), whole, "first"));
    }
    check(rows);
}

#[test]
fn the_ipv4_header_is_as_long_as_it_says_or_refused() {
    let tcp = knock(v4(), A);
    let ihl = |ihl: u8| patched(&tcp, 0, &[0x40 | ihl]);
    let mut rows = Vec::new();
    for length in 0..5 {
        rows.push(row(format!("IHL of {length}"), ihl(length), "bad_header"));
    }
    rows.push(row("IHL of 5", ihl(5), "first"));
    for words in 1..=10u8 {
        let options = vec![1; usize::from(words) * 4];
        let true_one = with_options(&tcp, &options);
        rows.push(row(format!("IHL of {}, with the options", words + 5), true_one, "first"));
        let lie = ihl(words + 5);
        rows.push(row(format!("IHL of {}, without options", words + 5), lie, "truncated"));
    }
    check(rows);
}

#[test]
fn lengths_that_lie_are_refused_where_they_leave_no_room_for_the_headers() {
    let (tcp, tcp6) = (knock(v4(), A), knock(v6(), A));
    let total = |length: u16| patched(&tcp, TOTAL_LENGTH, &length.to_be_bytes());
    let payload = |length: u16| patched(&tcp6, PAYLOAD_LENGTH, &length.to_be_bytes());
    let mut rows = Vec::new();
    for length in 0..40 {
        rows.push(row(format!("IPv4 total length of {length}"), total(length), "bad_header"));
    }
    for length in 0..20 {
        rows.push(row(format!("IPv6 payload length of {length}"), payload(length), "bad_header"));
    }
    // Detecting is no way in: the stack drops what says it is longer than it is.
    for length in [40, 41, 1500, u16::MAX] {
        rows.push(row(format!("IPv4 total length of {length}"), total(length), "first"));
        rows.push(row(format!("IPv6 payload length of {length}"), payload(length - 20), "first"));
    }
    let padded = [&tcp[..], &[0; 6]].concat();
    rows.push(row("padding behind the packet", padded, "first"));
    check(rows);
}

#[test]
fn no_fragment_is_a_knock_whatever_is_in_it() {
    const MORE: u16 = 0x2000;
    let (tcp, tcp6, udp6) = (knock(v4(), A), knock(v6(), A), knock(v6(), D));
    let field = |bits: u16| fragment(&tcp, bits);
    let header = |bits: u16| fragment(&tcp6, bits);
    // In IPv6 the offset is in the upper 13 bits and "more" in the lowest.
    let rows = vec![
        row("IPv4, first", field(MORE), "fragment"),
        row("IPv4, middle", field(MORE | 64), "fragment"),
        row("IPv4, last", field(185), "fragment"),
        row("IPv4, the smallest offset, payload a whole SYN", field(1), "fragment"),
        row("IPv4, the largest offset", field(0x1fff), "fragment"),
        row("IPv4, first, with don't-fragment", field(0x4000 | MORE), "fragment"),
        row("IPv4, don't-fragment alone", field(0x4000), "first"),
        row("IPv4, the reserved bit alone", field(0x8000), "first"),
        row("IPv6, first", header(1), "fragment"),
        row("IPv6, middle", header(64 << 3 | 1), "fragment"),
        row("IPv6, last", header(185 << 3), "fragment"),
        row("IPv6, the smallest offset, payload a whole SYN", header(1 << 3), "fragment"),
        row("IPv6, atomic", header(0), "fragment"),
        row("IPv6, atomic, a datagram", fragment(&udp6, 0), "fragment"),
        row("IPv6, first, in two tags", tagged(&header(1), &[0x88a8, 0x8100]), "fragment"),
    ];
    check(rows);
}

#[test]
fn chains_of_extension_headers_are_followed_to_the_sixth() {
    const MOST: usize = 6;
    let tcp = knock(v6(), A);
    let mut rows = Vec::new();
    for (name, kind) in [
        ("hop-by-hop", HOP_BY_HOP),
        ("routing", ROUTING),
        ("destination", DESTINATION),
        ("authentication", AUTHENTICATION),
        ("fragment", FRAGMENT),
    ] {
        for depth in 0..=8 {
            let end = match depth {
                1.. if kind == FRAGMENT => "fragment",
                0..=MOST => "first",
                _ => "too_many_extensions",
            };
            let frame = with_extensions(&tcp, &vec![kind; depth]);
            rows.push(row(format!("{depth} {name} headers"), frame, end));
        }
    }
    for depth in 0..=8 {
        let kinds = [HOP_BY_HOP, ROUTING, DESTINATION].into_iter().cycle().take(depth);
        let end = if depth <= MOST { "first" } else { "too_many_extensions" };
        let mixed: Vec<_> = kinds.clone().collect();
        rows.push(row(format!("{depth} mixed headers"), with_extensions(&tcp, &mixed), end));
        let end = if depth <= MOST { "fragment" } else { "too_many_extensions" };
        let mixed: Vec<_> = kinds.chain([FRAGMENT]).collect();
        rows.push(row(format!("{depth} mixed, a fragment"), with_extensions(&tcp, &mixed), end));
    }
    check(rows);
}

#[test]
fn up_to_two_tags_are_looked_into() {
    let mut rows = Vec::new();
    for (family, frame) in [("IPv4", knock(v4(), A)), ("IPv6", knock(v6(), A))] {
        for kind in [0x8100, 0x88a8] {
            for count in 0..=3 {
                let end = if count <= 2 { "first" } else { "too_many_tags" };
                let what = format!("{count} tags {kind:#06x} around {family}");
                rows.push(row(what, tagged(&frame, &vec![kind; count]), end));
            }
        }
    }
    check(rows);
}

#[test]
fn a_header_checksum_with_any_bit_flipped_is_refused() {
    const CHECKSUM: usize = 24;
    let mut rows = Vec::new();
    for (what, frame) in [
        ("plain", knock(v4(), A)),
        ("in a tag", tagged(&knock(v4(), A), &[0x8100])),
        ("with options", with_options(&knock(v4(), A), &[1; 40])),
    ] {
        let at = CHECKSUM + if what == "in a tag" { 4 } else { 0 };
        for bit in 0..16 {
            let mut flipped = frame.clone();
            flipped[at + bit / 8] ^= 1 << (bit % 8);
            rows.push(row(format!("{what}, bit {bit}"), flipped, "bad_checksum"));
        }
        rows.push(row(format!("{what}, intact"), frame, "first"));
    }
    let mut option = with_options(&knock(v4(), A), &[1; 40]);
    option[14 + 59] ^= 1;
    rows.push(row("the last byte of the options", option, "bad_checksum"));
    check(rows);
}

#[test]
fn of_tcp_only_the_opening_syn_is_a_step() {
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    const XMAS: u8 = 0x29;
    let mut rows = Vec::new();
    for (family, source) in [("IPv4", v4()), ("IPv6", v6())] {
        for (name, flags) in [
            ("null", 0),
            ("xmas", XMAS),
            ("FIN", FIN),
            ("ACK", ACK),
            ("RST", RST),
            ("SYN+FIN", SYN | FIN),
            ("SYN+ACK", SYN | ACK),
            ("SYN+RST", SYN | RST),
            ("SYN in an xmas tree", SYN | XMAS),
            ("all", 0xff),
        ] {
            let frame = with_flags(&knock(source, A), flags);
            rows.push(row(format!("{name} over {family}"), frame, "not_an_opening"));
        }
        // PSH, URG, ECE and CWR say nothing of it.
        let frame = with_flags(&knock(source, A), SYN | 0xe8);
        rows.push(row(format!("SYN and what does not matter over {family}"), frame, "first"));
    }
    check(rows);
}

#[test]
fn sources_that_no_host_can_have_are_refused() {
    let (tcp, tcp6) = (knock(v4(), A), knock(v6(), A));
    let mut rows = Vec::new();
    for (what, address, end) in [
        ("equal to the destination", "192.0.2.1", "bad_source"),
        ("unspecified", "0.0.0.0", "bad_source"),
        ("this network", "0.1.2.3", "bad_source"),
        ("loopback", "127.0.0.1", "bad_source"),
        ("multicast", "224.0.0.1", "bad_source"),
        ("multicast, the last", "239.255.255.255", "bad_source"),
        ("reserved", "240.0.0.1", "bad_source"),
        ("broadcast", "255.255.255.255", "bad_source"),
        ("link-local", "169.254.1.1", "first"),
        ("equal to the destination", "2001:db8::1", "bad_source"),
        ("unspecified", "::", "bad_source"),
        ("loopback", "::1", "bad_source"),
        ("multicast", "ff02::1", "bad_source"),
        ("IPv4-mapped", "::ffff:198.51.100.7", "bad_source"),
        ("link-local", "fe80::1", "first"),
    ] {
        let frame = match address.parse().unwrap() {
            IpAddr::V4(v4) => patched(&tcp, SOURCE, &v4.octets()),
            IpAddr::V6(v6) => patched(&tcp6, SOURCE_V6, &v6.octets()),
        };
        rows.push(row(format!("source {what}: {address}"), frame, end));
    }
    check(rows);
}

/// A row that ends well would hide in the others if the first step were no step.
#[test]
fn tagged_packets_with_extension_headers_complete_a_sequence() {
    let mut bench = DetectorRig::new(&[&[A, B, C]]);
    let frame = |step: Step| with_extensions(&knock(v6(), step), &[HOP_BY_HOP, DESTINATION]);
    let ends = [A, B, C].map(|step| bench.send(&tagged(&frame(step), &[0x88a8, 0x8100])).1.name());
    assert_eq!(ends, ["first", "advanced", "completed"]);
}

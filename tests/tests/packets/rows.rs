//! One packet a row: what it is, and how it ends.

use knock_common::sequence::{Protocol, Step};

use crate::frames::{extended_v6, knock, optioned_v4, patched_v4, tagged, with_flags};
use crate::{A, B, Bench, C, PASS};

/// Kinds of IPv6 extension headers.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

#[test]
fn each_packet_ends_as_its_row_says() {
    let mut bench = Bench::new(&[&[A, B, C]]);
    let v4 = "198.51.100.7".parse().unwrap();
    let v6 = "2001:db8::7".parse().unwrap();
    let tcp = knock(v4, A);
    let tcp6 = knock(v6, A);
    let quiet = bench.quiet(Protocol::Udp);
    let flags = |bits| with_flags(v4, A, bits);
    let source = |bytes: [u8; 4]| patched_v4(&tcp, 12, &bytes);
    let mut broken_checksum = tcp.clone();
    broken_checksum[24] ^= 1;
    let mut arp = tcp.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let mut mapped = tcp6.clone();
    mapped[22..38].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 7]);
    let mut icmp = patched_v4(&tcp, 9, &[1]);
    icmp[34] = 8;

    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a SYN to the first step over IPv4", tcp.clone(), "first"),
        ("a SYN to the first step over IPv6", tcp6.clone(), "first"),
        ("a datagram to a port of no interest", knock(v4, quiet), "not_a_step"),
        (
            "a datagram to a later step out of the blue",
            knock("198.51.100.8".parse().unwrap(), B),
            "unexpected",
        ),
        (
            "a packet to a decoy without progress",
            knock("198.51.100.9".parse().unwrap(), bench.decoy(Protocol::Tcp)),
            "ignored",
        ),
        ("one 802.1Q tag", tagged(&tcp, &[0x8100]), "first"),
        ("an 802.1ad tag around an 802.1Q tag", tagged(&tcp, &[0x88a8, 0x8100]), "first"),
        ("two tags over IPv6", tagged(&tcp6, &[0x8100, 0x8100]), "first"),
        ("three tags", tagged(&tcp, &[0x88a8, 0x8100, 0x8100]), "too_many_tags"),
        ("ARP", arp, "not_ip"),
        ("ICMP", icmp, "not_transport"),
        ("IPv4 options of 4 bytes", optioned_v4(&tcp, &[1; 4]), "first"),
        ("IPv4 options of 40 bytes", optioned_v4(&tcp, &[1; 40]), "first"),
        ("IHL of 4", patched_v4(&tcp, 0, &[0x44]), "bad_header"),
        ("IHL of 0", patched_v4(&tcp, 0, &[0x40]), "bad_header"),
        ("version 5", patched_v4(&tcp, 0, &[0x55]), "bad_header"),
        ("total length shorter than the headers", patched_v4(&tcp, 2, &[0, 39]), "bad_header"),
        ("a wrong header checksum", broken_checksum, "bad_checksum"),
        ("a first fragment", patched_v4(&tcp, 6, &[0x20, 0]), "fragment"),
        (
            "a later fragment whose payload looks like a knock",
            patched_v4(&tcp, 6, &[0x00, 0x10]),
            "fragment",
        ),
        ("don't-fragment alone", patched_v4(&tcp, 6, &[0x40, 0]), "first"),
        ("source 0.0.0.0", source([0, 0, 0, 0]), "bad_source"),
        ("source 127.0.0.1", source([127, 0, 0, 1]), "bad_source"),
        ("source 224.0.0.1", source([224, 0, 0, 1]), "bad_source"),
        ("source 255.255.255.255", source([255; 4]), "bad_source"),
        ("source equal to destination", source([192, 0, 2, 1]), "bad_source"),
        ("link-local source 169.254.1.1", source([169, 254, 1, 1]), "first"),
        ("an IPv4-mapped IPv6 source", mapped, "bad_source"),
        ("SYN with PSH, URG, ECE and CWR", flags(0x02 | 0x08 | 0x20 | 0x40 | 0x80), "first"),
        ("SYN+ACK", flags(0x12), "not_an_opening"),
        ("SYN+FIN", flags(0x03), "not_an_opening"),
        ("SYN+RST", flags(0x06), "not_an_opening"),
        ("ACK", flags(0x10), "not_an_opening"),
        ("null scan", flags(0x00), "not_an_opening"),
        ("xmas scan", flags(0x29), "not_an_opening"),
        (
            "six extension headers",
            extended_v6(
                &tcp6,
                &[HOP_BY_HOP, DESTINATION, ROUTING, DESTINATION, DESTINATION, DESTINATION],
            ),
            "first",
        ),
        ("seven extension headers", extended_v6(&tcp6, &[DESTINATION; 7]), "too_many_extensions"),
        ("an atomic IPv6 fragment", extended_v6(&tcp6, &[FRAGMENT]), "fragment"),
        (
            "a fragment header after six others",
            extended_v6(
                &tcp6,
                &[
                    DESTINATION,
                    DESTINATION,
                    DESTINATION,
                    DESTINATION,
                    DESTINATION,
                    DESTINATION,
                    FRAGMENT,
                ],
            ),
            "fragment",
        ),
        (
            "no next header",
            {
                let mut frame = tcp6.clone();
                frame[20] = 59;
                frame
            },
            "not_transport",
        ),
        (
            "IPv6 payload length too short",
            {
                let mut frame = tcp6.clone();
                frame[18..20].copy_from_slice(&[0, 19]);
                frame
            },
            "bad_header",
        ),
        (
            "IPv6 from ::",
            {
                let mut frame = tcp6.clone();
                frame[22..38].fill(0);
                frame
            },
            "bad_source",
        ),
        (
            "IPv6 from ff02::1",
            {
                let mut frame = tcp6.clone();
                frame[22] = 0xff;
                frame
            },
            "bad_source",
        ),
    ];
    for (what, frame, expected) in rows {
        let (verdict, end) = bench.send(&frame);
        assert_eq!(end.name(), expected, "{what}");
        assert_eq!(verdict, PASS, "{what}");
    }
}

#[test]
fn a_frame_cut_anywhere_inside_its_headers_is_truncated() {
    let mut bench = Bench::new(&[&[A, B, C]]);
    let v4 = crate::stranger();
    let v6 = "2001:db8::8".parse().unwrap();
    let step = Step::new(Protocol::Udp, bench.quiet(Protocol::Udp).port);
    for frame in [
        knock(v4, A),
        knock(v6, A),
        knock(v4, step),
        tagged(&knock(v4, A), &[0x88a8, 0x8100]),
        optioned_v4(&knock(v4, A), &[1; 40]),
        extended_v6(&knock(v6, A), &[HOP_BY_HOP, DESTINATION]),
    ] {
        // The kernel takes no frame of less than an Ethernet header.
        for length in 14..frame.len() {
            let end = bench.send(&frame[..length]).1.name();
            assert_eq!(end, "truncated", "{length} of {} bytes", frame.len());
        }
    }
}

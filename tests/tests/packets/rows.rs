//! A table of packets, each with the counter in which it ends. Packets that are made to mislead are
//! in `hazards.rs`.

use knock_common::sequence::Protocol;

use crate::{A, B, C, DetectorRig, PASS, knock};
use knock_lab::packet::{patched, tagged};

#[test]
fn each_packet_ends_as_its_row_says() {
    let mut bench = DetectorRig::new(&[&[A, B, C]]);
    let v4 = "198.51.100.7".parse().unwrap();
    let v6 = "2001:db8::7".parse().unwrap();
    let tcp = knock(v4, A);
    let tcp6 = knock(v6, A);
    let quiet = bench.quiet(Protocol::Udp);
    let mut arp = tcp.clone();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let mut icmp = patched(&tcp, 9, &[1]);
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
        ("an 802.1ad tag around an 802.1Q tag", tagged(&tcp, &[0x88a8, 0x8100]), "first"),
        ("ARP", arp, "not_ip"),
        ("ICMP", icmp, "not_transport"),
        ("version 5", patched(&tcp, 0, &[0x55]), "bad_header"),
        ("no next header", patched(&tcp6, 6, &[59]), "not_transport"),
        ("encryption", patched(&tcp6, 6, &[50]), "not_transport"),
    ];
    for (what, frame, expected) in rows {
        let (verdict, end) = bench.send(&frame);
        assert_eq!(end.name(), expected, "{what}");
        assert_eq!(verdict, PASS, "{what}");
    }
}

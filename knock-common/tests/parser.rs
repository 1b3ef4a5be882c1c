//! The parser on the host, with frames built by an independent library.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use knock_common::packet::{Refusal, parse};
use knock_common::sequence::{Protocol, Step};
use knock_common::source::Source;
use proptest::prelude::*;

const SERVER_V4: [u8; 4] = [192, 0, 2, 1];
const SERVER_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const TCP_7000: Step = Step::new(Protocol::Tcp, 7000);
const UDP_8000: Step = Step::new(Protocol::Udp, 8000);

fn frame(source: IpAddr, step: Step) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ip = match source {
        IpAddr::V4(source) => ethernet.ipv4(source.octets(), SERVER_V4, 64),
        IpAddr::V6(source) => ethernet.ipv6(source.octets(), SERVER_V6, 64),
    };
    let mut frame = Vec::new();
    match step.protocol {
        Protocol::Tcp => ip.tcp(40_000, step.port, 1, 1000).syn().write(&mut frame, &[]),
        Protocol::Udp => ip.udp(40_000, step.port).write(&mut frame, &[]),
    }
    .expect("a frame in memory");
    frame
}

fn tagged(frame: &[u8], tags: usize) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    (0..tags).for_each(|_| tagged.extend([0x81, 0, 0, 5]));
    tagged.extend(&frame[12..]);
    tagged
}

/// An IPv6 frame with these bytes between its header and the transport header.
fn extended(frame: &[u8], first: u8, extensions: &[u8]) -> Vec<u8> {
    let mut longer = frame[..54].to_vec();
    longer[20] = first;
    longer.extend(extensions);
    longer.extend(&frame[54..]);
    let payload = u16::try_from(longer.len() - 54).unwrap();
    longer[18..20].copy_from_slice(&payload.to_be_bytes());
    longer
}

/// Returns step and source, or the reason why the frame is not a knock.
fn knock(frame: &[u8]) -> Result<(Step, Source), Refusal> {
    let candidate = parse(frame)?;
    Ok((candidate.step, candidate.source(frame)?))
}

fn v4() -> IpAddr {
    [198, 51, 100, 7].into()
}

fn v6() -> IpAddr {
    "2001:db8::7".parse().unwrap()
}

#[test]
fn no_truncation_is_a_knock() {
    let options = {
        let mut frame = frame(v4(), TCP_7000);
        frame[14] = 0x46;
        frame.splice(34..34, [1, 1, 1, 1]);
        frame[17] += 4;
        frame
    };
    let chain = extended(&frame(v6(), TCP_7000), 60, &[6, 0, 1, 4, 0, 0, 0, 0]);
    for whole in [
        frame(v4(), TCP_7000),
        frame(v4(), UDP_8000),
        frame(v6(), TCP_7000),
        frame(v6(), UDP_8000),
        tagged(&frame(v4(), TCP_7000), 1),
        tagged(&frame(v6(), UDP_8000), 2),
        options,
        chain,
    ] {
        assert!(parse(whole.as_slice()).is_ok());
        for length in 0..whole.len() {
            assert_eq!(knock(&whole[..length]), Err(Refusal::Truncated), "{length} bytes");
        }
    }
}

#[test]
fn the_ihl_is_taken_from_the_wire_and_checked() {
    for ihl in 0..16u8 {
        let mut whole = frame(v4(), UDP_8000);
        whole.extend([0; 64]);
        whole[14] = 0x40 | ihl;
        match (ihl, parse(whole.as_slice())) {
            (0..5, result) => assert_eq!(result.err(), Some(Refusal::BadHeader), "{ihl}"),
            (5, result) => assert_eq!(result.unwrap().step, UDP_8000),
            // What follows are other bytes, which are another port.
            (_, result) => assert_ne!(result.unwrap().step, UDP_8000, "{ihl}"),
        }
    }
}

#[test]
fn of_tcp_only_the_opening_syn_counts() {
    for flags in 0..=u8::MAX {
        let mut whole = frame(v4(), TCP_7000);
        whole[47] = flags;
        assert_eq!(knock(&whole).is_ok(), flags & 0b1_0111 == 0b10, "flags {flags:#010b}");
    }
}

#[test]
fn no_fragment_is_a_knock() {
    for field in 0..=u16::MAX {
        let mut whole = frame(v4(), TCP_7000);
        whole[20..22].copy_from_slice(&field.to_be_bytes());
        let refused = parse(whole.as_slice()).err();
        assert_eq!(refused, (field & 0x3fff != 0).then_some(Refusal::Fragment), "{field:#06x}");
    }
}

#[test]
fn no_flipped_bit_in_an_ipv4_header_is_accepted() {
    let whole = frame(v4(), UDP_8000);
    for bit in 0..160 {
        let mut flipped = whole.clone();
        flipped[14 + bit / 8] ^= 1 << (bit % 8);
        assert!(knock(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn lengths_that_leave_no_room_for_the_headers_are_refused() {
    for total in 0..28u16 {
        let mut whole = frame(v4(), UDP_8000);
        whole[16..18].copy_from_slice(&total.to_be_bytes());
        assert_eq!(knock(&whole), Err(Refusal::BadHeader), "{total}");
        let mut whole = frame(v6(), TCP_7000);
        whole[18..20].copy_from_slice(&(total.min(19)).to_be_bytes());
        assert_eq!(knock(&whole), Err(Refusal::BadHeader), "{total}");
    }
}

#[test]
fn extension_headers_are_followed_as_long_as_they_are() {
    let plain = frame(v6(), UDP_8000);
    let udp = 17;
    let rows: &[(&str, u8, Vec<u8>, Option<Refusal>)] = &[
        ("hop-by-hop of 8 bytes", 0, vec![udp, 0, 1, 4, 0, 0, 0, 0], None),
        ("destination of 24 bytes", 60, [&[udp, 2][..], &[0; 22]].concat(), None),
        ("routing of 2048 bytes", 43, [&[udp, 255][..], &[0; 2046]].concat(), None),
        ("authentication of 24 bytes", 51, [&[udp, 4][..], &[0; 22]].concat(), None),
        ("a fragment header", 44, vec![udp, 0, 0, 0, 0, 0, 0, 1], Some(Refusal::Fragment)),
        ("encryption", 50, vec![0; 16], Some(Refusal::NotTransport)),
        ("ICMPv6", 58, vec![128, 0, 0, 0, 0, 0, 0, 0], Some(Refusal::NotTransport)),
    ];
    for (what, first, bytes, refusal) in rows {
        let result = knock(&extended(&plain, *first, bytes));
        assert_eq!(result.err(), *refusal, "{what}");
    }
    for depth in 0..9usize {
        let mut chain: Vec<u8> = (1..depth).flat_map(|_| [60, 0, 1, 4, 0, 0, 0, 0]).collect();
        if depth > 0 {
            chain.extend([udp, 0, 1, 4, 0, 0, 0, 0]);
        }
        let first = if depth == 0 { udp } else { 60 };
        let refused = knock(&extended(&plain, first, &chain)).err();
        assert_eq!(refused, (depth > 6).then_some(Refusal::TooManyExtensions), "{depth} deep");
    }
}

#[test]
fn more_than_two_tags_are_refused() {
    for tags in 0..4 {
        let result = knock(&tagged(&frame(v4(), TCP_7000), tags));
        assert_eq!(result.err(), (tags > 2).then_some(Refusal::TooManyTags), "{tags}");
    }
}

#[test]
fn sources_that_no_host_can_have_are_refused_and_their_neighbours_are_not() {
    let rows = [
        ("0.0.0.0", false),
        ("0.255.255.255", false),
        ("1.0.0.0", true),
        ("126.255.255.255", true),
        ("127.0.0.1", false),
        ("128.0.0.0", true),
        ("223.255.255.255", true),
        ("224.0.0.1", false),
        ("255.255.255.255", false),
        ("192.0.2.1", false),
        ("::", false),
        ("::1", false),
        ("::2", true),
        ("::fffe:0:0", true),
        ("::ffff:198.51.100.7", false),
        ("::1:0:0:0", true),
        ("fe80::1", true),
        ("feff::1", true),
        ("ff02::1", false),
        ("2001:db8::1", false),
        ("2001:db8::2", true),
    ];
    for (source, good) in rows {
        let result = knock(&frame(source.parse().unwrap(), TCP_7000));
        match good {
            true => assert_eq!(result.unwrap().1.to_string(), source),
            false => assert_eq!(result, Err(Refusal::BadSource), "{source}"),
        }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    (any::<bool>(), any::<u16>())
        .prop_map(|(tcp, port)| Step::new(if tcp { Protocol::Tcp } else { Protocol::Udp }, port))
}

proptest! {
    #[test]
    fn a_frame_says_what_was_put_into_it(
        address: [u8; 16], ipv4: bool, step in any_step(), tags in 0usize..3,
    ) {
        let source: IpAddr = if ipv4 {
            [address[0], address[1], address[2], address[3]].into()
        } else {
            address.into()
        };
        match knock(&tagged(&frame(source, step), tags)) {
            Ok(found) => prop_assert_eq!(found, (step, Source::from(source))),
            Err(refusal) => prop_assert_eq!(refusal, Refusal::BadSource),
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = knock(&bytes);
    }

    #[test]
    fn what_is_mangled_is_refused_or_says_what_is_on_the_wire(
        changes in prop::collection::vec((14usize..42, any::<u8>()), 1..4), step in any_step(),
    ) {
        let mut whole = frame(v4(), step);
        for (at, value) in changes {
            whole[at] = value;
        }
        if let Ok((_, source)) = knock(&whole) {
            let on_wire: [u8; 4] = whole[26..30].try_into().unwrap();
            prop_assert_eq!(source, Source::v4(on_wire));
        }
    }
}

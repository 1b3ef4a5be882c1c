//! The packet parser: it accepts exactly the knocks that an independent parser, etherparse, sees in
//! a frame.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    Ipv6ExtensionSlice, LinkExtSlice, LinkSlice, NetSlice, SlicedPacket, TransportSlice,
};
use knock_common::packet::{Candidate, Refusal, parse};
use knock_common::sequence::{Protocol, Step};
use knock_common::source::Source;

/// EtherType of an outdated tag that etherparse takes for a VLAN tag (0x9100).
const OLD_TAG: [u8; 2] = [0x91, 0x00];
/// As many extension headers and tags as the parser follows.
const MAX_EXTENSIONS: usize = 6;
const MAX_TAGS: usize = 2;

/// Parses one Ethernet frame.
///
/// # Panics
///
/// If the parser and etherparse do not agree on it.
pub fn run(frame: &[u8]) {
    let ours = knock(frame);
    // It is stricter with lengths that lie; then there is nothing to compare with.
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return };
    match (ours, knock_in(&packet)) {
        (Ok(ours), Some(theirs)) => {
            assert_eq!(ours, theirs, "one frame, two readings");
            assert!(checksum_holds(&packet), "{ours:?} with a wrong checksum");
        }
        (Ok(ours), None) => panic!("{ours:?} in a frame that is not a knock"),
        (Err(refusal), Some(theirs)) => {
            assert!(explains(refusal, frame, &packet), "{theirs:?} was refused: {refusal:?}");
        }
        (Err(_), None) => {}
    }
}

/// Returns step and source, or the reason why the frame is not a knock.
fn knock(frame: &[u8]) -> Result<(Step, Source), Refusal> {
    let candidate = parse(frame)?;
    let handed_over = Candidate::unpack(candidate.pack());
    assert_eq!(handed_over, candidate, "nothing is lost between the two functions");
    Ok((candidate.step, candidate.source(frame)?))
}

/// Returns step and source of a frame that is a knock to etherparse, whatever its source.
fn knock_in(packet: &SlicedPacket<'_>) -> Option<(Step, Source)> {
    let plain_link = matches!(packet.link, Some(LinkSlice::Ethernet2(_)))
        && packet.link_exts.iter().all(|extension| matches!(extension, LinkExtSlice::Vlan(_)));
    let (source, _) = addresses(packet)?;
    let step = match packet.transport.as_ref()? {
        TransportSlice::Tcp(tcp) => {
            let opening = tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin();
            opening.then(|| Step::new(Protocol::Tcp, tcp.destination_port()))?
        }
        TransportSlice::Udp(udp) => Step::new(Protocol::Udp, udp.destination_port()),
        _ => return None,
    };
    plain_link.then(|| (step, Source::from(source)))
}

/// Returns source and destination.
fn addresses(packet: &SlicedPacket<'_>) -> Option<(IpAddr, IpAddr)> {
    match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            Some((header.source_addr().into(), header.destination_addr().into()))
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            Some((header.source_addr().into(), header.destination_addr().into()))
        }
        NetSlice::Arp(_) => None,
    }
}

/// Returns whether `refusal` is right about the frame, though it holds a TCP SYN or a datagram.
fn explains(refusal: Refusal, frame: &[u8], packet: &SlicedPacket<'_>) -> bool {
    let extensions = || match &packet.net {
        Some(NetSlice::Ipv6(ip)) => ip.extensions().clone().into_iter().collect(),
        _ => Vec::new(),
    };
    match refusal {
        Refusal::NotIp => frame.windows(2).any(|pair| pair == OLD_TAG),
        Refusal::TooManyTags => packet.link_exts.len() > MAX_TAGS,
        Refusal::TooManyExtensions => extensions().len() > MAX_EXTENSIONS,
        Refusal::Fragment => {
            extensions().iter().any(|one| matches!(one, Ipv6ExtensionSlice::Fragment(_)))
        }
        // A packet with an authentication header is not a knock over IPv4.
        Refusal::NotTransport => {
            matches!(&packet.net, Some(NetSlice::Ipv4(ip)) if ip.extensions().auth.is_some())
        }
        // A length of 0, as in a jumbogram, which etherparse reads to the frame's end.
        Refusal::BadHeader => {
            matches!(&packet.net, Some(NetSlice::Ipv6(ip)) if ip.header().payload_length() == 0)
        }
        Refusal::BadChecksum => !checksum_holds(packet),
        Refusal::BadSource => addresses(packet)
            .is_some_and(|(source, destination)| source == destination || !can_be_a_source(source)),
        Refusal::Truncated | Refusal::NotAnOpening => false,
    }
}

/// Returns whether the header's checksum is right, where there is one.
fn checksum_holds(packet: &SlicedPacket<'_>) -> bool {
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { return true };
    // Over the bytes, not over the fields, among which etherparse has no reserved bit.
    Sum16BitWords::new().add_slice(ip.header().slice()).ones_complement() == 0
}

fn can_be_a_source(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first != 0 && !v4.is_loopback() && !v4.is_multicast() && first < 240
        }
        IpAddr::V6(v6) => {
            !v6.is_unspecified()
                && !v6.is_loopback()
                && !v6.is_multicast()
                && v6.to_ipv4_mapped().is_none()
        }
    }
}

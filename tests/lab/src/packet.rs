//! Packets as bytes: built with a library that shares no code with the parser under test, then put
//! out of shape where a test wants that. A checksum that covers a change is made right again, so
//! that nothing is wrong but what the test means.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU16, Ordering};

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep};
use knock_common::sequence::{Protocol, Step};

use crate::lab::Host;

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// Offsets in a frame over IPv4 without options.
const IPV4_SOURCE: usize = ETHERNET + 12;
const UDP_CHECKSUM: usize = ETHERNET + IPV4 + 6;
/// Offsets of the next header and of the payload length in an IPv6 frame.
const NEXT_HEADER: usize = ETHERNET + 6;
const PAYLOAD_LENGTH: usize = ETHERNET + 4;
/// The number of the IPv6 fragment header.
const FRAGMENT: u8 = 44;

/// The ports that all packets come from.
const SOURCE_PORT: u16 = 40_000;

/// A packet from one address to another of the same family. Methods that name a protocol end it and
/// return the Ethernet frame.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    from: IpAddr,
    to: IpAddr,
    mac: [u8; 6],
    padding: usize,
}

impl Packet {
    /// To a hardware address that no host of a lab has.
    pub fn between(from: IpAddr, to: IpAddr) -> Self {
        Self { from, to, mac: [2, 0, 0, 0, 0, 1], padding: 0 }
    }

    /// To a host, claiming to come from `from`.
    pub fn to(host: &Host, from: IpAddr) -> Self {
        let to = if from.is_ipv4() { host.v4 } else { host.v6 };
        Self::between(from, to).mac(host.mac())
    }

    /// To another hardware address.
    #[must_use]
    pub fn mac(self, mac: [u8; 6]) -> Self {
        Self { mac, ..self }
    }

    /// With zeros behind a knock, as many as make `length` bytes over IPv4.
    #[must_use]
    pub fn of_length(self, length: usize) -> Self {
        Self { padding: length, ..self }
    }

    /// A knock on `step`: a SYN, or a datagram.
    ///
    /// # Panics
    ///
    /// If the two addresses are of different families.
    pub fn knock(self, step: Step) -> Vec<u8> {
        const TCP: usize = 20;
        const UDP: usize = 8;
        let padding =
            |header: usize| vec![0; self.padding.saturating_sub(ETHERNET + IPV4 + header)];
        if step.protocol == Protocol::Udp {
            return self.datagram(step.port, &padding(UDP));
        }
        let mut frame = Vec::new();
        let syn = self.headers().tcp(SOURCE_PORT, step.port, 1, 1000).syn();
        syn.write(&mut frame, &padding(TCP)).expect("a frame in memory");
        frame
    }

    /// A datagram to `port`.
    ///
    /// # Panics
    ///
    /// If the two addresses are of different families.
    pub fn datagram(self, port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let datagram = self.headers().udp(SOURCE_PORT, port);
        datagram.write(&mut frame, payload).expect("a frame in memory");
        frame
    }

    fn headers(self) -> PacketBuilderStep<IpHeaders> {
        const FROM_MAC: [u8; 6] = [2, 0x77, 0, 0, 0, 9];
        let ethernet = PacketBuilder::ethernet2(FROM_MAC, self.mac);
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
            _ => panic!("{} and {} are of different families", self.from, self.to),
        }
    }
}

/// Returns a frame with VLAN tags put in, outermost first.
pub fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    for tag in tags {
        tagged.extend(tag.to_be_bytes());
        tagged.extend(5u16.to_be_bytes());
    }
    tagged.extend(&frame[12..]);
    tagged
}

/// Returns whether a frame without tags is one over IPv4.
fn is_v4(frame: &[u8]) -> bool {
    frame[ETHERNET] >> 4 == 4
}

/// Returns a frame with `bytes` written over offset `at` of its IP header.
///
/// # Panics
///
/// If they do not fit.
pub fn patched(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut patched = frame.to_vec();
    patched[ETHERNET + at..ETHERNET + at + bytes.len()].copy_from_slice(bytes);
    if is_v4(frame) {
        seal_v4(&mut patched);
    }
    patched
}

/// Returns a datagram over IPv4 as if it came from another address. It has no UDP checksum, as
/// RFC 768 allows.
///
/// # Panics
///
/// If it is too short to be one.
pub fn from_elsewhere(frame: &[u8], source: Ipv4Addr) -> Vec<u8> {
    let mut frame = patched(frame, IPV4_SOURCE - ETHERNET, &source.octets());
    frame[UDP_CHECKSUM..UDP_CHECKSUM + 2].fill(0);
    frame
}

/// Returns an IPv4 frame with `options` (a multiple of four bytes) after its header.
///
/// # Panics
///
/// If there are more than ten words.
pub fn with_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let mut longer = frame[..ETHERNET + IPV4].to_vec();
    longer.extend(options);
    longer.extend(&frame[ETHERNET + IPV4..]);
    longer[ETHERNET] = 0x45 + u8::try_from(options.len() / 4).expect("at most ten words");
    set_total_length(&mut longer);
    longer
}

/// Returns an IPv6 frame with an extension header of eight bytes of each kind put in.
///
/// # Panics
///
/// If it gets longer than a packet can be.
pub fn with_extensions(frame: &[u8], kinds: &[u8]) -> Vec<u8> {
    let transport = frame[NEXT_HEADER];
    let mut longer = frame[..ETHERNET + IPV6].to_vec();
    longer[NEXT_HEADER] = kinds.first().copied().unwrap_or(transport);
    for index in 0..kinds.len() {
        let next = kinds.get(index + 1).copied().unwrap_or(transport);
        // One option that pads four bytes (RFC 8200, 4.2).
        longer.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    longer.extend(&frame[ETHERNET + IPV6..]);
    set_payload_length(&mut longer);
    longer
}

/// Returns a frame as a fragment of a packet that no other fragment belongs to. `field` holds flags
/// and offset: those of the IPv4 header, or those of the fragment header that IPv6 gets.
///
/// # Panics
///
/// If it has no IP header.
pub fn fragment(frame: &[u8], field: u16) -> Vec<u8> {
    part(frame, fresh(), field)
}

/// Returns a frame of either family as two fragments, the first with `first` bytes (a multiple of
/// eight) of what follows the IP header.
///
/// # Panics
///
/// If there are not as many.
pub fn in_two(frame: &[u8], first: usize) -> [Vec<u8>; 2] {
    const MORE_V4: u16 = 0x2000;
    const MORE_V6: u16 = 1;
    let identification = fresh();
    let offset = u16::try_from(first / 8).expect("a short packet");
    let (ip, more, last_at) =
        if is_v4(frame) { (IPV4, MORE_V4, offset) } else { (IPV6, MORE_V6, offset << 3) };
    let (headers, payload) = frame.split_at(ETHERNET + ip);
    let (first, last) = payload.split_at(first);
    [(first, more), (last, last_at)].map(|(bytes, field)| {
        let mut frame = [headers, bytes].concat();
        if is_v4(&frame) {
            set_total_length(&mut frame);
        }
        part(&frame, identification, field)
    })
}

fn part(frame: &[u8], identification: u16, field: u16) -> Vec<u8> {
    let [i0, i1] = identification.to_be_bytes();
    let [f0, f1] = field.to_be_bytes();
    if is_v4(frame) {
        patched(frame, 4, &[i0, i1, f0, f1])
    } else {
        patched(&with_extensions(frame, &[FRAGMENT]), IPV6 + 2, &[f0, f1, 0, 0, i0, i1])
    }
}

/// Returns an identification that tells the fragments of one packet from those of others.
fn fresh() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Returns a TCP frame of either family with these flags. The frame has no options.
///
/// # Panics
///
/// If it is too short to be one.
pub fn with_flags(frame: &[u8], flags: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let tcp = ETHERNET + if is_v4(&frame) { IPV4 } else { IPV6 };
    let (before, checksum) = (word(&frame, tcp + 12), word(&frame, tcp + 16));
    frame[tcp + 13] = flags;
    // RFC 1624, equation 3.
    let sum = u32::from(!checksum) + u32::from(!before) + u32::from(word(&frame, tcp + 12));
    frame[tcp + 16..tcp + 18].copy_from_slice(&(!folded(sum)).to_be_bytes());
    frame
}

fn set_total_length(frame: &mut [u8]) {
    let total = u16::try_from(frame.len() - ETHERNET).expect("a short frame");
    frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&total.to_be_bytes());
    seal_v4(frame);
}

fn set_payload_length(frame: &mut [u8]) {
    let payload = u16::try_from(frame.len() - ETHERNET - IPV6).expect("a short frame");
    frame[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 2].copy_from_slice(&payload.to_be_bytes());
}

/// Makes the checksum of an IPv4 header right, as far as the frame goes.
fn seal_v4(frame: &mut [u8]) {
    let length = usize::from(frame[ETHERNET] & 0x0f) * 4;
    frame[24..26].fill(0);
    let end = (ETHERNET + length).min(frame.len());
    let sum = (ETHERNET..end).step_by(2).map(|at| u32::from(word(frame, at))).sum();
    frame[24..26].copy_from_slice(&(!folded(sum)).to_be_bytes());
}

/// Reads two bytes, of which the second may be missing.
fn word(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame.get(at + 1).copied().unwrap_or(0)])
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

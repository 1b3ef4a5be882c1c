//! The packet parser: from the bytes of an Ethernet frame to a candidate, or to the reason why the
//! packet is not a knock.
//!
//! The parser is generic over [`Bytes`], so that the same code runs in the kernel and on the host.
//! It works in two stages, because nearly every packet ends after the first. [`parse`] finds
//! protocol and port. [`Candidate::source`] checks the rest of a packet whose port is a step or a
//! decoy.

use crate::sequence::{Protocol, Step};
use crate::source::Source;

/// Bounds-checked access to a frame.
pub trait Bytes {
    /// Returns the `N` bytes from offset `at`, or `None` if the frame ends before.
    fn get<const N: usize>(&self, at: usize) -> Option<&[u8; N]>;
}

impl Bytes for [u8] {
    fn get<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        self.get(at..)?.first_chunk()
    }
}

/// The reason why a packet is not a knock.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The frame ends inside a header.
    Truncated,
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// More than two VLAN tags.
    TooManyTags,
    /// Version, header length or total length contradict each other.
    BadHeader,
    /// A fragment; first ones and IPv6 atomic ones too.
    Fragment,
    /// More than six IPv6 extension headers.
    TooManyExtensions,
    /// Neither TCP nor UDP.
    NotTransport,
    /// TCP, but not a connection's opening SYN.
    NotAnOpening,
    /// The IPv4 header checksum is wrong.
    BadChecksum,
    /// No host can have sent it: unspecified, loopback, multicast, broadcast or mapped
    /// source, or one equal to the destination.
    BadSource,
}

impl Refusal {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 10] = [
        Self::Truncated,
        Self::NotIp,
        Self::TooManyTags,
        Self::BadHeader,
        Self::Fragment,
        Self::TooManyExtensions,
        Self::NotTransport,
        Self::NotAnOpening,
        Self::BadChecksum,
        Self::BadSource,
    ];

    /// Returns the short name for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::NotIp => "not_ip",
            Self::TooManyTags => "too_many_tags",
            Self::BadHeader => "bad_header",
            Self::Fragment => "fragment",
            Self::TooManyExtensions => "too_many_extensions",
            Self::NotTransport => "not_transport",
            Self::NotAnOpening => "not_an_opening",
            Self::BadChecksum => "bad_checksum",
            Self::BadSource => "bad_source",
        }
    }
}

/// A packet that may be a knock: TCP opening SYN or UDP, not fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Protocol and destination port.
    pub step: Step,
    /// Offset of the IP header.
    at: usize,
    /// For IPv6, the distance from there to the transport header; for IPv4, 0.
    transport: usize,
}

const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;
const MAX_VLAN_TAGS: usize = 2;
const IPV4_MIN: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
const UDP: usize = 8;
const MAX_EXTENSIONS: usize = 6;

/// EtherTypes, IEEE 802 numbers, in the order of bytes on the wire.
mod ethertype {
    pub(super) const IPV4: u16 = 0x0800u16.to_be();
    pub(super) const IPV6: u16 = 0x86ddu16.to_be();
    pub(super) const VLAN: u16 = 0x8100u16.to_be();
    pub(super) const QINQ: u16 = 0x88a8u16.to_be();
}

/// IANA protocol numbers that can follow an IP header.
mod protocol {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
}

/// Finds the step in a frame.
///
/// # Errors
///
/// The first reason, from the outermost header inwards, why the frame is not a knock.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(frame: &B) -> Result<Candidate, Refusal> {
    let header: &[u8; ETHERNET] = frame.get(0).ok_or(Refusal::Truncated)?;
    match u16::from_ne_bytes([header[12], header[13]]) {
        ethertype::IPV4 => ipv4(frame, ETHERNET),
        ethertype::IPV6 => ipv6(frame, ETHERNET),
        ethertype::VLAN | ethertype::QINQ => tagged(frame),
        _ => Err(Refusal::NotIp),
    }
}

/// IEEE 802.1Q and 802.1ad: each tag ends with the EtherType of what follows.
#[inline(always)]
fn tagged<B: Bytes + ?Sized>(frame: &B) -> Result<Candidate, Refusal> {
    let mut at = ETHERNET;
    for _ in 0..MAX_VLAN_TAGS {
        let tag: &[u8; VLAN_TAG] = frame.get(at).ok_or(Refusal::Truncated)?;
        at += VLAN_TAG;
        match u16::from_ne_bytes([tag[2], tag[3]]) {
            ethertype::IPV4 => return ipv4(frame, at),
            ethertype::IPV6 => return ipv6(frame, at),
            ethertype::VLAN | ethertype::QINQ => {}
            _ => return Err(Refusal::NotIp),
        }
    }
    Err(Refusal::TooManyTags)
}

/// RFC 791.
#[inline(always)]
fn ipv4<B: Bytes + ?Sized>(frame: &B, at: usize) -> Result<Candidate, Refusal> {
    const MORE_FRAGMENTS_OR_OFFSET: u16 = 0x3fffu16.to_be();

    let header: &[u8; IPV4_MIN] = frame.get(at).ok_or(Refusal::Truncated)?;
    let length = ipv4_length(header)?;
    let fragment = u16::from_ne_bytes([header[6], header[7]]);
    if fragment & MORE_FRAGMENTS_OR_OFFSET != 0 {
        return Err(Refusal::Fragment);
    }
    let step = transport(frame, header[9], at + length)?;
    Ok(Candidate { step, at, transport: 0 })
}

/// Returns the length of an IPv4 header in bytes, 20 to 60.
#[inline(always)]
fn ipv4_length(header: &[u8; IPV4_MIN]) -> Result<usize, Refusal> {
    const VERSION: u8 = 0x40;
    let length = (header[0] & 0x0f) as usize * 4;
    if header[0] & 0xf0 != VERSION || length < IPV4_MIN {
        return Err(Refusal::BadHeader);
    }
    Ok(length)
}

/// RFC 8200 and, for the authentication header, RFC 4302.
#[inline(always)]
fn ipv6<B: Bytes + ?Sized>(frame: &B, start: usize) -> Result<Candidate, Refusal> {
    let header: &[u8; IPV6] = frame.get(start).ok_or(Refusal::Truncated)?;
    if header[0] & 0xf0 != 0x60 {
        return Err(Refusal::BadHeader);
    }
    let mut next = header[6];
    let mut at = start + IPV6;
    for _ in 0..MAX_EXTENSIONS {
        let extension: &[u8; 2] = match next {
            protocol::TCP | protocol::UDP => break,
            protocol::FRAGMENT => return Err(Refusal::Fragment),
            protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION
            | protocol::AUTHENTICATION => frame.get(at).ok_or(Refusal::Truncated)?,
            _ => return Err(Refusal::NotTransport),
        };
        let units = extension[1] as usize;
        at += if next == protocol::AUTHENTICATION { (units + 2) * 4 } else { (units + 1) * 8 };
        next = extension[0];
    }
    let step = match next {
        protocol::HOP_BY_HOP
        | protocol::ROUTING
        | protocol::DESTINATION
        | protocol::AUTHENTICATION => return Err(Refusal::TooManyExtensions),
        protocol::FRAGMENT => return Err(Refusal::Fragment),
        _ => transport(frame, next, at)?,
    };
    Ok(Candidate { step, at: start, transport: at - start })
}

/// RFC 9293 and RFC 768.
#[inline(always)]
fn transport<B: Bytes + ?Sized>(frame: &B, number: u8, at: usize) -> Result<Step, Refusal> {
    const FIN_SYN_RST_ACK: u8 = 0x17;
    const SYN: u8 = 0x02;

    match number {
        protocol::TCP => {
            let header: &[u8; TCP] = frame.get(at).ok_or(Refusal::Truncated)?;
            if header[13] & FIN_SYN_RST_ACK != SYN {
                return Err(Refusal::NotAnOpening);
            }
            Ok(Step::new(Protocol::Tcp, u16::from_be_bytes([header[2], header[3]])))
        }
        protocol::UDP => {
            let header: &[u8; UDP] = frame.get(at).ok_or(Refusal::Truncated)?;
            Ok(Step::new(Protocol::Udp, u16::from_be_bytes([header[2], header[3]])))
        }
        _ => Err(Refusal::NotTransport),
    }
}

impl Candidate {
    /// Into one word, to be handed to a function that the verifier checks by itself:
    /// step in bits 0 to 16, IP header at 17 to 24, transport header behind it in 25 to
    /// 40, 0 if IPv4.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.step.index() as u64
            | (self.at as u64 & 0xff) << 17
            | (self.transport as u64 & 0xffff) << 25
    }

    /// The inverse of [`Candidate::pack`].
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            step: Step::from_index(word as u32),
            at: (word >> 17) as usize & 0xff,
            transport: (word >> 25) as usize & 0xffff,
        }
    }

    /// Checks what [`parse`] left out and returns the source of the packet.
    ///
    /// # Errors
    ///
    /// [`Refusal::BadHeader`], [`Refusal::BadChecksum`] or [`Refusal::BadSource`];
    /// [`Refusal::Truncated`] if IPv4 options end before the frame does.
    #[inline(always)]
    pub fn source<B: Bytes + ?Sized>(&self, frame: &B) -> Result<Source, Refusal> {
        match self.transport {
            0 => self.source_v4(frame, self.at),
            transport => self.source_v6(frame, self.at, transport),
        }
    }

    #[inline(always)]
    fn source_v4<B: Bytes + ?Sized>(&self, frame: &B, at: usize) -> Result<Source, Refusal> {
        let header: &[u8; IPV4_MIN] = frame.get(at).ok_or(Refusal::Truncated)?;
        let length = ipv4_length(header)?;
        let total = u16::from_be_bytes([header[2], header[3]]) as usize;
        if total < length + self.shortest_transport() {
            return Err(Refusal::BadHeader);
        }
        if checksum(frame, header, at, length)? != 0xffff {
            return Err(Refusal::BadChecksum);
        }
        let [.., a, b, c, d, e, f, g, h] = *header;
        let (source, destination) = ([a, b, c, d], [e, f, g, h]);
        // RFC 6890: 0/8 this network, 127/8 loopback; RFC 1112: 224/4 multicast, 240/4 reserved.
        if matches!(a, 0 | 127 | 224..) || source == destination {
            return Err(Refusal::BadSource);
        }
        Ok(Source::v4(source))
    }

    #[inline(always)]
    fn source_v6<B: Bytes + ?Sized>(
        &self,
        frame: &B,
        at: usize,
        transport: usize,
    ) -> Result<Source, Refusal> {
        let header: &[u8; IPV6] = frame.get(at).ok_or(Refusal::Truncated)?;
        let payload = u16::from_be_bytes([header[4], header[5]]) as usize;
        if payload < transport - IPV6 + self.shortest_transport() {
            return Err(Refusal::BadHeader);
        }
        let source = address(header, 8);
        let (high, low) = source.halves();
        let (high, low) = (u64::from_be(high), u64::from_be(low));
        let unspecified_or_loopback = high == 0 && low <= 1;
        let mapped = high == 0 && low >> 32 == 0xffff;
        let multicast = high >> 56 == 0xff;
        if unspecified_or_loopback || mapped || multicast || source == address(header, 24) {
            return Err(Refusal::BadSource);
        }
        Ok(source)
    }

    /// Returns where the payload of a datagram begins, and how long its own header says it is.
    ///
    /// # Errors
    ///
    /// [`Refusal::Truncated`] if the frame ends before, [`Refusal::BadHeader`] if headers
    /// contradict each other.
    #[inline(always)]
    pub fn payload<B: Bytes + ?Sized>(&self, frame: &B) -> Result<(usize, usize), Refusal> {
        /// Six extension headers end long before. The kernel's verifier wants to see a bound.
        const FARTHEST: usize = 0x3fff;
        let length = match self.transport {
            0 => ipv4_length(frame.get(self.at).ok_or(Refusal::Truncated)?)?,
            transport if transport > FARTHEST => return Err(Refusal::BadHeader),
            transport => transport,
        };
        let at = self.at + length;
        let header: &[u8; UDP] = frame.get(at).ok_or(Refusal::Truncated)?;
        let total = u16::from_be_bytes([header[4], header[5]]) as usize;
        if total < UDP {
            return Err(Refusal::BadHeader);
        }
        Ok((at + UDP, total - UDP))
    }

    #[inline(always)]
    const fn shortest_transport(&self) -> usize {
        match self.step.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        }
    }
}

/// Returns the 16 bytes of an IPv6 header from offset `at`.
#[inline(always)]
fn address(header: &[u8; IPV6], at: usize) -> Source {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[at..at + 16]);
    Source(octets)
}

/// Returns the ones' complement sum of an IPv4 header of `length` bytes: 0xffff if the header is
/// intact, in either order of bytes (RFC 1071).
#[inline(always)]
fn checksum<B: Bytes + ?Sized>(
    frame: &B,
    header: &[u8; IPV4_MIN],
    at: usize,
    length: usize,
) -> Result<u32, Refusal> {
    const MAX_OPTIONS: usize = 10;
    let mut sum = 0u32;
    for word in 0..IPV4_MIN / 2 {
        sum += u16::from_ne_bytes([header[word * 2], header[word * 2 + 1]]) as u32;
    }
    if length > IPV4_MIN {
        for option in 0..MAX_OPTIONS {
            let offset = IPV4_MIN + option * 4;
            if offset >= length {
                break;
            }
            let bytes: &[u8; 4] = frame.get(at + offset).ok_or(Refusal::Truncated)?;
            sum += u16::from_ne_bytes([bytes[0], bytes[1]]) as u32;
            sum += u16::from_ne_bytes([bytes[2], bytes[3]]) as u32;
        }
    }
    // At most 30 words were added, so two folds take every carry in.
    sum = (sum & 0xffff) + (sum >> 16);
    Ok((sum & 0xffff) + (sum >> 16))
}

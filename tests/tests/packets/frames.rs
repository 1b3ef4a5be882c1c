//! Frames, built with a library that knows nothing of the parser under test.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use knock_common::sequence::{Protocol, Step};
pub(crate) use knock_tests::raw::tagged;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVER_V4: [u8; 4] = [192, 0, 2, 1];
const SERVER_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const SOURCE_PORT: u16 = 40_000;

/// A plain knock on `step` from `source`.
pub(crate) fn knock(source: IpAddr, step: Step) -> Vec<u8> {
    with_flags(source, step, 0x02)
}

/// The same, with these TCP flags if it is TCP.
pub(crate) fn with_flags(source: IpAddr, step: Step, flags: u8) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(MAC, MAC);
    let ip = match source {
        IpAddr::V4(source) => ethernet.ipv4(source.octets(), SERVER_V4, 64),
        IpAddr::V6(source) => ethernet.ipv6(source.octets(), SERVER_V6, 64),
    };
    let mut frame = Vec::new();
    match step.protocol {
        Protocol::Tcp => ip.tcp(SOURCE_PORT, step.port, 1, 1000).write(&mut frame, &[]),
        Protocol::Udp => ip.udp(SOURCE_PORT, step.port).write(&mut frame, &[]),
    }
    .expect("a frame in memory");
    if step.protocol == Protocol::Tcp {
        let flags_at = if source.is_ipv4() { 14 + 20 + 13 } else { 14 + 40 + 13 };
        frame[flags_at] = flags;
    }
    frame
}

/// An IPv4 frame with `bytes` put over offset `at` of its IP header and the header
/// checksum made right again.
pub(crate) fn patched_v4(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[14 + at..14 + at + bytes.len()].copy_from_slice(bytes);
    seal_v4(&mut frame);
    frame
}

/// An IPv6 frame with `bytes` put over offset `at` of its IP header.
pub(crate) fn patched_v6(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[14 + at..14 + at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// An IPv6 frame with a fragment header whose field of offset and flags is `field`.
pub(crate) fn fragment_v6(frame: &[u8], field: u16) -> Vec<u8> {
    const FRAGMENT: u8 = 44;
    let mut frame = extended_v6(frame, &[FRAGMENT]);
    frame[56..58].copy_from_slice(&field.to_be_bytes());
    frame
}

/// An IPv4 frame with `options` (a multiple of four bytes) after its header.
pub(crate) fn optioned_v4(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let mut longer = frame[..34].to_vec();
    longer.extend(options);
    longer.extend(&frame[34..]);
    longer[14] = 0x45 + u8::try_from(options.len() / 4).expect("at most ten words");
    let total = u16::try_from(longer.len() - 14).expect("a short frame");
    longer[16..18].copy_from_slice(&total.to_be_bytes());
    seal_v4(&mut longer);
    longer
}

/// An IPv6 frame with an extension header of eight bytes of each kind put in.
pub(crate) fn extended_v6(frame: &[u8], kinds: &[u8]) -> Vec<u8> {
    let transport = frame[20];
    let mut longer = frame[..54].to_vec();
    longer[20] = kinds.first().copied().unwrap_or(transport);
    for index in 0..kinds.len() {
        let next = kinds.get(index + 1).copied().unwrap_or(transport);
        longer.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    longer.extend(&frame[54..]);
    let payload = u16::try_from(longer.len() - 54).expect("a short frame");
    longer[18..20].copy_from_slice(&payload.to_be_bytes());
    longer
}

fn seal_v4(frame: &mut [u8]) {
    let length = usize::from(frame[14] & 0x0f) * 4;
    frame[24..26].fill(0);
    let end = (14 + length).min(frame.len());
    let mut sum: u32 = frame[14..end]
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).expect("folded");
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
}

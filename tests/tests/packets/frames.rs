//! Frames, built with a library that knows nothing of the parser under test.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use knock_common::sequence::{Protocol, Step};

pub(crate) use knock_lab::mangle::{
    extended_v6, flagged, fragment_v4, fragment_v6, optioned_v4, patched_v4, patched_v6,
};
pub(crate) use knock_lab::raw::tagged;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVER_V4: [u8; 4] = [192, 0, 2, 1];
const SERVER_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const SOURCE_PORT: u16 = 40_000;

/// A plain knock on `step` from `source`.
pub(crate) fn knock(source: IpAddr, step: Step) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(MAC, MAC);
    let ip = match source {
        IpAddr::V4(source) => ethernet.ipv4(source.octets(), SERVER_V4, 64),
        IpAddr::V6(source) => ethernet.ipv6(source.octets(), SERVER_V6, 64),
    };
    let mut frame = Vec::new();
    match step.protocol {
        Protocol::Tcp => ip.tcp(SOURCE_PORT, step.port, 1, 1000).syn().write(&mut frame, &[]),
        Protocol::Udp => ip.udp(SOURCE_PORT, step.port).write(&mut frame, &[]),
    }
    .expect("a frame in memory");
    frame
}

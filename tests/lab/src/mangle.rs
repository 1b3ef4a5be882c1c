//! Frames with something put in, cut out or written over, and whatever checksum covers it
//! made right again: what is wrong with them is only what a test wants to be wrong.

use std::sync::atomic::{AtomicU16, Ordering};

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// Where the next header is named in an IPv6 frame, and how long its payload is.
const NEXT_HEADER: usize = ETHERNET + 6;
const PAYLOAD_LENGTH: usize = ETHERNET + 4;
/// Of an IPv6 fragment header.
const FRAGMENT: u8 = 44;

/// An IPv4 frame with `bytes` put over offset `at` of its IP header.
///
/// # Panics
///
/// If they do not fit.
pub fn patched_v4(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[ETHERNET + at..ETHERNET + at + bytes.len()].copy_from_slice(bytes);
    seal_v4(&mut frame);
    frame
}

/// An IPv6 frame with `bytes` put over offset `at` of its IP header.
///
/// # Panics
///
/// If they do not fit.
pub fn patched_v6(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[ETHERNET + at..ETHERNET + at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// An IPv4 frame with `options` (a multiple of four bytes) after its header.
///
/// # Panics
///
/// If there are more than ten words.
pub fn optioned_v4(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let mut longer = frame[..ETHERNET + IPV4].to_vec();
    longer.extend(options);
    longer.extend(&frame[ETHERNET + IPV4..]);
    longer[ETHERNET] = 0x45 + u8::try_from(options.len() / 4).expect("at most ten words");
    set_total_length(&mut longer);
    longer
}

/// An IPv6 frame with an extension header of eight bytes of each kind put in.
///
/// # Panics
///
/// If it gets longer than a packet can be.
pub fn extended_v6(frame: &[u8], kinds: &[u8]) -> Vec<u8> {
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

/// An IPv4 frame whose field of fragment flags and offset is `field`, of no packet that any
/// other fragment is of.
///
/// # Panics
///
/// If it has no IP header.
pub fn fragment_v4(frame: &[u8], field: u16) -> Vec<u8> {
    part_v4(frame, fresh(), field)
}

/// The same for IPv6, where a fragment header is put in.
///
/// # Panics
///
/// If it has no IP header.
pub fn fragment_v6(frame: &[u8], field: u16) -> Vec<u8> {
    part_v6(frame, fresh(), field)
}

/// A frame of either family in two fragments, the first with `first` bytes (a multiple of
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
    let is_v4 = frame[ETHERNET] >> 4 == 4;
    let (headers, payload) = frame.split_at(ETHERNET + if is_v4 { IPV4 } else { IPV6 });
    let (first, last) = payload.split_at(first);
    let [mut first, mut last] = [first, last].map(|part| [headers, part].concat());
    if is_v4 {
        set_total_length(&mut first);
        set_total_length(&mut last);
        [part_v4(&first, identification, MORE_V4), part_v4(&last, identification, offset)]
    } else {
        [part_v6(&first, identification, MORE_V6), part_v6(&last, identification, offset << 3)]
    }
}

fn part_v4(frame: &[u8], identification: u16, field: u16) -> Vec<u8> {
    let [i0, i1] = identification.to_be_bytes();
    let [f0, f1] = field.to_be_bytes();
    patched_v4(frame, 4, &[i0, i1, f0, f1])
}

fn part_v6(frame: &[u8], identification: u16, field: u16) -> Vec<u8> {
    let [i0, i1] = identification.to_be_bytes();
    let [f0, f1] = field.to_be_bytes();
    patched_v6(&extended_v6(frame, &[FRAGMENT]), IPV6 + 2, &[f0, f1, 0, 0, i0, i1])
}

/// What tells the fragments of one packet from those of others.
fn fresh() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A TCP frame without options of either family with these flags.
///
/// # Panics
///
/// If it is too short to be one.
pub fn flagged(frame: &[u8], flags: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let tcp = ETHERNET + if frame[ETHERNET] >> 4 == 4 { IPV4 } else { IPV6 };
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

/// Two bytes, of which the second may be missing.
fn word(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame.get(at + 1).copied().unwrap_or(0)])
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

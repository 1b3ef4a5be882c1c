//! Traffic for the benchmark: frames of 64 bytes that differ in source and step.
//!
//! A pattern is written by the benchmark and read by XDP programs that only the benchmark loads.
//! Checksums are right, so a real host would take the frames.

pub use crate::abi::{Pattern, STEPS};
use crate::sequence::{Protocol, Step};

/// Bytes of a frame on Ethernet, without the frame check sequence.
pub const FRAME: usize = 64;
/// Offset of the IPv4 header.
pub const IPV4: usize = 14;
/// Offset of the transport header.
pub const TRANSPORT: usize = IPV4 + 20;
impl Pattern {
    /// Describes frames from `mask + 1` sources. They cycle through `steps`; without steps, each
    /// has a random UDP port.
    ///
    /// # Panics
    ///
    /// If there are more than [`STEPS`] steps.
    pub fn new(source: u32, mask: u32, random: bool, steps: &[Step]) -> Self {
        let mut step = [0; STEPS];
        for (index, one) in step.iter_mut().zip(steps) {
            *index = one.index();
        }
        assert!(steps.len() <= STEPS, "at most {STEPS} steps");
        let steps = steps.len() as u32;
        Self { round: 0, turn: 0, source, mask, random: random.into(), steps, step }
    }

    /// Returns source address and step of the next frame, given a random number.
    #[inline(always)]
    pub fn next(&mut self, chance: u32) -> (u32, Step) {
        let (round, turn) = (self.round, self.turn);
        if turn + 1 < self.steps {
            self.turn = turn + 1;
        } else {
            self.turn = 0;
            self.round = round.wrapping_add(1);
        }
        let which = if self.random == 0 { round } else { chance };
        let source = self.source | (which & self.mask);
        let step = match self.steps {
            0 => Step::new(Protocol::Udp, (chance >> 16) as u16 ^ chance as u16),
            _ => Step::from_index(self.step[turn as usize % STEPS]),
        };
        (source, step)
    }
}

/// Returns the IPv4 header of a frame, given the one before it. Its addresses stay but for the
/// source, and its checksum is right (RFC 791).
#[inline(always)]
pub fn ipv4_header(before: &[u8; 20], source: u32, protocol: Protocol) -> [u8; 20] {
    let mut header = *before;
    header[9] = protocol.number();
    [header[12], header[13], header[14], header[15]] = source.to_be_bytes();
    [header[10], header[11]] = [0; 2];
    let mut sum = 0;
    for word in 0..10 {
        sum += u16::from_be_bytes([header[word * 2], header[word * 2 + 1]]) as u32;
    }
    [header[10], header[11]] = (!fold(sum)).to_be_bytes();
    header
}

/// Returns the transport header for the 30 bytes behind an IPv4 header, padded with zeros to 20
/// bytes and followed by ten. It is an opening SYN or a datagram, with its checksum.
#[inline(always)]
pub fn transport_header(step: Step, source: u32, destination: u32, from_port: u16) -> [u8; 20] {
    const LENGTH: u16 = (FRAME - TRANSPORT) as u16;
    let mut header = [0; 20];
    [header[0], header[1]] = from_port.to_be_bytes();
    [header[2], header[3]] = step.port.to_be_bytes();
    let mut sum = pseudo_header_sum(source, destination, step.protocol, LENGTH);
    sum += from_port as u32 + step.port as u32;
    match step.protocol {
        Protocol::Tcp => {
            const OFFSET_AND_SYN: u16 = 0x5002;
            const WINDOW: u16 = 64_240;
            [header[12], header[13]] = OFFSET_AND_SYN.to_be_bytes();
            [header[14], header[15]] = WINDOW.to_be_bytes();
            sum += OFFSET_AND_SYN as u32 + WINDOW as u32;
            [header[16], header[17]] = (!fold(sum)).to_be_bytes();
        }
        Protocol::Udp => {
            [header[4], header[5]] = LENGTH.to_be_bytes();
            sum += LENGTH as u32;
            // RFC 768: a checksum of zero means that there is none. Zero is sent in its other form.
            let checksum = match !fold(sum) {
                0 => 0xffff,
                checksum => checksum,
            };
            [header[6], header[7]] = checksum.to_be_bytes();
        }
    }
    header
}

/// Returns the sum of the words of an IPv4 pseudo header (RFC 768, RFC 9293).
#[inline(always)]
fn pseudo_header_sum(source: u32, destination: u32, protocol: Protocol, length: u16) -> u32 {
    let halves = |address: u32| (address >> 16) + (address & 0xffff);
    halves(source) + halves(destination) + protocol.number() as u32 + length as u32
}

/// Folds a sum of fewer than 65,536 words (RFC 1071).
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const A: Step = Step::new(Protocol::Tcp, 7000);
    const B: Step = Step::new(Protocol::Udp, 8000);

    #[test]
    fn every_source_sends_all_steps_in_order() {
        let mut pattern = Pattern::new(0x0a00_0000, 0xff, false, &[A, B]);
        let frames: Vec<_> = (0..4).map(|_| pattern.next(7)).collect();
        let expected = [(0x0a00_0000, A), (0x0a00_0000, B), (0x0a00_0001, A), (0x0a00_0001, B)];
        assert_eq!(frames, expected);
    }

    proptest! {
        /// The sum over pseudo header and segment is all ones if the checksum is right.
        #[test]
        fn checksums_are_right(
            source: u32, destination: u32, from_port: u16, port: u16, udp: bool,
        ) {
            let step = Step::new(if udp { Protocol::Udp } else { Protocol::Tcp }, port);
            let transport = transport_header(step, source, destination, from_port);
            let mut sum = pseudo_header_sum(source, destination, step.protocol, 30);
            for pair in transport.chunks(2) {
                sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
            }
            prop_assert_eq!(fold(sum), 0xffff);

            let mut before = [0; 20];
            before[0] = 0x45;
            before[16..].copy_from_slice(&destination.to_be_bytes());
            let header = ipv4_header(&before, source, step.protocol);
            let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
            prop_assert_eq!(fold(words.sum()), 0xffff);
            prop_assert_eq!(&header[12..16], &source.to_be_bytes()[..]);
        }
    }
}

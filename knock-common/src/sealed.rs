//! The outside of a sealed knock: what can be checked without opening it.
//!
//! A sealed knock is one UDP datagram of [`SIZE`] bytes, the same for every key and every request:
//!
//! | bytes | contents |
//! |---|---|
//! | 0..8 | key id, random, the only plaintext |
//! | 8..16 | SipHash-2-4 tag over all other bytes |
//! | 16..24 | time in nanoseconds since 1970, masked |
//! | 24..56 | fresh bytes: nonce, or ephemeral public key |
//! | 56..184 | ciphertext with its authentication tag |
//!
//! `docs/sealed-knock.md` explains each of them.

use crate::abi::SEALED_SIZE;
pub use crate::abi::{Clock, Gate, SealedEvent};
use crate::siphash::SipKey;
use crate::source::Source;

/// Bytes of the datagram's payload.
pub const SIZE: usize = SEALED_SIZE;
/// Words of eight bytes in it.
pub const WORDS: usize = SIZE / 8;
/// Position of the fresh bytes.
pub const FRESH: core::ops::Range<usize> = 24..56;
/// Position of the ciphertext.
pub const CIPHERTEXT: core::ops::Range<usize> = 56..SIZE;

/// Positions of the words that are read one by one.
mod at {
    pub(super) const ID: usize = 0;
    pub(super) const TAG: usize = 1;
    pub(super) const TIME: usize = 2;
    pub(super) const FRESH: usize = 3;
}

/// Access to the words of a packet, little-endian, by position below [`WORDS`].
pub trait Words {
    /// Returns the word at this position.
    fn word(&self, position: usize) -> u64;
}

impl Words for [u8; SIZE] {
    fn word(&self, position: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self[position * 8..][..8]);
        u64::from_le_bytes(word)
    }
}

/// The end of a packet to a port of sealed knocks, as far as the kernel handles it.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Another length than [`SIZE`].
    WrongSize,
    /// No key has this id.
    UnknownKey,
    /// The tag does not fit this key.
    WrongTag,
    /// The time is too far from that of this host.
    WrongTime,
    /// Not newer than a knock that was accepted.
    Replayed,
    /// It passed, but the ring buffer was full.
    EventLost,
    /// It passed, and the agent will open it.
    Passed,
}

impl Fate {
    /// All ends, in the order of their discriminants.
    pub const ALL: [Self; 7] = [
        Self::WrongSize,
        Self::UnknownKey,
        Self::WrongTag,
        Self::WrongTime,
        Self::Replayed,
        Self::EventLost,
        Self::Passed,
    ];

    /// Returns the short name for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WrongSize => "sealed_wrong_size",
            Self::UnknownKey => "sealed_unknown_key",
            Self::WrongTag => "sealed_wrong_tag",
            Self::WrongTime => "sealed_wrong_time",
            Self::Replayed => "sealed_replayed",
            Self::EventLost => "sealed_event_lost",
            Self::Passed => "sealed_passed",
        }
    }
}

/// Words of eight bytes in a [`SealedEvent`]: two of the source, the time, those of the packet.
pub const EVENT_WORDS: usize = 3 + WORDS;

impl SealedEvent {
    /// Reads a record. Returns `None` if it has another size.
    pub fn from_bytes(record: &[u8]) -> Option<Self> {
        let (source, rest) = record.split_first_chunk::<16>()?;
        let (time_ns, rest) = rest.split_first_chunk::<8>()?;
        let packet = rest.try_into().ok()?;
        Some(Self { source: Source(*source), time_ns: u64::from_ne_bytes(*time_ns), packet })
    }
}

/// Returns the key id of a packet, as the key of a map.
#[inline(always)]
pub fn key_id<W: Words + ?Sized>(packet: &W) -> u64 {
    packet.word(at::ID)
}

/// Returns the tag that a packet should have: over all words but the tag itself.
#[inline(always)]
fn tag<W: Words + ?Sized>(packet: &W, key: SipKey) -> u64 {
    key.hash::<{ WORDS - 1 }>(|position| {
        packet.word(if position < at::TAG { position } else { position + 1 })
    })
}

/// Returns the mask of the time. Combined by exclusive or, it hides the time and shows it again. It
/// differs from packet to packet, because the fresh bytes do.
#[inline(always)]
fn mask<W: Words + ?Sized>(packet: &W, key: SipKey) -> u64 {
    key.hash::<1>(|_| packet.word(at::FRESH))
}

impl Gate {
    /// Checks the outside of a packet and returns the time that it states.
    ///
    /// `now_ns` is the wall clock. `window_ns` is how far a packet may be off it.
    ///
    /// # Errors
    ///
    /// The reason why the packet goes no further.
    #[inline(always)]
    pub fn check<W: Words + ?Sized>(
        &self,
        packet: &W,
        now_ns: u64,
        window_ns: u64,
    ) -> Result<u64, Fate> {
        if !tag_fits(packet, self.prefilter) {
            return Err(Fate::WrongTag);
        }
        let time_ns = shown_time(packet, self.prefilter);
        if now_ns.abs_diff(time_ns) > window_ns {
            return Err(Fate::WrongTime);
        }
        if time_ns <= self.newest_ns {
            return Err(Fate::Replayed);
        }
        Ok(time_ns)
    }
}

/// Returns whether the tag of a packet is right.
#[inline(always)]
pub fn tag_fits<W: Words + ?Sized>(packet: &W, key: SipKey) -> bool {
    tag(packet, key) == packet.word(at::TAG)
}

/// Returns the time that a packet states.
#[inline(always)]
pub fn shown_time<W: Words + ?Sized>(packet: &W, key: SipKey) -> u64 {
    packet.word(at::TIME) ^ mask(packet, key)
}

/// Writes the time into a packet that has its fresh bytes.
pub fn set_time(packet: &mut [u8; SIZE], key: SipKey, time_ns: u64) {
    let masked = time_ns ^ mask(packet, key);
    packet[at::TIME * 8..][..8].copy_from_slice(&masked.to_le_bytes());
}

/// Writes the tag into a packet that has all its other bytes.
pub fn set_tag(packet: &mut [u8; SIZE], key: SipKey) {
    let tag = tag(packet, key);
    packet[at::TAG * 8..][..8].copy_from_slice(&tag.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000_000_000_000;
    const WINDOW: u64 = 60_000_000_000;

    fn packet(fill: [u8; 32], key: SipKey, time_ns: u64) -> [u8; SIZE] {
        let mut packet = core::array::from_fn(|at| fill[at % 32].wrapping_add(at as u8));
        set_time(&mut packet, key, time_ns);
        set_tag(&mut packet, key);
        packet
    }

    #[test]
    fn the_layout_is_what_the_reader_expects() {
        assert_eq!((size_of::<Gate>(), size_of::<Clock>()), (24, 16));
        assert_eq!(size_of::<SealedEvent>(), EVENT_WORDS * 8);
        assert_eq!(SealedEvent::from_bytes(&[0; 207]), None);
        assert_eq!(SealedEvent::from_bytes(&[0; 209]), None);
        let mut record = [3; 208];
        record[..16].copy_from_slice(&Source::v4([192, 0, 2, 1]).0);
        record[16..24].copy_from_slice(&5u64.to_ne_bytes());
        let expected =
            SealedEvent { source: Source::v4([192, 0, 2, 1]), time_ns: 5, packet: [3; SIZE] };
        assert_eq!(SealedEvent::from_bytes(&record), Some(expected));
    }

    proptest! {
        #[test]
        fn what_was_finished_passes(fill: [u8; 32], key: [u8; 16], off in 0..=WINDOW) {
            let prefilter = SipKey::from_bytes(key);
            for time_ns in [NOW - off, NOW + off] {
                let packet = packet(fill, prefilter, time_ns);
                let gate = Gate { prefilter, newest_ns: time_ns - 1 };
                prop_assert_eq!(gate.check(&packet, NOW, WINDOW), Ok(time_ns));
                let gate = Gate { newest_ns: time_ns, ..gate };
                prop_assert_eq!(gate.check(&packet, NOW, WINDOW), Err(Fate::Replayed));
            }
        }

        #[test]
        fn far_off_times_are_refused(fill: [u8; 32], key: [u8; 16], off in WINDOW + 1..NOW) {
            let prefilter = SipKey::from_bytes(key);
            let gate = Gate { prefilter, newest_ns: 0 };
            for time_ns in [NOW - off, NOW + off] {
                let packet = packet(fill, prefilter, time_ns);
                prop_assert_eq!(gate.check(&packet, NOW, WINDOW), Err(Fate::WrongTime));
            }
        }

        #[test]
        fn every_flipped_bit_is_seen(fill: [u8; 32], key: [u8; 16]) {
            let prefilter = SipKey::from_bytes(key);
            let gate = Gate { prefilter, newest_ns: 0 };
            let packet = packet(fill, prefilter, NOW);
            for bit in 64..SIZE * 8 {
                let mut flipped = packet;
                flipped[bit / 8] ^= 1 << (bit % 8);
                prop_assert_eq!(gate.check(&flipped, NOW, WINDOW), Err(Fate::WrongTag));
            }
        }
    }
}

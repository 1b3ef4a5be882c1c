//! Rolling sequences: the steps of a key at a door in a slot of time.
//!
//! They are read off a stream of 32-bit little-endian words: HMAC-SHA256, under the derived key, of
//! a label, the slot, a block number and the door's name. A word that would favour some ports is
//! skipped, and so is a sequence that a port scan in order could meet.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use knock_common::sequence::{Protocol, Step};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::derive::{Label, derive};
use super::{Credential, Secret};

/// The length of a slot.
pub const SLOT: Duration = Duration::from_secs(30);

/// Returns the slot of a time in nanoseconds since 1970.
pub const fn slot_of(time_ns: u64) -> u64 {
    time_ns / SLOT.as_nanos() as u64
}

/// The settings of a rolling door, which both sides keep as they were when the key was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rolling {
    /// The ports that may be steps.
    pub ports: Ports,
    /// The number of steps.
    pub steps: u8,
    /// Whether steps are TCP or UDP at random, instead of all UDP.
    pub mixed: bool,
}

impl Rolling {
    /// The allowed numbers of steps.
    pub const STEPS: RangeInclusive<u8> = 3..=16;
    /// The default number of steps.
    pub const DEFAULT_STEPS: u8 = 5;
}

/// A range of ports without some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    low: u16,
    high: u16,
    /// In ascending order, all inside the range.
    without: Vec<u16>,
}

/// The reason why ports cannot be used for steps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    /// The text is not a range.
    #[error("`{0}` is not a range of ports: write 20000-32767, from 1 to 65535")]
    NoRange(String),
    /// Too few ports remain.
    #[error(
        "{0} ports are too few, because steps would be easy to guess: give {min} or more",
        min = Ports::FEWEST
    )]
    TooFew(u32),
}

impl Ports {
    /// The least number of ports. With fewer, guessing would be cheap.
    pub const FEWEST: u32 = 1024;

    /// Makes the set of the ports in `range` without those in `without`.
    ///
    /// # Errors
    ///
    /// If [`Ports::FEWEST`] do not remain.
    pub fn new(
        range: RangeInclusive<u16>,
        without: impl IntoIterator<Item = u16>,
    ) -> Result<Self, PortsError> {
        let (low, high) = range.into_inner();
        if low == 0 || low > high {
            return Err(PortsError::NoRange(format!("{low}-{high}")));
        }
        let mut without: Vec<u16> =
            without.into_iter().filter(|port| (low..=high).contains(port)).collect();
        without.sort_unstable();
        without.dedup();
        let ports = Self { low, high, without };
        match ports.count() {
            count if count < Self::FEWEST => Err(PortsError::TooFew(count)),
            _ => Ok(ports),
        }
    }

    /// Reads `20000-32767`.
    ///
    /// # Errors
    ///
    /// If the text is not a range of ports.
    pub fn parse_range(text: &str) -> Result<RangeInclusive<u16>, PortsError> {
        let parse = || {
            let (low, high) = text.split_once('-')?;
            let range = port(low)?..=port(high)?;
            (!range.is_empty()).then_some(range)
        };
        parse().ok_or_else(|| PortsError::NoRange(text.to_owned()))
    }

    /// Returns the range from the first port to the last.
    pub const fn range(&self) -> RangeInclusive<u16> {
        self.low..=self.high
    }

    /// Returns the ports in the range that are left out.
    pub fn without(&self) -> &[u16] {
        &self.without
    }

    fn count(&self) -> u32 {
        u32::from(self.high - self.low) + 1 - self.without.len() as u32
    }

    /// Returns the port at this place among those that remain.
    fn at(&self, place: u32) -> u16 {
        let mut port = u32::from(self.low) + place;
        for &without in &self.without {
            port += u32::from(u32::from(without) <= port);
        }
        port as u16
    }
}

/// Reads a decimal number without sign or leading zeros, from 1 to 65535.
pub(super) fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    digits.then(|| text.parse().ok()).flatten()
}

/// The generator of the steps of one key.
#[derive(Clone)]
pub struct Roller(Hmac<Sha256>);

impl fmt::Debug for Roller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Roller(hidden)")
    }
}

impl Roller {
    /// The least distance of two steps, so that none is among the other's neighbours, which are
    /// decoys.
    const APART: u16 = 8;

    /// Makes a generator for a device with this key. Returns `None` for a key pair: it has no
    /// sequences, because the host would have to hold the secret that makes them.
    pub fn new(credential: &Credential) -> Option<Self> {
        match credential {
            Credential::Shared(secret) => Some(Self::shared(secret)),
            Credential::Public { .. } => None,
        }
    }

    /// Makes a generator for the key with this secret.
    pub fn shared(secret: &Secret) -> Self {
        let key = derive(secret.expose(), Label::Rolling, &[]);
        // RFC 2104: a key shorter than a block is filled up with zeros.
        let mut block = Zeroizing::new([0; 64]);
        block[..Secret::LENGTH].copy_from_slice(key.expose());
        Self(Hmac::new((&*block).into()))
    }

    /// Returns the steps at `door` in `slot`.
    pub fn steps(&self, door: &str, slot: u64, rolling: &Rolling) -> Vec<Step> {
        let mut words = Stream { roller: self, door, slot, block: 0, words: [0; 8], used: 8 };
        loop {
            let steps: Vec<_> = (0..rolling.steps).map(|_| step(&mut words, rolling)).collect();
            if fits(&steps) {
                return steps;
            }
        }
    }

    fn block(&self, door: &str, slot: u64, block: u32) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(b"xknock v1 steps");
        mac.update(&slot.to_le_bytes());
        mac.update(&block.to_le_bytes());
        mac.update(door.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// An endless stream of words.
struct Stream<'a> {
    roller: &'a Roller,
    door: &'a str,
    slot: u64,
    block: u32,
    words: [u32; 8],
    used: usize,
}

impl Stream<'_> {
    fn next(&mut self) -> u32 {
        if self.used == self.words.len() {
            let block = self.roller.block(self.door, self.slot, self.block);
            let mut bytes = block.chunks_exact(4);
            self.words = std::array::from_fn(|_| {
                let word = bytes.next().and_then(|word| word.try_into().ok());
                u32::from_le_bytes(word.unwrap_or_default())
            });
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// Returns a number below `bound`, all with the same probability.
    fn below(&mut self, bound: u32) -> u32 {
        let fair = u32::MAX - (u32::MAX % bound + 1) % bound;
        loop {
            let word = self.next();
            if word <= fair {
                return word % bound;
            }
        }
    }
}

fn step(words: &mut Stream<'_>, rolling: &Rolling) -> Step {
    let udp = !rolling.mixed || words.below(2) == 0;
    let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
    Step::new(protocol, rolling.ports.at(words.below(rolling.ports.count())))
}

/// Whether the steps are far enough apart, and in no order in which a scan could meet them.
fn fits(steps: &[Step]) -> bool {
    let apart = steps.iter().enumerate().all(|(index, step)| {
        steps[..index].iter().all(|other| step.port.abs_diff(other.port) >= Roller::APART)
    });
    let ascends = steps.is_sorted_by_key(|step| step.port);
    let descends = steps.iter().rev().is_sorted_by_key(|step| step.port);
    apart && !ascends && !descends
}

/// Returns the time from `now_ns`, in nanoseconds since 1970, to the next slot.
pub fn until_next_slot(now_ns: u64) -> Duration {
    let slot = SLOT.as_nanos() as u64;
    Duration::from_nanos(slot - now_ns % slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rolling(mixed: bool) -> Rolling {
        let without = [20_000, 20_001, 25_000, 32_767, 9];
        let ports = Ports::new(20_000..=32_767, without).unwrap();
        Rolling { ports, steps: 5, mixed }
    }

    proptest! {
        #[test]
        fn steps_are_where_they_may_be(
            mut secret: [u8; 32], door in "[a-z]{1,20}", slot: u64, mixed: bool,
        ) {
            let rolling = rolling(mixed);
            let roller = Roller::shared(&Secret::take(&mut secret));
            let steps = roller.steps(&door, slot, &rolling);
            prop_assert_eq!(steps.len(), 5);
            for step in &steps {
                prop_assert!(rolling.ports.range().contains(&step.port));
                prop_assert!(!rolling.ports.without().contains(&step.port));
                prop_assert!(mixed || step.protocol == Protocol::Udp);
            }
            prop_assert!(fits(&steps));
            prop_assert_eq!(&roller.steps(&door, slot, &rolling), &steps);
            prop_assert_ne!(&roller.steps(&door, slot.wrapping_add(1), &rolling), &steps);
            prop_assert_ne!(&roller.steps(&format!("{door}x"), slot, &rolling), &steps);
        }

        /// The host keeps three slots, so any device whose clock is off by less than a slot
        /// is understood.
        #[test]
        fn slots_agree_between_client_and_agent(now_ns in 1u64 << 50.., off_s in -29i64..30) {
            let device = now_ns.saturating_add_signed(off_s * 1_000_000_000);
            prop_assert!(slot_of(device).abs_diff(slot_of(now_ns)) <= 1);
        }
    }

    #[test]
    fn every_port_is_as_likely_as_the_others() {
        let ports = Ports::new(30_000..=31_100, [30_500]).unwrap();
        let rolling = Rolling { ports, steps: 5, mixed: false };
        let roller = Roller::shared(&Secret::take(&mut [7; 32]));
        let mut seen = [0u32; 1101];
        for slot in 0..44_000 {
            for step in roller.steps("ssh", slot, &rolling) {
                seen[usize::from(step.port) - 30_000] += 1;
            }
        }
        assert_eq!(seen[500], 0);
        // 220,000 steps on 1,100 ports: 200 each, with a deviation of 14.
        for (place, count) in seen.into_iter().enumerate().filter(|(place, _)| *place != 500) {
            assert!((120..280).contains(&count), "{place}: {count}");
        }
    }

    #[test]
    fn useless_ranges_are_refused() {
        for text in ["", "1", "0-5000", "5000-1", "1-65536", "a-b", "01-5000", "+1-5000"] {
            assert!(Ports::parse_range(text).is_err(), "{text}");
        }
        assert_eq!(Ports::parse_range("20000-32767"), Ok(20_000..=32_767));
        assert_eq!(Ports::new(20_000..=21_023, [20_001]), Err(PortsError::TooFew(1023)));
    }
}

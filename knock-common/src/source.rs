//! The source: the address that a packet came from.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use crate::abi::Source;

impl Source {
    /// Returns the source of an IPv4 packet.
    #[inline(always)]
    pub const fn v4([a, b, c, d]: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// Returns the two halves, for hashing.
    #[inline(always)]
    pub const fn halves(&self) -> (u64, u64) {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.0;
        (u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p]))
    }

    /// Returns a keyed hash of the address, which places first steps.
    ///
    /// It need not be a cryptographic hash. Its value never leaves the kernel, and without `key` an
    /// attacker cannot choose addresses that share a bucket.
    #[inline(always)]
    pub const fn hash(&self, key: [u64; 2]) -> u64 {
        // Odd multipliers from splitmix64 (Steele, Lea, Flood 2014).
        const M1: u64 = 0xbf58_476d_1ce4_e5b9;
        const M2: u64 = 0x94d0_49bb_1331_11eb;
        let (high, low) = self.halves();
        let mut hash = (high ^ key[0]).wrapping_mul(M1);
        hash ^= hash >> 32;
        hash ^= low ^ key[1];
        hash = (hash ^ (hash >> 32)).wrapping_mul(M2);
        hash ^= hash >> 29;
        hash = hash.wrapping_mul(M1);
        hash ^ (hash >> 32)
    }
}

impl From<Source> for IpAddr {
    fn from(source: Source) -> Self {
        Ipv6Addr::from(source.0).to_canonical()
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Self(address.octets()),
        }
    }
}

impl From<Ipv4Addr> for Source {
    fn from(address: Ipv4Addr) -> Self {
        Self::v4(address.octets())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::string::ToString;

    #[test]
    fn families_print_as_people_write_them() {
        assert_eq!(Source::v4([192, 0, 2, 7]).to_string(), "192.0.2.7");
        let v6: IpAddr = "2001:db8::7".parse().unwrap();
        assert_eq!(Source::from(v6).to_string(), "2001:db8::7");
    }

    #[test]
    fn neighbouring_addresses_spread_over_buckets_and_fingerprints() {
        let key = [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321];
        let hashes = (0..=0xffffu16).map(|n| {
            let [a, b] = n.to_be_bytes();
            Source::v4([10, 0, a, b]).hash(key)
        });
        let (mut low, mut high) = (HashSet::new(), HashSet::new());
        for hash in hashes {
            low.insert(hash & 0xffff);
            high.insert(hash >> 48);
        }
        // 65,536 balls in as many bins fill 63% of them when thrown at random.
        assert!((40_000..43_000).contains(&low.len()), "{}", low.len());
        assert!((40_000..43_000).contains(&high.len()), "{}", high.len());
    }

    proptest! {
        #[test]
        fn an_address_survives_the_round_trip(address: IpAddr) {
            let IpAddr::V6(v6) = address else {
                prop_assert_eq!(IpAddr::from(Source::from(address)), address);
                return Ok(());
            };
            prop_assert_eq!(IpAddr::from(Source::from(address)), v6.to_canonical());
        }
    }
}

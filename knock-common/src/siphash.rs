//! SipHash-2-4 (Aumasson, Bernstein 2012) over a message of a fixed number of words.
//!
//! The length is a constant, so the number of rounds is one as well, and the kernel's verifier
//! reads a straight line.

pub use crate::abi::SipKey;

impl SipKey {
    /// Reads a key from its bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self([
            u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            u64::from_le_bytes([i, j, k, l, m, n, o, p]),
        ])
    }

    /// Returns the hash of `WORDS` little-endian words, which `word` returns by their position.
    #[inline(always)]
    pub fn hash<const WORDS: usize>(self, word: impl Fn(usize) -> u64) -> u64 {
        let Self([k0, k1]) = self;
        let mut state = State([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ]);
        for position in 0..WORDS {
            state.absorb(word(position));
        }
        // The last block holds the length in its highest byte; no bytes are left over.
        state.absorb((WORDS as u64 * 8) << 56);
        state.finish()
    }
}

impl core::fmt::Debug for SipKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SipKey(secret)")
    }
}

struct State([u64; 4]);

impl State {
    #[inline(always)]
    const fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.round();
        self.0[0] ^= word;
    }

    #[inline(always)]
    const fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.round();
        let [a, b, c, d] = self.0;
        a ^ b ^ c ^ d
    }

    #[inline(always)]
    const fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.0;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.0 = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher24;
    use std::format;

    fn ours<const WORDS: usize>(key: [u8; 16], words: &[u64; WORDS]) -> u64 {
        SipKey::from_bytes(key).hash::<WORDS>(|position| words[position])
    }

    fn theirs(key: [u8; 16], words: &[u64]) -> u64 {
        let bytes: std::vec::Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        SipHasher24::new_with_key(&key).hash(&bytes)
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_siphasher_crate(key: [u8; 16], words: [u64; 23]) {
            prop_assert_eq!(ours(key, &words), theirs(key, &words));
            let short = [words[0]];
            prop_assert_eq!(ours(key, &short), theirs(key, &short));
            prop_assert_eq!(ours::<0>(key, &[]), theirs(key, &[]));
        }
    }

    /// From the reference implementation: key 00..0f, message 00..07.
    #[test]
    fn it_gives_the_published_value() {
        let key = core::array::from_fn(|n| n as u8);
        let word = u64::from_le_bytes(core::array::from_fn(|n| n as u8));
        assert_eq!(ours(key, &[word]), 0x93f5_f579_9a93_2462);
    }

    #[test]
    fn a_key_does_not_print() {
        assert!(!format!("{:?}", SipKey([0xdead, 0xbeef])).contains(&format!("{}", 0xdead)));
    }
}

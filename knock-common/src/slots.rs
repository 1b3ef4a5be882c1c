//! The choice of which of a few shared words to overwrite, without a branch.
//!
//! In a flood of strangers the CPU would guess every comparison here wrongly, and the verifier
//! would follow both ways of each. So the compiler must not see that these are comparisons, or it
//! would make branches of them again. [`Word::opaque`] hides that.

use crate::word::Word;

/// How often a CPU looks again after it lost a race for one word.
pub(crate) const ATTEMPTS: usize = 4;

/// Writes `new` over the word with the greatest `priority`, which is below 2^60 and never 0.
/// Returns false if other CPUs kept changing that word. Takes at most eight words.
#[inline(always)]
pub(crate) fn replace<W: Word, const N: usize>(
    words: &[W; N],
    new: u64,
    priority: impl Fn(u64) -> u64,
) -> bool {
    const { assert!(N <= 8) };
    for _ in 0..ATTEMPTS {
        let (mut chosen, mut greatest) = (0u64, 0u64);
        for (index, word) in words.iter().enumerate() {
            let word = word.load();
            let ranked = priority(word) << 3 | index as u64;
            // All ones or zero.
            let larger = negative::<W>(greatest.wrapping_sub(ranked)).wrapping_neg();
            greatest ^= (greatest ^ ranked) & larger;
            chosen ^= (chosen ^ word) & larger;
        }
        let word = words.get(W::opaque(greatest & 7) as usize);
        if word.is_some_and(|word| word.swap(chosen, new)) {
            return true;
        }
    }
    false
}

/// Returns 1 if `number` is 0, else 0.
#[inline(always)]
pub(crate) fn is_zero<W: Word>(number: u64) -> u64 {
    negative::<W>(number.wrapping_sub(1) & !number)
}

/// Returns the highest bit of a difference: 1 if it is below zero.
#[inline(always)]
fn negative<W: Word>(difference: u64) -> u64 {
    W::opaque(difference) >> 63
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::HostWord;
    use proptest::prelude::*;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn the_greatest_gives_way(words: [u32; 7], new: u64) {
            let shared = words.map(|word| HostWord::new(word.into()));
            prop_assert!(replace(&shared, new, |word| word + 1));
            let greatest = words.iter().max().copied().map(u64::from);
            let changed: Vec<_> =
                (0..7).filter(|&n| shared[n].load() != u64::from(words[n])).collect();
            prop_assert!(changed.len() <= 1);
            for n in changed {
                prop_assert_eq!(Some(u64::from(words[n])), greatest);
                prop_assert_eq!(shared[n].load(), new);
            }
        }

        #[test]
        fn zero_is_distinguished_from_all_other_numbers(number: u64) {
            prop_assert_eq!(is_zero::<HostWord>(number), u64::from(number == 0));
            prop_assert_eq!(is_zero::<HostWord>(0), 1);
        }
    }
}

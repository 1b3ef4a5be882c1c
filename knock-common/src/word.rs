//! The words that several CPUs share.

/// A word of 64 bits that several CPUs share.
pub trait Word {
    /// Reads the word.
    fn load(&self) -> u64;
    /// Overwrites the word. Only for words of which any recent value is right.
    fn set(&self, new: u64);
    /// Replaces `old` by `new`. Returns false if the word did not hold `old` any more.
    fn swap(&self, old: u64, new: u64) -> bool;
    /// Returns the same number, but hides from the compiler what it is.
    fn opaque(number: u64) -> u64;
}

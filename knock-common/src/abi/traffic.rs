//! The value of `PATTERN`, which only the benchmark uses.

/// Steps that a pattern can cycle through.
pub const STEPS: usize = 4;

/// Describes the next frames. 40 bytes, no padding, host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// How often all steps were sent.
    pub round: u32,
    /// Position of the next step.
    pub turn: u32,
    /// The first source address.
    pub source: u32,
    /// Bits of the source address that vary.
    pub mask: u32,
    /// 1: sources at random; 0: each source sends all steps in order, then the next one.
    pub random: u32,
    /// Number of `step` entries in use; 0: a random UDP port for every frame.
    pub steps: u32,
    /// [`crate::sequence::Step::index`] of each step.
    pub step: [u32; STEPS],
}

//! The values of `KEYS` and `CLOCK`: what sealed knocks are checked with.

/// A key of SipHash: 16 bytes, read as two little-endian words.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SipKey(pub [u64; 2]);

/// What the kernel knows of a device's key. 24 bytes, no padding.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Key of the tag and of the mask.
    pub prefilter: SipKey,
    /// Time of the newest accepted knock, in nanoseconds since 1970.
    pub newest_ns: u64,
}

/// What the kernel knows of the wall clock. 16 bytes, no padding.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// What is added to `CLOCK_MONOTONIC` to get the nanoseconds since 1970.
    pub offset_ns: u64,
    /// How far the time of a packet may be off.
    pub window_ns: u64,
}

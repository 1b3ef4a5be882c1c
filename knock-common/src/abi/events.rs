//! The records in the ring buffers `EVENTS` and `SEALED`.

use super::{DoorId, Source};

/// One completed sequence: 32 bytes, no padding, host byte order.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The address that sent the sequence.
    pub source: Source,
    /// When the last step came, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The door that it opens.
    pub door: DoorId,
}

/// Bytes of the payload of a sealed knock.
pub const SEALED_SIZE: usize = 184;

/// A sealed knock that passed the detector's checks: 208 bytes, no padding.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedEvent {
    /// The address that sent it.
    pub source: Source,
    /// When it came, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The whole payload.
    pub packet: [u8; SEALED_SIZE],
}

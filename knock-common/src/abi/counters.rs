//! The value of `COUNTERS`.

/// Number of counters: one for each way in which a packet can end. `counters.rs` has their names.
pub const COUNTERS: usize = 31;

/// The counters of one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters(pub [u64; COUNTERS]);

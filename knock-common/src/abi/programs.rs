//! Names of the programs in the object.
//!
//! A test of the detector crate compares this list with the object.

/// The detector, for frames in one or more buffers.
pub const FRAGS: &str = "knock_frags";
/// The detector, for frames in one buffer.
pub const SINGLE_BUFFER: &str = "knock";
/// The benchmark's program that does nothing.
pub const EMPTY: &str = "empty";
/// The benchmark's program that changes the frame and does nothing else.
pub const VARY_EMPTY: &str = "vary_empty";
/// The benchmark's program that changes the frame and runs the detector on it.
pub const VARY_KNOCK: &str = "vary_knock";
/// The benchmark's program that changes the frame and sends it out.
pub const VARY_SEND: &str = "vary_send";

/// Every program.
pub const ALL: [&str; 6] = [FRAGS, SINGLE_BUFFER, EMPTY, VARY_EMPTY, VARY_KNOCK, VARY_SEND];

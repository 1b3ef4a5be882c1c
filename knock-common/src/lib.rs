//! What the XDP program and the agent must agree on, and every decision the
//! detector takes.
//!
//! Everything here is `no_std` and free of I/O: the same code runs in the kernel,
//! in unit tests on the host, and in the agent when it simulates a port scan
//! against a policy. What differs between those places comes in through two
//! traits: [`packet::Bytes`] (access to a frame) and [`detect::Store`] (the maps).

#![no_std]

#[cfg(any(test, feature = "simulate"))]
extern crate std;

pub mod counters;
pub mod detect;
pub mod event;
pub mod first;
pub mod packet;
pub mod progress;
pub mod sealed;
pub mod sequence;
#[cfg(any(test, feature = "simulate"))]
pub mod simulate;
pub mod siphash;
mod slots;
pub mod source;
pub mod traffic;

/// Version of all that is pinned: raise it when the key, the value or the meaning of a map
/// that outlives the agent changes. A newer agent then starts with maps of its own instead
/// of reading the old ones wrongly.
pub const LAYOUT: u32 = 2;

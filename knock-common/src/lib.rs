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

pub mod abi;
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

pub use self::abi::LAYOUT;

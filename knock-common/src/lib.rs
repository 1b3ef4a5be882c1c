//! The code that the XDP program and the agent share: the layout of everything that crosses the
//! line between the two, and every decision of the detector.
//!
//! All of it is `no_std` and free of I/O, so that the same code runs in the kernel and in tests on
//! the host. Two traits stand for what differs there: [`packet::Bytes`] for access to a frame, and
//! [`detect::Store`] for the maps. With the feature `simulate`, `simulate` has a detector with its
//! maps in memory, for tests and fuzz targets.

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
pub mod word;

pub use self::abi::LAYOUT;

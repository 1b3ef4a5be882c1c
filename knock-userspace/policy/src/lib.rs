//! The policy: the checked config, and its form for the detector.
//!
//! [`config`] turns a TOML file into a [`Policy`]. [`compile`] turns a policy into port classes and
//! one [`trie`] of all sequences, and refuses sequences that a [`scan`] would open. [`lockout`]
//! finds out whether enforcing a policy would close the caller's own SSH session. Everything is
//! pure except [`config::load`] and [`config::Draft::load`], which read a file.
#![forbid(unsafe_code)]

pub mod compile;
pub mod config;
pub mod lockout;
mod policy;
pub mod scan;
pub mod trie;

pub use policy::{
    Attach, Connections, Door, Grant, Knocks, Method, Mode, Policy, Service, UnknownDoor,
};

//! The agent `xknockd` and the client `xknock`.
//!
//! ARCHITECTURE.md is the map of these rooms.

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "agent")]
pub mod caller;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "agent")]
pub mod compile;
#[cfg(feature = "agent")]
pub mod config;
#[cfg(feature = "agent")]
pub mod control;
#[cfg(feature = "agent")]
pub mod firewall;
#[cfg(feature = "agent")]
pub mod interfaces;
#[cfg(feature = "agent")]
pub mod kernel;
#[cfg(feature = "agent")]
pub mod keyring;
#[cfg(feature = "keys")]
pub mod keys;
#[cfg(feature = "agent")]
pub mod lock;
#[cfg(feature = "agent")]
pub mod lockout;
#[cfg(feature = "agent")]
pub mod logging;
#[cfg(feature = "agent")]
pub mod places;
#[cfg(feature = "agent")]
pub mod policy;
#[cfg(feature = "agent")]
pub mod ports;
#[cfg(feature = "agent")]
pub mod scan;
#[cfg(feature = "agent")]
pub mod sockets;
#[cfg(feature = "agent")]
pub mod syscalls;
#[cfg(feature = "agent")]
pub mod trie;

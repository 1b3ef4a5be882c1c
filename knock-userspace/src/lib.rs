//! The agent `xknockd` and the client `xknock`.
//!
//! ARCHITECTURE.md is the map of these rooms.

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "agent")]
pub mod caller;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "policy")]
pub mod compile;
#[cfg(feature = "policy")]
pub mod config;
#[cfg(feature = "policy")]
pub mod control;
#[cfg(feature = "firewall")]
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
#[cfg(feature = "policy")]
pub mod lockout;
#[cfg(feature = "agent")]
pub mod logging;
#[cfg(feature = "agent")]
pub mod places;
#[cfg(feature = "policy")]
pub mod policy;
#[cfg(feature = "agent")]
pub mod ports;
#[cfg(feature = "policy")]
pub mod scan;
#[cfg(feature = "agent")]
pub mod sockets;
#[cfg(feature = "agent")]
pub mod syscalls;
#[cfg(feature = "policy")]
pub mod trie;

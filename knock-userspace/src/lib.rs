//! The agent `xknockd`.
//!
//! ARCHITECTURE.md is the map.
#![forbid(unsafe_code)]

pub mod agent;
pub mod caller;
pub mod control_socket;
pub mod instance_paths;
pub mod interfaces;
pub mod kernel_features;
pub mod keyring;
pub mod lock;
pub mod logging;
pub mod ports;
pub mod sockets;
pub mod syscalls;

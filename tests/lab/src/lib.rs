//! The network lab: hosts in throwaway network namespaces on one switch, the agent on one of them,
//! and the clients of users.
//!
//! Everything ends by itself: namespaces, processes and listeners live in values that take them
//! along when they are dropped, in a panic too. What a killed process leaves, the next one removes
//! (see [`leftovers`]).

pub mod agent;
pub mod clients;
pub mod config;
pub mod keys;
pub mod lab;
pub mod leftovers;
pub mod netns;
pub mod packet;
pub mod process;
pub mod services;
pub mod table;
pub mod unit;
pub mod wire;

pub use agent::{Agent, Config};
pub use config::ConfigText;
pub use lab::{Host, Lab};
pub use packet::Packet;

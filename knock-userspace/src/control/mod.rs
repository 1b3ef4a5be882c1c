//! How a running agent is spoken to: HTTP over a Unix socket, JSON both ways.
//!
//! `server` takes requests and hands them to the agent's event loop, `client` is what the
//! command line uses. docs/operations.md lists the requests.

#[cfg(feature = "agent")]
mod client;
mod messages;
#[cfg(feature = "agent")]
mod server;

#[cfg(feature = "agent")]
pub use client::{Client, ClientError};
pub use messages::{
    Caller, Done, Door, Fault, Grant, Interface, Open, Problem, Reply, Request, Revoke, Status, Try,
};
#[cfg(feature = "agent")]
pub use server::{Call, Inbox, Outbox, ServeError, Server, serve};

//! The control protocol of a running agent: HTTP over a Unix socket, JSON both ways.
//!
//! [`Request`] and [`Reply`] with their parts are the messages. [`Client`] is the side of the
//! command line. docs/operations.md lists the requests.
#![forbid(unsafe_code)]

mod client;
mod reply;
mod request;
mod time_text;

pub use client::{Client, ClientError};
pub use reply::{
    AttachedMode, Connections, Done, Door, Fault, Grant, Interface, Mode, Problem, Reply, Status,
};
pub use request::{Caller, Open, Request, Revoke, Try};

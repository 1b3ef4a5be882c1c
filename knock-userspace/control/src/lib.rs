//! The control protocol of a running agent: HTTP over a Unix socket, JSON both ways.
//!
//! [`Request`] and [`Reply`] with their parts are the messages, [`Client`] is the command line's
//! side of the socket. docs/operations.md lists the requests.
#![forbid(unsafe_code)]

mod client;
mod messages;

pub use client::{Client, ClientError};
pub use messages::{
    Caller, Done, Door, Fault, Grant, Interface, Open, Problem, Reply, Request, Revoke, Status, Try,
};

//! The errors that end the agent.

use knock_detector::DetectorError;
use knock_firewall::FirewallError;
use knock_policy::compile::CompileError;

use crate::interfaces::InterfaceError;

/// An error that ends the agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The process lacks capabilities.
    #[error(
        "missing {0}: start it as root, or give it these capabilities (setcap, systemd AmbientCapabilities)"
    )]
    Privilege(String),
    /// Neither the command line nor the config names an interface.
    #[error("no interface to watch: give `--interface NAME`, or `interfaces` in the config")]
    NoInterface,
    /// Another agent is running.
    #[error(transparent)]
    Lock(#[from] crate::lock::LockError),
    /// The control socket cannot be made.
    #[error(transparent)]
    Control(#[from] crate::control_socket::ServeError),
    /// The agent cannot enter its sandbox.
    #[error("cannot give up privileges: {0}")]
    Confine(String),
    /// The interfaces cannot be listed or followed.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The doors cannot be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The detector failed.
    #[error(transparent)]
    Detector(Box<DetectorError>),
    /// The firewall failed.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// procfs cannot be read.
    #[error("cannot read which ports this host uses: {0}")]
    Sockets(#[from] procfs::ProcError),
    /// An event source broke.
    #[error("cannot wait for events: {0}")]
    Io(#[from] std::io::Error),
}

impl From<DetectorError> for AgentError {
    fn from(error: DetectorError) -> Self {
        // The error may hold the verifier's log.
        Self::Detector(Box::new(error))
    }
}

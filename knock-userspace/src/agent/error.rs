//! Why the agent cannot start or go on.

use knock_detector::DetectorError;
use knock_firewall::FirewallError;
use knock_policy::compile::CompileError;

use crate::interfaces::InterfaceError;

/// An error that ends the agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Not enough privilege.
    #[error(
        "missing {0}: start it as root, or give it these capabilities (setcap, systemd AmbientCapabilities)"
    )]
    Privilege(String),
    /// No interface to watch.
    #[error("no interface to watch: give `--interface NAME`, or `interfaces` in the config")]
    NoInterface,
    /// Another agent is running.
    #[error(transparent)]
    Lock(#[from] crate::lock::LockError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] crate::control_socket::ServeError),
    /// The agent could not give up what it does not need.
    #[error("cannot give up privileges: {0}")]
    Confine(String),
    /// An interface is not as it should be.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The doors cannot be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The detector.
    #[error(transparent)]
    Detector(Box<DetectorError>),
    /// The firewall.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// procfs.
    #[error("cannot read which ports this host uses: {0}")]
    Sockets(#[from] procfs::ProcError),
    /// The event loop.
    #[error("cannot wait for events: {0}")]
    Io(#[from] std::io::Error),
}

impl From<DetectorError> for AgentError {
    fn from(error: DetectorError) -> Self {
        // It may hold what the verifier said.
        Self::Detector(Box::new(error))
    }
}

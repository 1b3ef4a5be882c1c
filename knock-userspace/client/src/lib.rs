//! The client: knocks over plain sockets, without root.
//!
//! [`Knock`] sends a sequence: a TCP step is a connection attempt, a UDP step an empty datagram.
//! [`Knocker`] knocks with a key, by the method of the door, and decides when to knock again.
//! [`Hosts`] is the user's list of hosts with their keys. [`Target`] resolves a host to one
//! address, and [`pipe()`] joins a connection with standard input and output.
#![forbid(unsafe_code)]

mod hosts;
mod knocker;
mod memory;
mod pipe;
mod reasons;
mod steps;
mod target;

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use knock_common::sequence::{Protocol, Step};
use socket2::{Domain, SockAddr, Socket, Type};

pub use hosts::{Host, Hosts, HostsError, Import};
pub use knocker::{KnockError, Knocker, OpenError, Wishes};
pub use pipe::{PipeError, pipe};
pub use reasons::Reasons;
pub use steps::{StepError, parse_steps};
pub use target::{Family, Target, TargetError};

/// A sequence to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knock {
    /// The address to knock on.
    pub target: Target,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The time between two steps.
    pub gap: Duration,
}

/// A step that could not be sent.
#[derive(Debug, thiserror::Error)]
#[error("cannot send {step} to {target}: {why}")]
pub struct SendError {
    step: Step,
    target: Target,
    why: io::Error,
}

impl Knock {
    /// Sends every step, and calls `on_step` after each.
    ///
    /// # Errors
    ///
    /// At the first step that the system refuses to send.
    pub fn send(&self, mut on_step: impl FnMut(Step)) -> Result<(), SendError> {
        let failed = |step| {
            let target = self.target;
            move |why| SendError { step, target, why }
        };
        for (index, &step) in self.steps.iter().enumerate() {
            // The socket stays open during the gap, so that its packet leaves even if a neighbour
            // must be found first. It is closed before TCP would repeat the SYN.
            let _socket = match step.protocol {
                Protocol::Tcp => tcp(self.target.with_port(step.port)),
                Protocol::Udp => udp(self.target.with_port(step.port)),
            }
            .map_err(failed(step))?;
            on_step(step);
            if index + 1 < self.steps.len() {
                sleep(self.gap);
            }
        }
        Ok(())
    }
}

/// Sends a SYN and does not wait for an answer.
fn tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::from(address)) {
        Ok(()) => Ok(socket),
        // A closed port on this host refuses at once.
        Err(error) if is_under_way(&error) || error.kind() == io::ErrorKind::ConnectionRefused => {
            Ok(socket)
        }
        Err(error) => Err(error),
    }
}

/// Whether a connection attempt goes on in the background (connect(2), EINPROGRESS).
#[cfg(unix)]
fn is_under_way(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINPROGRESS)
}

/// Whether a connection attempt goes on in the background (WSAEWOULDBLOCK).
#[cfg(not(unix))]
fn is_under_way(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Sends an empty datagram.
fn udp(address: SocketAddr) -> io::Result<Socket> {
    let socket = UdpSocket::bind(target::any(address))?;
    socket.send_to(&[], address)?;
    Ok(socket.into())
}

/// The result of trying to connect.
#[derive(Debug)]
pub enum Connected {
    /// The port answered, after this time.
    Open(TcpStream, Duration),
    /// The port refused the last attempt.
    Refused,
    /// The port did not answer the last attempt.
    Silent,
}

/// Tries to connect to `address` until it answers. Returns the time that this took, or `None` after
/// `limit`.
pub fn wait_open(address: SocketAddr, limit: Duration) -> Option<Duration> {
    match wait_connect(address, limit) {
        Connected::Open(_, took) => Some(took),
        Connected::Refused | Connected::Silent => None,
    }
}

/// Tries to connect to `address` until it answers, for at most `limit`.
pub fn wait_connect(address: SocketAddr, limit: Duration) -> Connected {
    /// The time that an agent needs to open the door, on a machine that is not busy.
    const GRANT: Duration = Duration::from_millis(1);
    const LONGEST_TRY: Duration = Duration::from_secs(2);
    let started = Instant::now();
    let mut patience = Duration::from_millis(10);
    let mut refused = false;
    loop {
        sleep(GRANT);
        let Some(left) = limit.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) else {
            return if refused { Connected::Refused } else { Connected::Silent };
        };
        // A SYN that came before the grant was dropped, and TCP repeats it after a second. So
        // attempts are short at first, and grow until they outlast the round trip.
        let tried = Instant::now();
        let patient = patience.min(left);
        match TcpStream::connect_timeout(&address, patient) {
            Ok(stream) => return Connected::Open(stream, started.elapsed()),
            Err(error) => refused = error.kind() == io::ErrorKind::ConnectionRefused,
        }
        // A port that refuses does so at once, which is no reason to ask faster.
        sleep(patient.saturating_sub(tried.elapsed()).min(Duration::from_millis(20)));
        patience = (patience * 2).min(LONGEST_TRY);
    }
}

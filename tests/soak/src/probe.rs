//! Probes of many ports at once, by TCP connections and UDP datagrams.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use knock_lab::netns::Netns;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

/// A port that is not guarded.
pub(crate) const OPEN_PORT: u16 = 8080;

/// One probe: source, destination, and a service such as `tcp/22`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub from: IpAddr,
    pub to: IpAddr,
    pub service: String,
}

impl Target {
    fn parts(&self) -> (bool, u16) {
        let (protocol, port) = self.service.split_once('/').expect("a service");
        (protocol == "tcp", port.parse().expect("a port"))
    }
}

/// Returns the targets that answer from `netns`. It waits for all of them, up to `limit`.
pub(crate) fn answering(netns: &Netns, targets: Vec<Target>, limit: Duration) -> Vec<Target> {
    netns.run(move || {
        let mut tries: Vec<_> = targets.into_iter().map(Try::begin).collect();
        wait(&mut tries, Instant::now() + limit, |tries| tries.iter().all(|one| one.ended));
        tries.into_iter().filter(|one| one.open).map(|one| one.target).collect()
    })
}

/// Returns the targets that answer from `netns` before ports that are not guarded have answered.
/// Those are tried last, so an answer that is not there when theirs are would not have come.
pub(crate) fn answering_before_open_ports(
    netns: &Netns,
    targets: Vec<Target>,
    limit: Duration,
) -> Result<Vec<Target>, String> {
    /// For answers that were overtaken on another CPU.
    const GRACE: Duration = Duration::from_millis(10);
    let mut ways: Vec<(IpAddr, IpAddr)> = targets.iter().map(|one| (one.from, one.to)).collect();
    ways.sort_unstable();
    ways.dedup();
    let open = ways.into_iter().flat_map(|(from, to)| {
        let service = |protocol| format!("{protocol}/{OPEN_PORT}");
        ["tcp", "udp"].map(|protocol| Target { from, to, service: service(protocol) })
    });
    let open: Vec<_> = open.collect();
    netns.run(move || {
        let guarded = targets.len();
        let mut tries: Vec<_> = targets.into_iter().chain(open).map(Try::begin).collect();
        let deadline = Instant::now() + limit;
        wait(&mut tries, deadline, |tries| tries[guarded..].iter().all(|one| one.open));
        wait(&mut tries, Instant::now() + GRACE, |_| false);
        if let Some(silent) = tries[guarded..].iter().find(|one| !one.open) {
            return Err(format!("{:?} does not answer, although it is not guarded", silent.target));
        }
        tries.truncate(guarded);
        Ok(tries.into_iter().filter(|one| one.open).map(|one| one.target).collect())
    })
}

/// One attempt.
struct Try {
    target: Target,
    socket: Socket,
    tcp: bool,
    ended: bool,
    open: bool,
}

impl Try {
    fn begin(target: Target) -> Self {
        let (tcp, port) = target.parts();
        let kind = if tcp { Type::STREAM } else { Type::DGRAM };
        let protocol = if tcp { Protocol::TCP } else { Protocol::UDP };
        let domain = Domain::for_address((target.to, port).into());
        let socket = Socket::new(domain, kind, Some(protocol)).expect("a socket");
        socket.set_nonblocking(true).expect("a socket option");
        let mut one = Self { target, socket, tcp, ended: false, open: false };
        // While an address or a route is being set up, an attempt fails at once.
        let from = SocketAddr::new(one.target.from, 0);
        let bound = one.socket.bind(&from.into());
        let to = SocketAddr::new(one.target.to, port);
        let begun = bound.and_then(|()| match one.socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => Ok(()),
            result => result,
        });
        one.ended = begun.is_err();
        if !tcp && !one.ended {
            one.ended = one.socket.send(b"ping").is_err();
        }
        one
    }

    const fn awaited(&self) -> PollFlags {
        if self.tcp { PollFlags::POLLOUT } else { PollFlags::POLLIN }
    }

    fn look(&mut self) {
        if self.tcp {
            self.open = matches!(self.socket.take_error(), Ok(None));
            self.ended = true;
            return;
        }
        let mut answer = [0; 8];
        let socket: UdpSocket = self.socket.try_clone().expect("a descriptor").into();
        match socket.recv(&mut answer) {
            Ok(length) => (self.open, self.ended) = (&answer[..length] == b"ping", true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.ended = true,
        }
    }
}

impl AsFd for Try {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn wait(tries: &mut [Try], deadline: Instant, enough: impl Fn(&[Try]) -> bool) {
    while !enough(tries) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let under_way: Vec<_> = (0..tries.len()).filter(|&at| !tries[at].ended).collect();
        let ready: Vec<usize> = {
            let fd = |&at: &usize| PollFd::new(tries[at].as_fd(), tries[at].awaited());
            let mut fds: Vec<_> = under_way.iter().map(fd).collect();
            // Rounded up, so that the last millisecond is not spent polling without a wait.
            let left = PollTimeout::try_from(left + Duration::from_millis(1));
            let _ = poll(&mut fds, left.unwrap_or(PollTimeout::MAX));
            let ready = |(&at, fd): (&usize, &PollFd<'_>)| fd.any()?.then_some(at);
            under_way.iter().zip(&fds).filter_map(ready).collect()
        };
        ready.into_iter().for_each(|at| tries[at].look());
    }
}

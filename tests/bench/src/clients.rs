//! Honest clients: knock, then probe until the service answers.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use knock_lab::Lab;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// The ports of the steps that every subject of the benchmark is set up for, all UDP.
pub(crate) const KNOCKS: [u16; 3] = [7000, 8000, 4500];
/// The UDP port of the service behind them.
pub(crate) const SERVICE: u16 = 5353;

/// Gives the client `count` more addresses, and the server a way back to them.
pub(crate) fn addresses(lab: &Lab, count: u8) {
    lab.server.ip("route add 10.77.1.0/24 dev eth0");
    for n in 0..count {
        lab.client.ip(&format!("address add 10.77.1.{n}/32 dev eth0"));
    }
    // Under a flood, the answer to an ARP request may come too late, and the knock is what is
    // measured.
    let mac = |host: &knock_lab::Host| host.mac().map(|byte| format!("{byte:02x}")).join(":");
    let (server, its) = (lab.server.v4, mac(&lab.server));
    lab.client.ip(&format!("neighbour replace {server} lladdr {its} dev eth0"));
    let client = mac(&lab.client);
    for n in 0..count {
        lab.server.ip(&format!("neighbour replace 10.77.1.{n} lladdr {client} dev eth0"));
    }
}

/// Knocks from 10.77.1.`n` with `gap` between two steps. Returns the milliseconds from the last
/// step to the first answer of the service, or `None` if there is no answer within `patience`.
pub(crate) fn knock(n: u8, server: IpAddr, gap: Duration, patience: Duration) -> Option<f64> {
    let source: IpAddr = [10, 77, 1, n].into();
    let socket = UdpSocket::bind((source, 0)).expect("an address of this host");
    let to = |port| SocketAddr::new(server, port);
    for (index, port) in KNOCKS.into_iter().enumerate() {
        if index > 0 && !gap.is_zero() {
            // The pace of the knock, which is what is varied.
            std::thread::sleep(gap);
        }
        // Errors are answers of closed ports, reported late.
        let _ = socket.send_to(b"k", to(port)).or_else(|_| socket.send_to(b"k", to(port)));
    }
    socket.set_nonblocking(true).expect("a socket option");
    let started = Instant::now();
    let (mut next_probe, mut wait) = (started, Duration::from_micros(20));
    let mut answer = [0; 16];
    while started.elapsed() < patience {
        if Instant::now() >= next_probe {
            let _ = socket.send_to(b"ping", to(SERVICE));
            next_probe = Instant::now() + wait;
            // Often at first, so that the figure is exact, and then less often, so that probes are
            // no flood.
            wait = (wait + wait / 32).min(Duration::from_millis(5));
        }
        if socket.recv_from(&mut answer).is_ok_and(|(_, from)| from == to(SERVICE)) {
            return Some(started.elapsed().as_secs_f64() * 1000.0);
        }
        if wait > Duration::from_millis(1) {
            await_readable(&socket, next_probe.saturating_duration_since(Instant::now()));
        }
    }
    None
}

/// Waits for a datagram for at most `limit`.
fn await_readable(socket: &UdpSocket, limit: Duration) {
    let mut descriptors = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    // An interruption only makes the caller look sooner.
    let _ = ppoll(&mut descriptors, Some(TimeSpec::from_duration(limit)), None);
}

//! Services behind the guard, and probes of them from outside.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::netns::Netns;
use crate::process::{patience, slowness};

/// The time that a probe waits before it takes a port for closed. An answer within one machine
/// takes well under a millisecond, so a wrong grant cannot hide behind this.
const PROBE: Duration = Duration::from_millis(400);

fn probe() -> Duration {
    PROBE * slowness()
}

/// A server that echoes over TCP and UDP on one port.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// Starts it in `netns`. It answers from then on.
    ///
    /// # Panics
    ///
    /// If the port is taken.
    pub fn start(netns: &Netns, port: u16) -> Self {
        let (tcp, udp) = netns.run(move || {
            let any: IpAddr = [0u16; 8].into();
            (
                TcpListener::bind((any, port)).expect("bind"),
                UdpSocket::bind((any, port)).expect("bind"),
            )
        });
        let stop = Arc::new(AtomicBool::new(false));
        tcp.set_nonblocking(true).expect("a socket option");
        udp.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket option");
        let threads = vec![
            thread::spawn({
                let stop = Arc::clone(&stop);
                move || accept(&tcp, &stop)
            }),
            thread::spawn({
                let stop = Arc::clone(&stop);
                move || datagrams(&udp, &stop)
            }),
        ];
        Self { stop, threads }
    }
}

fn accept(tcp: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match tcp.accept() {
            Ok((stream, _)) => {
                thread::spawn(move || echo(stream));
            }
            Err(_) => wait_readable(tcp),
        }
    }
}

/// Waits a little while for a connection.
fn wait_readable(tcp: &TcpListener) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd as _;
    let mut descriptors = [PollFd::new(tcp.as_fd(), PollFlags::POLLIN)];
    let _ = poll(&mut descriptors, PollTimeout::from(50u8));
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 512];
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(patience()));
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
}

fn datagrams(udp: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&buffer[..length], from);
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Returns whether a TCP connection from `netns` succeeds.
pub fn tcp_open(netns: &Netns, address: IpAddr, port: u16) -> bool {
    connect(netns, address, port).is_some()
}

/// Returns a TCP connection from `netns`, if it succeeds.
pub fn connect(netns: &Netns, address: IpAddr, port: u16) -> Option<TcpStream> {
    netns.run(move || TcpStream::connect_timeout(&SocketAddr::new(address, port), probe()).ok())
}

/// Returns whether the TCP port refuses at once, as a closed port without a firewall does.
pub fn tcp_refuses(netns: &Netns, address: IpAddr, port: u16) -> bool {
    netns.run(move || {
        let result = TcpStream::connect_timeout(&SocketAddr::new(address, port), probe());
        result.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    })
}

/// Returns whether a datagram from `netns` is answered.
pub fn udp_open(netns: &Netns, address: IpAddr, port: u16) -> bool {
    netns.run(move || {
        let any: IpAddr = if address.is_ipv4() { [0u8; 4].into() } else { [0u16; 8].into() };
        let socket = UdpSocket::bind((any, 0)).expect("a socket");
        socket.set_read_timeout(Some(probe())).expect("a socket option");
        socket.connect((address, port)).expect("a route");
        let mut answer = [0; 16];
        socket.send(b"ping").is_ok()
            && socket.recv(&mut answer).is_ok_and(|n| &answer[..n] == b"ping")
    })
}

/// Returns whether the service echoes on this connection.
pub fn echoes(stream: &mut TcpStream) -> bool {
    let _ = stream.set_read_timeout(Some(probe() * 2));
    let mut answer = [0; 4];
    stream.write_all(b"ping").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && &answer == b"ping"
}

/// Waits until `condition` holds, where no event announces it: an element of a set expires in the
/// kernel, or another project's program makes progress.
///
/// # Panics
///
/// If it does not hold in time.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience();
    loop {
        let asked = Instant::now();
        if condition() {
            return;
        }
        assert!(asked < deadline, "{what} did not happen in time");
        // To ask all the time would take the processor from what is awaited. Half of it will do.
        thread::sleep(asked.elapsed().clamp(Duration::from_millis(1), Duration::from_secs(1)));
    }
}

//! Frames put on the wire with a packet socket, as they are.

use nix::libc;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, sendto, socket,
};
use nix::unistd::Pid;

use crate::lab::{Host, Lab, SERVER_PORT};
use crate::netns::Netns;

/// Puts frames on the wire at `from`, in order.
///
/// # Panics
///
/// If the kernel does not take one.
pub fn send(from: &Host, frames: Vec<Vec<u8>>) {
    send_at(from, "eth0", frames);
}

/// Puts frames on the server's wire, in order, right at its interface. On the way through the
/// switch, packets with a bad header may be dropped and a tag be taken off.
///
/// # Panics
///
/// If the kernel does not take one.
pub fn send_to_server(lab: &Lab, frames: Vec<Vec<u8>>) {
    send_at(lab.switch(), SERVER_PORT, frames);
}

fn send_at(netns: &Netns, interface: &'static str, frames: Vec<Vec<u8>>) {
    netns.run(move || {
        // Each CPU has a queue of its own, on which a frame could overtake another.
        let this_thread = Pid::from_raw(0);
        let mut one = CpuSet::new();
        one.set(sched_getcpu().expect("a cpu")).expect("a small number");
        sched_setaffinity(this_thread, &one).expect("this cpu alone");
        send_through(interface, &frames);
    });
}

/// Puts frames on the wire at `eth0` of the namespace of this thread.
///
/// # Panics
///
/// As [`send`].
pub fn send_here(frames: &[Vec<u8>]) {
    send_through("eth0", frames);
}

fn send_through(interface: &str, frames: &[Vec<u8>]) {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
        .expect("a packet socket");
    let index = nix::net::if_::if_nametoindex(interface).expect("the interface is there");
    let address = link_address(index);
    for frame in frames {
        let sent =
            sendto(std::os::fd::AsRawFd::as_raw_fd(&socket), frame, &address, MsgFlags::empty());
        assert_eq!(sent, Ok(frame.len()));
    }
}

/// packet(7): only the interface counts for sending whole frames.
fn link_address(index: u32) -> LinkAddr {
    let mut address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).expect("a small number"),
        sll_protocol: 0,
        sll_ifindex: i32::try_from(index).expect("a small number"),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    let pointer = (&raw mut address).cast_const().cast::<libc::sockaddr>();
    let length = u32::try_from(size_of::<libc::sockaddr_ll>()).expect("a small number");
    // SAFETY: the pointer is to a whole `sockaddr_ll` that lives until the end of this
    // function, and the length is its size.
    unsafe { LinkAddr::from_raw(pointer, Some(length)) }.expect("a link address")
}

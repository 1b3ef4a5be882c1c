//! The watch on the table: it reports changes by other programs.
//!
//! The kernel announces every change of the ruleset to the netlink group of nftables, object by
//! object, and at the end of each transaction the process that made it (`NFT_MSG_NEWGEN`).

use std::fmt;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::TABLE_NAME;
use super::error::FirewallError;
use super::message::HEADERS;
use super::socket::{Answer, answers};
use super::uapi::*;
use super::wire;

const DOING: &str = "watch the firewall";
/// `NFNLGRP_NFTABLES` of `linux/netfilter/nfnetlink.h`; groups are counted from 1.
const GROUP: u32 = 7;
/// The size of the receive queue. Another tool may change thousands of objects at once. If they do
/// not fit, the kernel reports the loss, which counts as a change.
const QUEUE: usize = 1 << 20;

/// The program that changed the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Culprit {
    /// The process as the kernel names it, or `None` if the kernel did not name it.
    process: Option<(u32, String)>,
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some((id, name)) => write!(f, "`{name}` (process {id})"),
            None => f.write_str("another tool"),
        }
    }
}

/// A socket that receives all changes of the ruleset.
#[derive(Debug)]
pub struct Watch {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
    /// The address of the socket whose changes are not reported.
    own: u32,
    /// Whether the transaction that is being received has touched the table.
    changed: bool,
    /// Whether the kernel has lost messages, and the queue was not empty since.
    lost: bool,
}

/// The meaning of one message.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// Nothing.
    None,
    /// Another program touched the table.
    Touched,
    /// A transaction of another program is complete.
    Complete(Culprit),
}

impl Watch {
    /// Listens in the network namespace of the calling thread. Changes made through the socket
    /// with the address `own` are left out.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or there is no event loop.
    pub fn open(own: u32) -> Result<Self, FirewallError> {
        let fail = |call| move |errno| FirewallError::socket(DOING, call, errno);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkNetFilter;
        let fd = socket::socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)
            .map_err(fail("socket"))?;
        // Without the privilege, the queue keeps the size that the system allows.
        let _ = socket::setsockopt(&fd, sockopt::RcvBufForce, &QUEUE);
        leave_out(&fd, own).map_err(fail("setsockopt"))?;
        let groups = 1 << (GROUP - 1);
        socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(fail("bind"))?;
        // SAFETY: the value owns the file descriptor, always names the same one, and is dropped
        // after it has been deregistered.
        let socket = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        let socket = socket.map_err(|error| {
            let errno = error.into_parts().1.raw_os_error().unwrap_or(0);
            FirewallError::socket(DOING, "epoll_ctl", Errno::from_raw(errno))
        })?;
        Ok(Self { socket, buffer: vec![0; 64 << 10], own, changed: false, lost: false })
    }

    /// Waits until another program has changed the table, or may have.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// If the socket fails.
    pub async fn changed(&mut self) -> Result<Culprit, FirewallError> {
        let fail = |call, errno| FirewallError::socket(DOING, call, errno);
        loop {
            let mut guard = self.socket.readable().await.map_err(|error| {
                fail("epoll_wait", Errno::from_raw(error.raw_os_error().unwrap_or(0)))
            })?;
            match socket::recv(guard.get_inner().as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => {
                    for message in answers(&self.buffer[..length]) {
                        match news(&message, self.own) {
                            News::None => {}
                            News::Touched => self.changed = true,
                            News::Complete(culprit) if std::mem::take(&mut self.changed) => {
                                return Ok(culprit);
                            }
                            News::Complete(_) => {}
                        }
                    }
                }
                // What was lost is unknown, so the table may have changed.
                Err(Errno::EAGAIN) if std::mem::take(&mut self.lost) => {
                    return Ok(Culprit::default());
                }
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(Errno::EINTR) => {}
                // The kernel says so once, and delivers nothing more until the queue is empty
                // (`netlink_overrun`, `netlink_rcv_wake`). A look at the table before that would
                // miss what changes between the two.
                Err(Errno::ENOBUFS) => self.lost = true,
                Err(errno) => return Err(fail("recvmsg", errno)),
            }
        }
    }
}

/// Has the kernel leave out the changes that the socket with address `own` makes (socket(7),
/// `SO_ATTACH_FILTER`). One transaction of thousands of grants would overrun the queue, and each
/// overrun costs a look at the whole table.
fn leave_out(socket: &OwnedFd, own: u32) -> nix::Result<()> {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    // `nlmsg_pid` of `struct nlmsghdr` (netlink(7)), which a filter reads as if in network order.
    // All messages of a datagram are of one transaction.
    let mut filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 12),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, own.to_be()),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies `program`, and the instructions that it points to, before the call
    // returns. Both live longer than that, and the length is that of `program`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

/// Returns the meaning of a message. Every attribute list begins with the name of the table
/// (`NFTA_TABLE_NAME` and the like are all number 1), except that of a generation.
fn news(message: &Answer<'_>, own: u32) -> News {
    const NEWGEN: i32 = libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_NEWGEN;
    let Some((header, attributes)) = message.body.split_at_checked(HEADERS - 16) else {
        return News::None;
    };
    if message.port == own || message.kind >> 8 != libc::NFNL_SUBSYS_NFTABLES {
        return News::None;
    }
    if message.kind == NEWGEN {
        let id = wire::find(attributes, NFTA_GEN_PROC_PID).and_then(wire::as_u32);
        let name = wire::find(attributes, NFTA_GEN_PROC_NAME).and_then(wire::as_text);
        let process = id.zip(name.map(str::to_owned));
        return News::Complete(Culprit { process });
    }
    let ours = i32::from(header[0]) == super::FAMILY
        && wire::find(attributes, NFTA_TABLE_NAME).and_then(wire::as_text) == Some(TABLE_NAME);
    if ours { News::Touched } else { News::None }
}

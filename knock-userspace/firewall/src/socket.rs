//! The netlink socket to nftables: transactions and dumps.

use std::collections::HashSet;
use std::os::fd::{AsRawFd, OwnedFd};

use nftnl::Batch;
use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt,
};

use super::error::FirewallError;
use super::message::{HEADERS, Message};

/// The size of the receive buffer, more than the longest netlink message takes.
const RECEIVE: usize = 256 * 1024;
/// The size of the receive queue. Answers to a transaction stay there until they are read, and each
/// takes one small packet.
const RECEIVE_QUEUE: usize = 8 * 1024 * 1024;
/// The part of the send buffer that the kernel uses itself, rounded up generously.
const SEND_OVERHEAD: usize = 64 * 1024;
/// How often a dump is repeated because the ruleset changed meanwhile.
const DUMP_TRIES: usize = 16;
const NLMSG_HEADER: usize = 16;

/// A netlink socket to nftables.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    send_limit: usize,
    sequence: u32,
}

/// One message from the kernel.
pub(super) struct Answer<'a> {
    pub(super) kind: i32,
    flags: i32,
    sequence: u32,
    /// The address of the socket that asked the question or made the change.
    pub(super) port: u32,
    pub(super) body: &'a [u8],
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self, FirewallError> {
        let doing = "open the firewall";
        let fail = |call| move |errno| FirewallError::socket(doing, call, errno);
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket::socket(
            AddressFamily::Netlink,
            SockType::Raw,
            flags,
            SockProtocol::NetlinkNetFilter,
        )
        .map_err(fail("socket"))?;
        socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(fail("bind"))?;
        // Without the privilege, the queue keeps the size that the system allows, which is enough
        // for small batches.
        let _ = socket::setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_QUEUE);
        let send_limit = socket::getsockopt(&fd, sockopt::SndBuf).map_err(fail("getsockopt"))?;
        Ok(Self { fd, buffer: vec![0; RECEIVE], send_limit, sequence: 0 })
    }

    /// Returns the address that the kernel gave the socket.
    pub(super) fn port(&self) -> Result<u32, FirewallError> {
        let address: Result<NetlinkAddr, _> = socket::getsockname(self.fd.as_raw_fd());
        let address = address
            .map_err(|errno| FirewallError::socket("open the firewall", "getsockname", errno))?;
        Ok(address.pid())
    }

    /// Runs a batch as one transaction, which changes everything or nothing.
    ///
    /// `object` returns the name of the message at an index, for errors.
    pub(super) fn commit(
        &mut self,
        doing: &'static str,
        batch: Batch,
        object: impl Fn(usize) -> String,
    ) -> Result<(), FirewallError> {
        let batch = batch.finalize();
        let sequences = batch.sequence_numbers();
        let bytes = batch.iter().collect::<Vec<_>>().concat();
        self.discard_stale(doing)?;
        self.make_room(doing, bytes.len())?;
        self.send(doing, &bytes)?;

        // nf_tables works inside sendmsg(2), so every answer is in the queue by now.
        let begin_is_acked = begin_is_acked();
        let mut missing: HashSet<u32> = sequences.clone().collect();
        let mut refused = None;
        while let Some(length) = self.receive(doing, MsgFlags::MSG_DONTWAIT)? {
            for answer in answers(&self.buffer[..length]) {
                if answer.kind != libc::NLMSG_ERROR {
                    continue;
                }
                match answer.error(doing)? {
                    // When the kernel loads a module it starts over, and answers twice.
                    None => _ = missing.remove(&answer.sequence),
                    Some(errno) if refused.is_none() => refused = Some((answer.sequence, errno)),
                    Some(_) => {}
                }
            }
        }
        if let Some((sequence, errno)) = refused {
            let first = sequences.start + u32::from(begin_is_acked);
            let index = sequence.checked_sub(first).map(|index| index as usize);
            return Err(FirewallError::refused(doing, index.map(object), errno));
        }
        if !missing.is_empty() {
            return Err(FirewallError::Malformed { doing, what: "a message was not acknowledged" });
        }
        Ok(())
    }

    /// Sends a question and returns the attributes of each answer.
    pub(super) fn ask(
        &mut self,
        doing: &'static str,
        question: &Message,
    ) -> Result<Vec<Vec<u8>>, FirewallError> {
        for _ in 0..DUMP_TRIES {
            if let Some(found) = self.try_ask(doing, question)? {
                return Ok(found);
            }
        }
        Err(FirewallError::Malformed { doing, what: "the ruleset never stopped changing" })
    }

    /// Does the same once. Returns `None` if the ruleset changed while it was being read.
    fn try_ask(
        &mut self,
        doing: &'static str,
        question: &Message,
    ) -> Result<Option<Vec<Vec<u8>>>, FirewallError> {
        self.discard_stale(doing)?;
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        self.send(doing, &question.encode(sequence))?;
        let mut found = Vec::new();
        let mut interrupted = false;
        loop {
            let Some(length) = self.receive(doing, MsgFlags::empty())? else { continue };
            for answer in answers(&self.buffer[..length]) {
                if answer.sequence != sequence {
                    continue;
                }
                interrupted |= answer.flags & libc::NLM_F_DUMP_INTR != 0;
                match answer.kind {
                    libc::NLMSG_DONE => return Ok((!interrupted).then_some(found)),
                    libc::NLMSG_ERROR => {
                        return match answer.error(doing)? {
                            None => Ok(Some(found)),
                            Some(Errno::EINTR) => Ok(None),
                            Some(errno) => Err(FirewallError::refused(doing, None, errno)),
                        };
                    }
                    _ => {
                        found.extend(answer.attributes().map(<[u8]>::to_vec));
                    }
                }
            }
        }
    }

    /// Makes the send buffer large enough for a whole transaction, which is sent as one packet.
    fn make_room(&mut self, doing: &'static str, length: usize) -> Result<(), FirewallError> {
        let need = length + SEND_OVERHEAD;
        if need > self.send_limit {
            socket::setsockopt(&self.fd, sockopt::SndBufForce, &need).map_err(|errno| {
                FirewallError::socket(doing, "setsockopt(SO_SNDBUFFORCE)", errno)
            })?;
            self.send_limit = need;
        }
        Ok(())
    }

    /// Discards the answers that are left of an operation that failed halfway.
    fn discard_stale(&mut self, doing: &'static str) -> Result<(), FirewallError> {
        loop {
            match self.receive(doing, MsgFlags::MSG_DONTWAIT) {
                Ok(None) => return Ok(()),
                // The queue overflowed with answers that are not needed any more.
                Ok(Some(_)) | Err(FirewallError::Socket { errno: Errno::ENOBUFS, .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&self, doing: &'static str, bytes: &[u8]) -> Result<(), FirewallError> {
        let kernel = NetlinkAddr::new(0, 0);
        loop {
            match socket::sendto(self.fd.as_raw_fd(), bytes, &kernel, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(FirewallError::socket(doing, "sendmsg", errno)),
            }
        }
    }

    /// Receives a datagram into the buffer and returns its length. Returns `None` if nothing is
    /// queued and `flags` say not to wait.
    fn receive(
        &mut self,
        doing: &'static str,
        flags: MsgFlags,
    ) -> Result<Option<usize>, FirewallError> {
        loop {
            match socket::recv(self.fd.as_raw_fd(), &mut self.buffer, flags) {
                Ok(length) => return Ok(Some(length)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(FirewallError::socket(doing, "recvmsg", errno)),
            }
        }
    }
}

impl Answer<'_> {
    /// Returns what follows the header of nfnetlink, in an answer that is not an error.
    pub(super) fn attributes(&self) -> Option<&[u8]> {
        self.body.get(HEADERS - NLMSG_HEADER..)
    }

    /// Returns the error that an `NLMSG_ERROR` carries, or `None` if it is an acknowledgement.
    pub(super) fn error(&self, doing: &'static str) -> Result<Option<Errno>, FirewallError> {
        let code = self.body.first_chunk().map(|code| i32::from_ne_bytes(*code));
        match code {
            Some(0) => Ok(None),
            Some(code) => Ok(Some(Errno::from_raw(code.wrapping_neg()))),
            None => Err(FirewallError::Malformed { doing, what: "an error without a code" }),
        }
    }
}

/// Returns the answers in the datagram that one `recvmsg` returned.
pub(super) fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let header: &[u8; NLMSG_HEADER] = bytes.first_chunk()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, p0, p1, p2, p3] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = bytes.get(NLMSG_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer {
            kind: u16::from_ne_bytes([k0, k1]).into(),
            flags: u16::from_ne_bytes([f0, f1]).into(),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            port: u32::from_ne_bytes([p0, p1, p2, p3]),
            body,
        })
    })
}

/// Whether the begin message of a batch is acknowledged. Since Linux 6.10 (bf2ac490d28c) the begin
/// and end messages are acknowledged on request. nftnl requests it on those kernels, and then they
/// have sequence numbers of their own.
fn begin_is_acked() -> bool {
    Batch::new().finalize().sequence_numbers().len() == 2
}

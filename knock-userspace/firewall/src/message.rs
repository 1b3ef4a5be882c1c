//! Messages of nftables, and the only place that copies bytes to a C buffer.

use std::ffi::c_void;

use bytes::{BufMut as _, Bytes, BytesMut};
use nftnl::{MsgType, NlMsg};

use super::wire::Attributes;

/// The length of `struct nlmsghdr` and `struct nfgenmsg`.
pub(super) const HEADERS: usize = 16 + 4;

/// An nftables message that nftnl cannot express.
#[derive(Clone, Debug)]
pub(super) struct Message {
    kind: i32,
    flags: i32,
    family: u8,
    attributes: Bytes,
}

impl Message {
    /// Makes a message. `kind` is one of `NFT_MSG_*`, `flags` are `NLM_F_*` (request is implied).
    pub(super) fn new(kind: i32, flags: i32, family: i32, attributes: Attributes) -> Self {
        let family = u8::try_from(family).expect("families are small");
        Self { kind, flags, family, attributes: attributes.into_bytes() }
    }

    /// Returns the message as it goes over the wire.
    pub(super) fn encode(&self, sequence: u32) -> BytesMut {
        let length = HEADERS + self.attributes.len();
        let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | self.kind) as u16;
        let flags = (self.flags | libc::NLM_F_REQUEST) as u16;
        let mut bytes = BytesMut::with_capacity(length);
        bytes.put_u32_ne(length as u32);
        bytes.put_u16_ne(kind);
        bytes.put_u16_ne(flags);
        bytes.put_u32_ne(sequence);
        bytes.put_u32_ne(0);
        bytes.put_slice(&[self.family, libc::NFNETLINK_V0 as u8, 0, 0]);
        bytes.put_slice(&self.attributes);
        bytes
    }
}

// SAFETY: a message never exceeds `nft_nlmsg_maxsize`: its one long attribute has a
// 16-bit length, and the rest is far below the page that nftnl adds to that.
unsafe impl NlMsg for Message {
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, _: MsgType) {
        let bytes = self.encode(sequence);
        assert!(bytes.len() <= nftnl::nft_nlmsg_maxsize() as usize);
        // SAFETY: the caller gives room for `nft_nlmsg_maxsize` bytes, checked above, and
        // a buffer of nftnl cannot overlap a vector.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast(), bytes.len()) };
    }
}

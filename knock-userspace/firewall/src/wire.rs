//! Netlink attributes as bytes: safe writing, and reading that trusts nothing.
//!
//! The layout is `struct nlattr` of `linux/netlink.h`. Numbers inside nftables attributes are in
//! network byte order.

use bytes::{BufMut as _, Bytes, BytesMut};

/// The two top bits of an attribute type are flags (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const TYPE_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;
const HEADER: usize = 4;

/// Attributes in the making, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes(BytesMut);

impl Attributes {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    /// Adds a string with its closing zero, as the kernel wants it.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn u64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn nested(self, kind: u16, inner: Attributes) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    pub(super) fn push_nested(&mut self, kind: u16, inner: &Attributes) {
        self.push(kind | NESTED, &inner.0);
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.0.freeze()
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(HEADER + value.len()).expect("callers keep attributes short");
        self.0.put_u16_ne(length);
        self.0.put_u16_ne(kind);
        self.0.put_slice(value);
        self.0.put_bytes(0, self.0.len().next_multiple_of(4) - self.0.len());
    }
}

/// Returns the attributes in `bytes`, up to the first that does not fit.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = *bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & TYPE_MASK, value))
    })
}

/// Returns the value of the first attribute of this kind.
pub(super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(k, value)| (k == kind).then_some(value))
}

pub(super) fn as_u32(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

pub(super) fn as_u64(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

/// Returns a string up to its closing zero.
pub(super) fn as_text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.split(|byte| *byte == 0).next()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_back() {
        let inner = Attributes::new().u64(3, 7);
        let bytes = Attributes::new().text(1, "xknock").nested(2, inner).into_bytes();
        assert_eq!(find(&bytes, 1).and_then(as_text), Some("xknock"));
        let nested = find(&bytes, 2).expect("nested attribute");
        assert_eq!(find(nested, 3).and_then(as_u64), Some(7));
        assert_eq!(find(&bytes, 4), None);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes: Vec<u8>) {
            prop_assert!(attributes(&bytes).count() <= bytes.len() / HEADER);
        }
    }
}

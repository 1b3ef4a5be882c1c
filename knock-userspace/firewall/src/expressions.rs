//! Rule expressions on any register, which those of nftnl lack.
//!
//! A concatenated key is made by loading its fields into 4-byte registers side by side, from
//! `NFT_REG32_00` on.

use std::ffi::{CStr, c_void};
use std::net::IpAddr;
use std::ptr::NonNull;

use nftnl::Rule;
use nftnl::nftnl_sys as sys;

pub(super) const R0: u32 = libc::NFT_REG32_00 as u32;
pub(super) const R1: u32 = libc::NFT_REG32_01 as u32;

/// One expression, with its name in the kernel and its attributes as libnftnl numbers them.
#[derive(Clone)]
pub(super) struct Expression {
    name: &'static CStr,
    numbers: Vec<(u32, u32)>,
    data: Vec<(u32, Vec<u8>)>,
}

impl Expression {
    fn new(name: &'static CStr, numbers: &[(u32, u32)]) -> Self {
        Self { name, numbers: numbers.to_vec(), data: Vec::new() }
    }

    fn data(mut self, attribute: u32, bytes: &[u8]) -> Self {
        self.data.push((attribute, bytes.to_vec()));
        self
    }
}

impl nftnl::expr::Expression for Expression {
    fn to_expr(&self, _: &Rule<'_>) -> NonNull<sys::nftnl_expr> {
        // SAFETY: the name is a C string with static lifetime.
        let raw = unsafe { sys::nftnl_expr_alloc(self.name.as_ptr()) };
        let expr = NonNull::new(raw).expect("libnftnl knows this expression, and memory is left");
        for (attribute, value) in &self.numbers {
            // SAFETY: `expr` was just allocated, and nothing else refers to it.
            unsafe { sys::nftnl_expr_set_u32(expr.as_ptr(), *attribute as u16, *value) };
        }
        for (attribute, bytes) in &self.data {
            let (data, length) = (bytes.as_ptr().cast::<c_void>(), bytes.len() as u32);
            // SAFETY: as above; libnftnl copies `length` bytes and keeps no pointer.
            unsafe { sys::nftnl_expr_set(expr.as_ptr(), *attribute as u16, data, length) };
        }
        expr
    }
}

/// `meta KEY`, one of `NFT_META_*`.
pub(super) fn meta(key: i32, register: u32) -> Expression {
    let key = (sys::NFTNL_EXPR_META_KEY, key as u32);
    Expression::new(c"meta", &[key, (sys::NFTNL_EXPR_META_DREG, register)])
}

/// Bytes of the packet. A packet that lacks them does not match the rule.
pub(super) fn payload(base: i32, offset: u32, length: u32, register: u32) -> Expression {
    Expression::new(
        c"payload",
        &[
            (sys::NFTNL_EXPR_PAYLOAD_BASE, base as u32),
            (sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset),
            (sys::NFTNL_EXPR_PAYLOAD_LEN, length),
            (sys::NFTNL_EXPR_PAYLOAD_DREG, register),
        ],
    )
}

/// Offset and flags in an IPv6 fragment header. A packet without one does not match the rule.
pub(super) fn fragment_field(register: u32) -> Expression {
    const FRAGMENT: u8 = 44;
    Expression::new(
        c"exthdr",
        &[
            (sys::NFTNL_EXPR_EXTHDR_OFFSET, 2),
            (sys::NFTNL_EXPR_EXTHDR_LEN, 2),
            (sys::NFTNL_EXPR_EXTHDR_DREG, register),
        ],
    )
    .data(sys::NFTNL_EXPR_EXTHDR_TYPE, &[FRAGMENT])
}

/// `ct state`. A rule that reads it switches connection tracking on in the network namespace.
pub(super) fn ct_state(register: u32) -> Expression {
    let key = (sys::NFTNL_EXPR_CT_KEY, libc::NFT_CT_STATE as u32);
    Expression::new(c"ct", &[key, (sys::NFTNL_EXPR_CT_DREG, register)])
}

/// A constant.
pub(super) fn constant(register: u32, bytes: &[u8]) -> Expression {
    Expression::new(c"immediate", &[(sys::NFTNL_EXPR_IMM_DREG, register)])
        .data(sys::NFTNL_EXPR_IMM_DATA, bytes)
}

/// `register & mask`, in place.
pub(super) fn mask(register: u32, mask: &[u8]) -> Expression {
    Expression::new(
        c"bitwise",
        &[
            (sys::NFTNL_EXPR_BITWISE_SREG, register),
            (sys::NFTNL_EXPR_BITWISE_DREG, register),
            (sys::NFTNL_EXPR_BITWISE_LEN, mask.len() as u32),
        ],
    )
    .data(sys::NFTNL_EXPR_BITWISE_MASK, mask)
    .data(sys::NFTNL_EXPR_BITWISE_XOR, &vec![0; mask.len()])
}

/// `register == value`.
pub(super) fn equal(register: u32, value: &[u8]) -> Expression {
    compare(libc::NFT_CMP_EQ, register, value)
}

/// `register != value`.
pub(super) fn unequal(register: u32, value: &[u8]) -> Expression {
    compare(libc::NFT_CMP_NEQ, register, value)
}

/// `register >= value`.
pub(super) fn at_least(register: u32, value: &[u8]) -> Expression {
    compare(libc::NFT_CMP_GTE, register, value)
}

fn compare(how: i32, register: u32, value: &[u8]) -> Expression {
    let how = (sys::NFTNL_EXPR_CMP_OP, how as u32);
    Expression::new(c"cmp", &[how, (sys::NFTNL_EXPR_CMP_SREG, register)])
        .data(sys::NFTNL_EXPR_CMP_DATA, value)
}

/// Whether the key that starts in the first register is in this set.
pub(super) fn is_in(set: &CStr) -> Expression {
    Expression::new(c"lookup", &[(sys::NFTNL_EXPR_LOOKUP_SREG, R0)])
        .data(sys::NFTNL_EXPR_LOOKUP_SET, set.to_bytes_with_nul())
}

/// Whether the key that starts in the first register is not in this set.
pub(super) fn is_not_in(set: &CStr) -> Expression {
    let inverted = (sys::NFTNL_EXPR_LOOKUP_FLAGS, libc::NFT_LOOKUP_F_INV as u32);
    let mut lookup = is_in(set);
    lookup.numbers.push(inverted);
    lookup
}

/// Counts into a named counter.
pub(super) fn count(counter: &CStr) -> Expression {
    let kind = (sys::NFTNL_EXPR_OBJREF_IMM_TYPE, super::uapi::NFT_OBJECT_COUNTER);
    Expression::new(c"objref", &[kind])
        .data(sys::NFTNL_EXPR_OBJREF_IMM_NAME, counter.to_bytes_with_nul())
}

/// `meta l4proto . th dport`, from this register on.
pub(super) fn service(register: u32) -> [Expression; 2] {
    [
        meta(libc::NFT_META_L4PROTO, register),
        payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, register + 1),
    ]
}

/// Whether the packet is of the family of `like`. Its source address is in the first register then.
pub(super) fn source(like: IpAddr) -> [Expression; 3] {
    let (family, offset, length) = match like {
        IpAddr::V4(_) => (libc::NFPROTO_IPV4, 12, 4),
        IpAddr::V6(_) => (libc::NFPROTO_IPV6, 8, 16),
    };
    [
        meta(libc::NFT_META_NFPROTO, R0),
        equal(R0, &[family as u8]),
        payload(libc::NFT_PAYLOAD_NETWORK_HEADER, offset, length, R0),
    ]
}

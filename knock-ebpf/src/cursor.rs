//! Bounds-checked access to the bytes of a packet.

use aya_ebpf::programs::XdpContext;
use knock_common::packet::Bytes;

/// The linear part of a frame, where every driver puts the headers.
pub(crate) struct Frame {
    data: usize,
    data_end: usize,
}

impl Frame {
    #[inline(always)]
    pub(crate) fn new(context: &XdpContext) -> Self {
        Self { data: context.data(), data_end: context.data_end() }
    }
}

impl Bytes for Frame {
    #[inline(always)]
    fn get<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        let start = self.data + at;
        if start + N > self.data_end {
            return None;
        }
        // SAFETY: drivers place frames at even addresses (NET_IP_ALIGN), and every offset that the
        // parser asks for is even. It lets the compiler load whole words. If it were ever wrong,
        // such a load would be unaligned and still right.
        unsafe { core::hint::assert_unchecked(start.is_multiple_of(2)) };
        // SAFETY: `start` to `start + N` lies between `data` and `data_end`, which stay
        // valid while the program runs; an array of bytes needs no alignment.
        Some(unsafe { &*(start as *const [u8; N]) })
    }
}

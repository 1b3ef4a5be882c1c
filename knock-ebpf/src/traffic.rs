//! Programs for the benchmark, which the agent never loads. One does nothing. The others change the
//! frame before they do their work.

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::Array;
use aya_ebpf::programs::XdpContext;
use knock_common::traffic::{FRAME, IPV4, Pattern, TRANSPORT, ipv4_header, transport_header};

/// What the next frames are.
#[map]
static PATTERN: Array<Pattern> = Array::with_max_entries(1, 0);

/// Does nothing. The detector is compared with it.
#[xdp(frags)]
fn empty(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Changes the frame and does nothing with it.
#[xdp(frags)]
fn vary_empty(context: XdpContext) -> u32 {
    if vary(context.ctx) { XDP_PASS } else { XDP_ABORTED }
}

/// Changes the frame and runs the detector on it.
#[xdp(frags)]
fn vary_knock(context: XdpContext) -> u32 {
    if vary(context.ctx) { crate::watch(&context) } else { XDP_ABORTED }
}

/// Changes the frame and sends it out of the interface that it seems to come from.
#[xdp(frags)]
fn vary_send(context: XdpContext) -> u32 {
    if vary(context.ctx) { XDP_TX } else { XDP_ABORTED }
}

/// Writes the next source and step of the pattern into the frame. Returns false if the frame is too
/// short.
#[inline(never)]
fn vary(context: *mut xdp_md) -> bool {
    write_next(&XdpContext::new(core::hint::black_box(context))).is_some()
}

#[inline(always)]
fn write_next(context: &XdpContext) -> Option<()> {
    let pattern = PATTERN.get_ptr_mut(0)?;
    // SAFETY: one CPU runs the benchmark. With two, frames would repeat.
    let pattern = unsafe { &mut *pattern };
    // SAFETY: the helper takes no arguments.
    let chance = unsafe { bpf_get_prandom_u32() };
    let (source, step) = pattern.next(chance);
    let (start, end) = (context.data(), context.data_end());
    if start + FRAME > end {
        return None;
    }
    // SAFETY: the frame has `FRAME` bytes, which hold this header. Nothing else reads it while the
    // program runs, and frames begin at even addresses (see `cursor.rs`).
    let network = unsafe { &mut *((start + IPV4) as *mut Header) };
    // SAFETY: as above; the two headers do not overlap.
    let transport = unsafe { &mut *((start + TRANSPORT) as *mut Header) };
    let before = to_bytes(network);
    *network = to_words(&ipv4_header(&before, source, step.protocol));
    let destination = u32::from_be_bytes([before[16], before[17], before[18], before[19]]);
    *transport = to_words(&transport_header(step, source, destination, chance as u16 | 0x8000));
    Some(())
}

/// Twenty bytes as words, because the detector reads them so. A CPU that has written single bytes
/// waits before it can read them as words, and that would be measured.
type Header = [u16; 10];

#[inline(always)]
fn to_words(bytes: &[u8; 20]) -> Header {
    core::array::from_fn(|n| u16::from_ne_bytes([bytes[2 * n], bytes[2 * n + 1]]))
}

#[inline(always)]
fn to_bytes(words: &Header) -> [u8; 20] {
    core::array::from_fn(|n| words[n / 2].to_ne_bytes()[n % 2])
}

//! The XDP program that detects knocks.
//!
//! It is thin on purpose. The parser and every decision come from `knock-common`, where they are
//! tested on the host. This crate has the maps, the access to packet bytes and shared words, and
//! the order of work.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod cursor;
mod maps;
mod sealed;
mod trace;
mod traffic;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use knock_common::counters::Counter;
use knock_common::detect::Detection;
use knock_common::packet::{self, Candidate};
use knock_common::sequence::PortClass;

use crate::cursor::Frame;
use crate::maps::Maps;

/// Entry point for frames in one or more buffers.
#[xdp(frags)]
fn knock_frags(context: XdpContext) -> u32 {
    watch(&context)
}

/// Entry point for kernels before 5.18, where a program cannot ask for such frames.
#[xdp]
fn knock(context: XdpContext) -> u32 {
    watch(&context)
}

/// Handles one packet. It never drops one unless the agent asked for it, and never lets one in that
/// the firewall would not.
#[inline(always)]
fn watch(context: &XdpContext) -> u32 {
    let frame = Frame::new(context);
    let candidate = match packet::parse(&frame) {
        Ok(candidate) => candidate,
        Err(refusal) => return pass(Counter::Refused(refusal)),
    };
    let class = maps::class(candidate.step);
    if class.is_none() {
        return pass(Counter::NotAStep);
    }
    // From here on the candidate is one value that the compiler cannot look into. To keep its parts
    // over a look-up would cost places on a stack that is full: 512 bytes for this function and
    // all that it calls, and Linux 6.1 counts each function in units of 32.
    let packed = atomic::computed_here(candidate.pack());
    let Some(desk) = maps::desk() else {
        return XDP_PASS;
    };
    desk.candidate.set(packed);
    if maps::class(Candidate::unpack(packed).step).has(PortClass::SEALED) {
        return sealed::inspect(context.ctx);
    }
    detect(context.ctx)
}

/// Handles packets to a step or a decoy. It is a function of its own, so that all other packets do
/// not pay for its stack and registers.
///
/// The candidate lies on the desk. What comes out of a map is one unknown to the verifier, so it
/// reads this function once, and not once for every chain of headers.
#[inline(never)]
fn detect(context: *mut xdp_md) -> u32 {
    // If the compiler saw what is done with the pointer, it would load the packet's bounds in the
    // caller and hand those over. To the verifier they would be integers.
    let context = &XdpContext::new(core::hint::black_box(context));
    let frame = &Frame::new(context);
    let Some(desk) = maps::desk() else {
        return XDP_PASS;
    };
    let candidate = Candidate::unpack(desk.candidate.get());
    let class = maps::class(candidate.step);
    let source = match candidate.source(frame) {
        Ok(source) => source,
        Err(refusal) => return pass(Counter::Refused(refusal)),
    };
    let now_ns = maps::uptime_ns();
    let limits = maps::limits();
    let outcome =
        Detection::new(&Maps, limits, candidate.step, source, now_ns, &desk.notes).run(class);
    trace::outcome(context, &source, candidate.step, outcome);
    maps::count(Counter::Candidate(outcome));
    if outcome.matched() && maps::drop_knocks() { XDP_DROP } else { XDP_PASS }
}

#[inline(always)]
fn pass(counter: Counter) -> u32 {
    maps::count(counter);
    XDP_PASS
}

/// The licence. The kernel lends its GPL-only helpers to programs that name it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

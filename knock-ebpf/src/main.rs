//! The XDP program that detects knocks.
//!
//! It is thin on purpose: the parser and every decision come from `knock-common`,
//! where they are tested on the host. Here are the maps, the access to packet bytes
//! and shared words, and the order of work.

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

/// It never drops a packet unless the agent asked for it, and never lets one in that
/// the firewall would not: it only watches.
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
    // One value from here on, which the compiler knows nothing about: to keep its parts over a
    // look-up would cost places on a stack that is full. With what is called from here it may
    // have 512 bytes, and Linux 6.1 counts each function in units of 32.
    let packed = atomic::as_it_is(candidate.pack());
    let Some(desk) = maps::desk() else {
        return XDP_PASS;
    };
    desk.candidate.set(packed);
    if maps::class(Candidate::unpack(packed).step).has(PortClass::SEALED) {
        return sealed::look(context.ctx);
    }
    detect(context.ctx)
}

/// What is done for packets to a step or a decoy only. A function of its own, so that all
/// other packets do not pay for its stack and registers.
///
/// The candidate lies on the desk: what comes out of a map is one unknown to the verifier,
/// so it reads this function once, and not once for every chain of headers.
#[inline(never)]
fn detect(context: *mut xdp_md) -> u32 {
    // Were the compiler to see what is done with the pointer, it would load the packet's
    // bounds in the caller and hand those over, as integers in the verifier's eyes.
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

/// The kernel lends its GPL-only helpers to programs that name this licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

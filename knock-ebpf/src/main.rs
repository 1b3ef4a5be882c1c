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
mod trace;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
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
    detect(context, &frame, candidate, class)
}

/// What is done for packets to a step or a decoy only.
#[inline(always)]
fn detect(context: &XdpContext, frame: &Frame, candidate: Candidate, class: PortClass) -> u32 {
    let source = match candidate.source(frame) {
        Ok(source) => source,
        Err(refusal) => return pass(Counter::Refused(refusal)),
    };
    let Some(notes) = maps::notes() else {
        return XDP_PASS;
    };
    // SAFETY: the helper takes no arguments; it exists since Linux 5.11 (d05512618056).
    let now_ns = unsafe { bpf_ktime_get_coarse_ns() };
    let limits = maps::limits();
    let outcome = Detection::new(&Maps, limits, candidate.step, source, now_ns, notes).run(class);
    trace::outcome(context, source, candidate.step, outcome);
    maps::count(Counter::Candidate(outcome));
    if outcome.matched() && maps::drop_knocks() { XDP_DROP } else { XDP_PASS }
}

#[inline(always)]
fn pass(counter: Counter) -> u32 {
    maps::count(counter);
    XDP_PASS
}

/// A program that does nothing: what the benchmark compares the other one with. The
/// agent never attaches it.
#[xdp(frags)]
fn empty(_: XdpContext) -> u32 {
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

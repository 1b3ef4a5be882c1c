//! The checks of sealed knocks. Packets that are forged or old end here. The others go to the
//! agent, whole.

use core::arch::asm;
use core::mem::MaybeUninit;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, xdp_md};
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, RingBuf};
use aya_ebpf::programs::XdpContext;
use knock_common::counters::Counter;
use knock_common::packet::{Bytes as _, Candidate};
use knock_common::sealed::{Clock, EVENT_WORDS, Fate, Gate, SIZE, WORDS, Words, key_id};
use knock_common::source::Source;

use crate::cursor::Frame;
use crate::maps;

/// The gate of each key, by key id. Entries take memory when they are made.
#[map]
static KEYS: HashMap<u64, Gate> = HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

/// The wall clock.
#[map]
static CLOCK: Array<Clock> = Array::with_max_entries(1, 0);

/// Packets that passed, for the agent. There is room for 606 with their headers.
#[map]
static SEALED: RingBuf = RingBuf::with_byte_size(1 << 17, 0);

/// The payload of a datagram, read by whole words wherever it lies.
struct Payload<'a>(&'a [u8; SIZE]);

impl Words for Payload<'_> {
    #[inline(always)]
    fn word(&self, position: usize) -> u64 {
        let word: u64;
        // SAFETY: the word is inside the array. Its address need not be a multiple of eight, and
        // both architectures take that (HAVE_EFFICIENT_UNALIGNED_ACCESS). Without the instruction,
        // the compiler would put the word together from four loads.
        unsafe {
            asm!(
                "{word} = *(u64 *)({at} + 0)",
                word = out(reg) word,
                at = in(reg) self.0.as_ptr().wrapping_add(position * 8),
                options(pure, readonly),
            );
        }
        word
    }
}

/// Handles datagrams to a port of sealed knocks. It is a function of its own for the same reasons
/// as `detect`.
#[inline(never)]
pub(crate) fn inspect(context: *mut xdp_md) -> u32 {
    let context = &XdpContext::new(core::hint::black_box(context));
    let frame = &Frame::new(context);
    let Some(desk) = maps::desk() else {
        return XDP_PASS;
    };
    let candidate = Candidate::unpack(desk.candidate.get());
    let counter = match candidate.source(frame) {
        Ok(source) => match candidate.payload(frame) {
            Ok((at, length)) => Counter::Sealed(check(frame, source, at, length)),
            Err(refusal) => Counter::Refused(refusal),
        },
        Err(refusal) => Counter::Refused(refusal),
    };
    maps::count(counter);
    if maps::drop_knocks() { XDP_DROP } else { XDP_PASS }
}

#[inline(always)]
fn check(frame: &Frame, source: Source, at: usize, length: usize) -> Fate {
    if length != SIZE {
        return Fate::WrongSize;
    }
    let Some(payload) = frame.get::<SIZE>(at).map(Payload) else {
        return Fate::WrongSize;
    };
    // SAFETY: the agent replaces a gate as a whole. On a machine of 64 bits, a newest time that is
    // read while it changes is either of the two.
    let Some(gate) = (unsafe { KEYS.get(key_id(&payload)) }) else {
        return Fate::UnknownKey;
    };
    let Some(clock) = CLOCK.get(0) else {
        return Fate::WrongTime;
    };
    // SAFETY: the helper takes no arguments; it exists since Linux 5.11 (d05512618056).
    let now_ns = unsafe { bpf_ktime_get_coarse_ns() };
    let wall_ns = now_ns.wrapping_add(clock.offset_ns);
    match gate.check(&payload, wall_ns, clock.window_ns) {
        Ok(_) => report(&payload, source, now_ns),
        Err(fate) => fate,
    }
}

#[inline(always)]
fn report(payload: &Payload<'_>, source: Source, time_ns: u64) -> Fate {
    let Some(mut entry) = SEALED.reserve::<[MaybeUninit<u64>; EVENT_WORDS]>(0) else {
        return Fate::EventLost;
    };
    // SAFETY: the type lets each word be uninitialized.
    let event = unsafe { entry.assume_init_mut() };
    let (high, low) = source.halves();
    event[0].write(high);
    event[1].write(low);
    event[2].write(time_ns);
    for position in 0..WORDS {
        event[3 + position].write(payload.word(position).to_le());
    }
    entry.submit(0);
    Fate::Passed
}

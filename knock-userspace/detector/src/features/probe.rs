//! The probes. Each tries the feature itself, on an object made for it that is gone when the answer
//! is there.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::thread;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported};
use nix::sched::{CloneFlags, unshare};

use super::ProbeResult;
use crate::syscall::{TestRun, bpf};

pub(super) fn map(kind: MapType) -> ProbeResult {
    is_map_supported(kind).map_err(|error| error.to_string())
}

pub(super) fn helper(helper: BpfHelper) -> ProbeResult {
    is_helper_supported(ProgramType::Xdp, helper).map_err(|error| error.to_string())
}

/// Runs `work` in a network namespace of its own.
pub(super) fn apart(work: fn() -> ProbeResult) -> ProbeResult {
    let enter_and_work = move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| format!("no network namespace to try it in: {errno}"))?;
        work()
    };
    // Only the thread moves, and the namespace ends with it.
    thread::spawn(enter_and_work).join().unwrap_or_else(|_| Err("the probe failed".to_owned()))
}

/// Commands of bpf(2) and constants of `linux/bpf.h` and `linux/if_link.h`.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
/// The first interface of every network namespace.
const LOOPBACK: u32 = 1;

/// `struct bpf_insn`, little end first.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
    code as u64
        | ((from << 4 | to) as u64) << 8
        | (offset as u16 as u64) << 16
        | (number as u32 as u64) << 32
}

/// `r0 = XDP_DROP; exit`.
const DROP: [u64; 2] = [instruction(0xb7, 0, 0, 0, 1), instruction(0x95, 0, 0, 0, 0)];

/// Swaps a word on the stack, then drops.
const SWAP: [u64; 6] = [
    instruction(0x7a, 10, 0, -8, 0),
    instruction(0xb7, 0, 0, 0, 0),
    instruction(0xb7, 1, 0, 0, 1),
    // BPF_STX | BPF_ATOMIC | BPF_DW, BPF_CMPXCHG
    instruction(0xdb, 10, 1, -8, 0xf1),
    DROP[0],
    DROP[1],
];

pub(super) fn compare_and_swap() -> ProbeResult {
    answer(load(&SWAP, 0))
}

pub(super) fn frags() -> ProbeResult {
    answer(load(&DROP, BPF_F_XDP_HAS_FRAGS))
}

pub(super) fn mappable_array() -> ProbeResult {
    /// The part of `union bpf_attr` that this command needs.
    #[repr(C)]
    struct MapCreate {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
    }
    let mut attribute = MapCreate {
        kind: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        flags: BPF_F_MMAPABLE,
    };
    answer(bpf(BPF_MAP_CREATE, &mut attribute).map(owned))
}

pub(super) fn xdp_link() -> ProbeResult {
    /// As above.
    #[repr(C)]
    struct LinkCreate {
        program: u32,
        interface: u32,
        attach_type: u32,
        flags: u32,
    }
    let program = load(&DROP, 0).map_err(|error| error.to_string())?;
    let mut attribute = LinkCreate {
        program: program.as_raw_fd().cast_unsigned(),
        interface: LOOPBACK,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_SKB_MODE,
    };
    answer(bpf(BPF_LINK_CREATE, &mut attribute).map(owned))
}

pub(super) fn context() -> ProbeResult {
    // `struct xdp_md`: only the end of the frame is set.
    let context = [0, FRAME.len() as u32, 0, 0, 0, 0];
    test_run(|run| {
        run.context_length_in = size_of_val(&context) as u32;
        run.context_in = context.as_ptr().addr() as u64;
    })
}

pub(super) fn live_frames() -> ProbeResult {
    // Sent on loopback.
    test_run(|run| {
        run.flags = BPF_F_TEST_XDP_LIVE_FRAMES;
        // As old as the flag, which kernels before would overlook.
        run.batch = 1;
    })
}

static FRAME: [u8; 64] = [0; 64];

/// Drops one frame in a test run that is changed by `how`.
fn test_run(how: impl FnOnce(&mut TestRun)) -> ProbeResult {
    let program = load(&DROP, 0).map_err(|error| error.to_string())?;
    let mut run = TestRun::new(program.as_fd(), &FRAME, 1);
    how(&mut run);
    answer(run.call())
}

pub(super) fn landlock() -> ProbeResult {
    /// `LANDLOCK_CREATE_RULESET_VERSION` of `linux/landlock.h`.
    const VERSION: libc::c_uint = 1;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the call takes neither a pointer nor a size, and only answers.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0usize, VERSION) };
    answer(if version > 0 { Ok(()) } else { Err(io::Error::last_os_error()) })
}

/// Loads an XDP program.
fn load(instructions: &[u64], flags: u32) -> io::Result<OwnedFd> {
    /// As above.
    #[repr(C)]
    struct ProgramLoad {
        kind: u32,
        count: u32,
        instructions: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let mut attribute = ProgramLoad {
        kind: BPF_PROG_TYPE_XDP,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr().addr() as u64,
        licence: c"GPL".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags,
    };
    bpf(BPF_PROG_LOAD, &mut attribute).map(owned)
}

fn owned(descriptor: i32) -> OwnedFd {
    // SAFETY: the kernel has just returned it, so this is its only owner.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Reads the result of an attempt. Some errors do not mean that the feature is missing, but the
/// right to ask, memory, descriptors or time.
fn answer<T>(tried: io::Result<T>) -> ProbeResult {
    let Err(error) = tried else { return Ok(true) };
    match error.raw_os_error() {
        Some(
            libc::EPERM
            | libc::EACCES
            | libc::ENOMEM
            | libc::EMFILE
            | libc::ENFILE
            | libc::EAGAIN
            | libc::EINTR,
        ) => Err(error.to_string()),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kernel_does_not_know_is_absent() {
        let failed = |errno| answer::<()>(Err(io::Error::from_raw_os_error(errno)));
        assert_eq!(answer(Ok(())), Ok(true));
        // The last is the kernel's own ENOTSUPP, which has no name outside.
        for errno in [libc::EINVAL, libc::EOPNOTSUPP, libc::ENOSYS, libc::E2BIG, 524] {
            assert_eq!(failed(errno), Ok(false), "{errno}");
        }
        for errno in [libc::EPERM, libc::ENOMEM, libc::EMFILE, libc::EAGAIN] {
            assert!(failed(errno).is_err(), "{errno}");
        }
    }
}

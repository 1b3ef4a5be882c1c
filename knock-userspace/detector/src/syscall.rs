//! bpf(2) itself, for commands that aya does not offer.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

const BPF_PROG_TEST_RUN: libc::c_int = 10;

/// Calls bpf(2). The memory that `attribute` points to must be as long as it says.
pub(super) fn bpf<T>(command: libc::c_int, attribute: &mut T) -> io::Result<i32> {
    // SAFETY: the attribute is of the size given, and lives with all that it points to until
    // the call returns; the kernel writes into the attribute alone.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attribute, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// The part of `union bpf_attr` that `BPF_PROG_TEST_RUN` needs (`linux/bpf.h`).
#[repr(C)]
#[derive(Default)]
pub(super) struct TestRun {
    program: u32,
    verdict: u32,
    length_in: u32,
    length_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    /// Duration of one run in nanoseconds, which the kernel writes.
    pub duration_ns: u32,
    pub context_length_in: u32,
    context_length_out: u32,
    pub context_in: u64,
    context_out: u64,
    pub flags: u32,
    cpu: u32,
    pub batch: u32,
    padding: u32,
}

impl TestRun {
    /// Prepares runs of `program` on `frame`, which must outlive the call.
    pub(super) fn new(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> Self {
        Self {
            program: program.as_raw_fd().cast_unsigned(),
            length_in: frame.len() as u32,
            data_in: frame.as_ptr().addr() as u64,
            repeat,
            ..Self::default()
        }
    }

    pub(super) fn call(&mut self) -> io::Result<i32> {
        bpf(BPF_PROG_TEST_RUN, self)
    }
}

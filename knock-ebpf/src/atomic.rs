//! A word in a map that several CPUs change at once.

use core::arch::asm;
use core::cell::UnsafeCell;

use knock_common::word::Word;

/// A shared word. `AtomicU64::compare_exchange` does not exist for this target, so the
/// instruction (Linux 5.12, 5ffa25502b5a) is written out.
#[repr(transparent)]
pub(crate) struct SharedWord(UnsafeCell<u64>);

// SAFETY: a map value is shared by all CPUs; every access below is atomic.
unsafe impl Sync for SharedWord {}

impl Word for SharedWord {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: the pointer comes from a reference into a map value; an aligned
        // 64-bit load is a single instruction, so no half-written word is seen.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    fn set(&self, new: u64) {
        // SAFETY: as for `load`; an aligned 64-bit store is a single instruction.
        unsafe { self.0.get().write_volatile(new) };
    }

    #[inline(always)]
    fn swap(&self, old: u64, new: u64) -> bool {
        let found: u64;
        // SAFETY: the pointer is an aligned word of a map value, as above; r0, which
        // the instruction reads and writes, is declared.
        unsafe {
            asm!(
                "r0 = {old}",
                "r0 = cmpxchg_64({word} + 0, r0, {new})",
                old = in(reg) old,
                new = in(reg) new,
                word = in(reg) self.0.get(),
                out("r0") found,
            );
        }
        found == old
    }

    #[inline(always)]
    fn opaque(mut number: u64) -> u64 {
        // SAFETY: a register is copied to itself. Without an instruction, the kernel would
        // refuse the line information.
        unsafe { asm!("{number} = {number}", number = inout(reg) number, options(pure, nomem)) };
        number
    }
}

/// Returns the same number, computed at this place. The compiler does not know what it is any more,
/// and may not move behind this point what it is made from.
#[inline(always)]
pub(crate) fn computed_here(mut number: u64) -> u64 {
    // SAFETY: a register is copied to itself.
    unsafe { asm!("{number} = {number}", number = inout(reg) number) };
    number
}

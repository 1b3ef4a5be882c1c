//! Several guests at a time, so that a run takes as long as the longest of them.

use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use knock_output::{OutputError, out};

/// Memory for a guest and its archive, with its files on the host.
const BYTES: u64 = 4 << 30;

/// Returns how many guests run at a time. An emulated one keeps one processor busy.
pub(super) fn at_once() -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let memory =
        procfs::Current::current().ok().and_then(|info: procfs::Meminfo| info.mem_available);
    places(processors, memory)
}

/// `memory` in bytes, if the kernel says how much is available (since 3.14).
fn places(processors: usize, memory: Option<u64>) -> usize {
    let room = memory.map_or(1, |bytes| bytes / BYTES);
    processors.min(usize::try_from(room).unwrap_or(usize::MAX)).max(1)
}

/// Does `work` to every one of `items`, `at_once` at a time, and the last first: newer kernels take
/// longer. The results are in the order of the items.
pub(super) fn each<T: Sync, R: Send>(
    items: &[T],
    at_once: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    let worker = || {
        loop {
            let begun = next.fetch_add(1, Ordering::Relaxed);
            let Some(at) = items.len().checked_sub(begun + 1) else { break };
            let result = work(&items[at]);
            results.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
        }
    };
    thread::scope(|scope| {
        for _ in 0..at_once.min(items.len()) {
            scope.spawn(worker);
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Marks the lines of a guest, where several print at a time.
pub(super) struct Voice(Option<&'static str>);

impl Voice {
    /// The voice of the kernel `version`: every line begins with it unless it is `alone`.
    pub(super) const fn of(version: &'static str, alone: bool) -> Self {
        Self(if alone { None } else { Some(version) })
    }

    /// Prints `text`. Without a reader, the guests run to their end all the same, and the table
    /// that follows them fails.
    pub(super) fn say(&self, text: impl Display) {
        let _ = self.print(&text);
    }

    fn print(&self, text: &dyn Display) -> Result<(), OutputError> {
        match self.0 {
            None => out!("{text}")?,
            Some(version) => {
                for line in text.to_string().split('\n') {
                    out!("{version:<5}| {line}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn all_are_done_at_the_same_time_and_come_back_in_order() {
        // One after the other, the first would never return.
        let together = Barrier::new(3);
        let results = each(&[1, 2, 3], 8, |item| {
            together.wait();
            item * 10
        });
        assert_eq!(results, [10, 20, 30]);
        assert_eq!(each(&[1, 2, 3, 4, 5], 2, |item| item * 10), [10, 20, 30, 40, 50]);
        assert!(each(&[] as &[u8], 2, |item| *item).is_empty());
    }

    #[test]
    fn no_more_than_processors_and_memory_allow_and_one_always() {
        assert_eq!(places(2, Some(64 << 30)), 2);
        assert_eq!(places(16, Some(9 << 30)), 2);
        assert_eq!(places(16, Some(1 << 30)), 1);
        assert_eq!(places(16, None), 1);
    }
}

//! Completed sequences, as they come out of the ring buffer.

use std::io;

use aya::maps::{MapData, RingBuf};
use knock_common::event::Event;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::KernelError;

/// The reading end of the ring buffer.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self, KernelError> {
        let what = "cannot wait for the ring buffer";
        // SAFETY: the ring buffer owns its file descriptor, always names the same one, and is
        // dropped after it has been deregistered.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|source| KernelError::Io { what, source: source.into() })?;
        Ok(Self { ring })
    }

    /// Waits until there is at least one event, then moves up to `limit` of those that
    /// are there to the end of `events`.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// If the file descriptor cannot be polled.
    pub async fn read(&mut self, events: &mut Vec<Event>, limit: usize) -> io::Result<()> {
        loop {
            let mut guard = self.ring.readable_mut().await?;
            let ring = guard.get_inner_mut();
            let before = events.len();
            while events.len() - before < limit {
                let Some(record) = ring.next() else {
                    guard.clear_ready();
                    break;
                };
                // A record of another size cannot come from this program.
                events.extend(Event::from_bytes(&record));
            }
            if events.len() > before {
                return Ok(());
            }
        }
    }
}

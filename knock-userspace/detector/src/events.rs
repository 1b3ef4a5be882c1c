//! Completed sequences, as they come out of the ring buffer.

use std::io;

use aya::maps::{MapData, RingBuf};
use knock_common::event::Event;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::DetectorError;

/// The reading end of the ring buffer.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self, DetectorError> {
        let what = "cannot wait for the ring buffer";
        // SAFETY: the ring buffer owns its file descriptor, always names the same one, and is
        // dropped after it has been deregistered.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|source| DetectorError::Io { what, source: source.into() })?;
        Ok(Self { ring })
    }

    /// Waits until there is at least one event, then hands up to `limit` of those that are
    /// there to `take`. An event leaves the ring buffer when `take` has returned: should this
    /// process be killed before, the next one finds it again.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// If the file descriptor cannot be polled.
    pub async fn read(&mut self, limit: usize, mut take: impl FnMut(Event)) -> io::Result<()> {
        loop {
            let mut guard = self.ring.readable_mut().await?;
            let ring = guard.get_inner_mut();
            let mut taken = 0;
            while taken < limit {
                let Some(record) = ring.next() else {
                    guard.clear_ready();
                    break;
                };
                // A record of another size cannot come from this program.
                if let Some(event) = Event::from_bytes(&record) {
                    take(event);
                    taken += 1;
                }
            }
            if taken > 0 {
                return Ok(());
            }
        }
    }
}

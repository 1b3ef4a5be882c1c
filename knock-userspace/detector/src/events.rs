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

    /// Waits until there may be events. Cancel safe: dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// If the file descriptor cannot be polled.
    pub async fn ready(&mut self) -> io::Result<()> {
        self.ring.readable().await.map(drop)
    }

    /// Waits until there is at least one event, then does as [`Events::take`].
    ///
    /// # Errors
    ///
    /// If the file descriptor cannot be polled.
    pub async fn read(&mut self, limit: usize, mut take: impl FnMut(Event)) -> io::Result<()> {
        let mut taken = 0;
        while taken == 0 {
            self.ready().await?;
            self.take(limit, |event| {
                taken += 1;
                take(event);
            });
        }
        Ok(())
    }

    /// Hands up to `limit` of the waiting events to `take`. An event leaves the ring buffer when
    /// `take` returns: if this process is killed before that, the next one finds it again.
    pub fn take(&mut self, limit: usize, mut take: impl FnMut(Event)) {
        let mut taken = 0;
        // `WouldBlock` makes the descriptor wait for the kernel again.
        let _ = self.ring.try_io_mut(Interest::READABLE, |ring| {
            while taken < limit {
                let record = ring.next().ok_or(io::ErrorKind::WouldBlock)?;
                // A record of another size cannot come from this program.
                if let Some(event) = Event::from_bytes(&record) {
                    take(event);
                    taken += 1;
                }
            }
            Ok(())
        });
    }
}

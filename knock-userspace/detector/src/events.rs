//! The reading end of the ring buffer of completed sequences.

use std::io;

use aya::maps::{MapData, RingBuf};
use knock_common::event::Event;

use super::DetectorError;
use super::readable::Readable;

/// Completed sequences, in the order in which they were completed.
pub struct Events {
    ring: Readable<RingBuf<MapData>>,
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self, DetectorError> {
        let ring =
            Readable::new(ring).map_err(DetectorError::io("cannot wait for completed knocks"))?;
        Ok(Self { ring })
    }

    /// Waits until there may be events. Cancel safe: dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// If the file descriptor cannot be polled.
    pub async fn ready(&mut self) -> io::Result<()> {
        self.ring.ready().await
    }

    /// Waits until there is at least one event, then does as [`Events::take`]. Cancel safe.
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

    /// Hands at most `limit` of the waiting events to `take`. An event leaves the ring buffer when
    /// `take` has returned. If this process is killed before that, the next agent finds the event
    /// again.
    pub fn take(&mut self, limit: usize, take: impl FnMut(Event)) {
        self.ring.take(limit, Event::from_bytes, take);
    }
}

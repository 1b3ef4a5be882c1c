//! The reading end of the ring buffer of sealed knocks.

use std::io;

use aya::maps::{MapData, RingBuf};
use knock_common::sealed::SealedEvent;

use super::DetectorError;
use super::readable::Readable;

/// Sealed knocks that passed the detector's checks, in the order in which they came.
pub struct SealedEvents {
    ring: Readable<RingBuf<MapData>>,
}

impl SealedEvents {
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self, DetectorError> {
        let ring =
            Readable::new(ring).map_err(DetectorError::io("cannot wait for sealed knocks"))?;
        Ok(Self { ring })
    }

    /// Waits until there may be packets. Cancel safe: dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// If the file descriptor cannot be polled.
    pub async fn ready(&mut self) -> io::Result<()> {
        self.ring.ready().await
    }

    /// Hands at most `limit` of the waiting packets to `take`. A packet leaves the ring buffer
    /// when `take` has returned. If this process is killed before that, the next agent finds the
    /// packet again.
    pub fn take(&mut self, limit: usize, mut take: impl FnMut(&SealedEvent)) {
        self.ring.take(limit, SealedEvent::from_bytes, |event| take(&event));
    }
}

//! What the detector knows of keys, and the sealed knocks that it hands on.

use std::io;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError, RingBuf};
use knock_common::abi::maps::{CLOCK, KEYS, SEALED};
use knock_common::sealed::{Clock, Gate, SealedEvent};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Detector, DetectorError};

/// How many keys the detector can tell apart; a rotated key counts twice for a while.
pub const MAX_KEYS: usize = 1 << 16;

impl Detector {
    /// Lets packets with this key id be checked with `gate`, or with it from now on.
    ///
    /// # Errors
    ///
    /// If the kernel has no room for another key.
    pub fn set_gate(&mut self, id: u64, gate: Gate) -> Result<(), DetectorError> {
        keys(&mut self.ebpf)?.insert(id, gate, 0).map_err(DetectorError::map(KEYS))
    }

    /// What packets are checked with at the moment, by key id.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn gates(&mut self) -> Result<std::collections::HashMap<u64, Gate>, DetectorError> {
        let gates: Result<_, _> = keys(&mut self.ebpf)?.iter().collect();
        gates.map_err(DetectorError::map(KEYS))
    }

    /// Lets no packet with this key id pass any more.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub fn remove_gate(&mut self, id: u64) -> Result<(), DetectorError> {
        match keys(&mut self.ebpf)?.remove(&id) {
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            result => result.map_err(DetectorError::map(KEYS)),
        }
    }

    /// Tells the detector the time of day.
    ///
    /// # Errors
    ///
    /// If the map cannot be written.
    pub fn set_clock(&mut self, clock: Clock) -> Result<(), DetectorError> {
        let map = self.ebpf.map_mut(CLOCK).ok_or(DetectorError::Missing(CLOCK))?;
        let mut map: Array<_, Clock> = map.try_into().map_err(DetectorError::map(CLOCK))?;
        map.set(0, clock, 0).map_err(DetectorError::map(CLOCK))
    }

    /// Takes the ring buffer of sealed knocks.
    ///
    /// # Errors
    ///
    /// If it was taken before, or there is no event loop.
    pub fn sealed(&mut self) -> Result<SealedEvents, DetectorError> {
        let map = self.ebpf.take_map(SEALED).ok_or(DetectorError::Missing(SEALED))?;
        SealedEvents::new(RingBuf::try_from(map).map_err(DetectorError::map(SEALED))?)
    }
}

fn keys(ebpf: &mut Ebpf) -> Result<HashMap<&mut MapData, u64, Gate>, DetectorError> {
    let map = ebpf.map_mut(KEYS).ok_or(DetectorError::Missing(KEYS))?;
    map.try_into().map_err(DetectorError::map(KEYS))
}

/// The reading end of the ring buffer of sealed knocks.
pub struct SealedEvents {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl SealedEvents {
    fn new(ring: RingBuf<MapData>) -> Result<Self, DetectorError> {
        let what = "cannot wait for the ring buffer of sealed knocks";
        // SAFETY: the ring buffer owns its file descriptor, always names the same one, and is
        // dropped after it has been deregistered.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|source| DetectorError::Io { what, source: source.into() })?;
        Ok(Self { ring })
    }

    /// Waits until there may be packets. Cancel safe: dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// If the file descriptor cannot be polled.
    pub async fn ready(&mut self) -> io::Result<()> {
        self.ring.readable().await.map(drop)
    }

    /// Hands up to `limit` of the waiting packets to `take`. A packet leaves the ring buffer when
    /// `take` returns: if this process is killed before that, the next one finds it again.
    pub fn take(&mut self, limit: usize, mut take: impl FnMut(&SealedEvent)) {
        let mut taken = 0;
        // `WouldBlock` makes the descriptor wait for the kernel again.
        let _ = self.ring.try_io_mut(Interest::READABLE, |ring| {
            while taken < limit {
                let record = ring.next().ok_or(io::ErrorKind::WouldBlock)?;
                // A record of another size cannot come from this program.
                if let Some(event) = SealedEvent::from_bytes(&record) {
                    take(&event);
                    taken += 1;
                }
            }
            Ok(())
        });
    }
}

//! The ring buffers of one program, opened for reading.

use aya::maps::RingBuf;
use knock_common::abi::maps::{EVENTS, SEALED};

use super::{Detector, DetectorError, Events, SealedEvents, Trace};

/// The reading ends of all ring buffers of one program.
pub struct Rings {
    /// Completed sequences.
    pub events: Events,
    /// Sealed knocks that passed.
    pub sealed: SealedEvents,
    /// The program's messages, if it was loaded with `trace`.
    pub trace: Option<Trace>,
}

impl Detector {
    /// Opens all ring buffers of this program. Messages are among them if its settings have
    /// `trace`.
    ///
    /// # Errors
    ///
    /// If one was taken before, or there is no event loop.
    pub fn rings(&mut self) -> Result<Rings, DetectorError> {
        Ok(Rings {
            events: self.events()?,
            sealed: self.sealed()?,
            trace: if self.settings.trace { Some(self.trace()?) } else { None },
        })
    }

    /// Takes the ring buffer of completed sequences.
    ///
    /// # Errors
    ///
    /// If it was taken before, or there is no event loop.
    pub fn events(&mut self) -> Result<Events, DetectorError> {
        let map = self.ebpf.take_map(EVENTS).ok_or(DetectorError::Missing(EVENTS))?;
        Events::new(RingBuf::try_from(map).map_err(DetectorError::map(EVENTS))?)
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

    /// Starts to forward the program's messages to the log.
    ///
    /// # Errors
    ///
    /// If the program was loaded without `trace`, or there is no event loop.
    pub fn trace(&mut self) -> Result<Trace, DetectorError> {
        Trace::new(&mut self.ebpf)
    }
}

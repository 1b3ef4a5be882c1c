//! The event that the detector reports to the agent through the ring buffer.

pub use crate::abi::Event;
use crate::sequence::DoorId;
use crate::source::Source;

impl Event {
    /// Size of a record in bytes.
    pub const SIZE: usize = size_of::<Self>();

    /// Describes a completed sequence.
    #[inline(always)]
    pub const fn new(source: Source, door: DoorId, time_ns: u64) -> Self {
        Self { source, time_ns, door }
    }

    /// Reads a record. Returns `None` if it has another size.
    pub fn from_bytes(record: &[u8]) -> Option<Self> {
        let record: &[u8; Self::SIZE] = record.try_into().ok()?;
        let (source, rest) = record.split_first_chunk::<16>()?;
        let (time_ns, rest) = rest.split_first_chunk::<8>()?;
        let door = DoorId(u64::from_ne_bytes(*rest.first_chunk()?));
        Some(Self::new(Source(*source), door, u64::from_ne_bytes(*time_ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_what_the_reader_expects() {
        assert_eq!(Event::SIZE, 32);
        assert_eq!(core::mem::offset_of!(Event, time_ns), 16);
        assert_eq!(core::mem::offset_of!(Event, door), 24);
        assert_eq!(Event::from_bytes(&[0; 31]), None);
        assert_eq!(Event::from_bytes(&[0; 33]), None);
        let mut record = [0; 32];
        record[..16].copy_from_slice(&Source::v4([192, 0, 2, 1]).0);
        record[16..24].copy_from_slice(&5u64.to_ne_bytes());
        record[24..].copy_from_slice(&3u64.to_ne_bytes());
        let expected = Event::new(Source::v4([192, 0, 2, 1]), DoorId(3), 5);
        assert_eq!(Event::from_bytes(&record), Some(expected));
    }
}

//! The settings: what is fixed while a detector is loaded, and the memory that it takes.

use aya::EbpfError;
use aya::maps::MapError;
use knock_common::abi::maps::{FIRST, PROGRESS};
use knock_common::first::Bucket;
use knock_policy::Knocks;
use procfs::Current as _;

use super::DetectorError;

/// The values that are fixed while a detector is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Decoys that a source with progress may hit.
    pub strays: u8,
    /// Sources past their first step that are remembered.
    pub max_sources: u32,
    /// The verdict on packets that matched a step.
    pub knocks: Knocks,
    /// Whether the program reports each candidate.
    pub trace: bool,
    /// Key that places first steps. It must not be known outside.
    pub hash_key: [u64; 2],
}

impl Settings {
    /// Bytes of the ring buffer: 52,428 completed knocks of 40 bytes with their headers. The
    /// agent maps it twice over, and it counts as resident there.
    pub(super) const RING_BYTES: u32 = 1 << 21;

    /// Returns the number of buckets of first steps, of seven slots each: four for each source. At
    /// the default size, a flood of four million first steps a second leaves 97% of all first steps
    /// in place for 200 ms (Poisson: seven or more newer ones in a bucket).
    pub(super) const fn buckets(self) -> u32 {
        self.max_sources.next_power_of_two().saturating_mul(4)
    }

    /// Returns about how many bytes the maps take whose size depends on `max_sources`.
    fn memory(self) -> u64 {
        // struct htab_elem with a key of 16 and a value of 32 bytes, and the head of a
        // hash bucket (kernel/bpf/hashtab.c).
        const ELEMENT: u64 = 104;
        const HEAD: u64 = 16;
        let buckets = u64::from(self.buckets());
        let sources = u64::from(self.max_sources);
        buckets * size_of::<Bucket<u64>>() as u64
            + sources * ELEMENT
            + sources.next_power_of_two() * HEAD
    }

    /// Explains why the maps could not be created. If there is no room for so many sources, the
    /// error says how many would fit.
    pub(super) fn explain(self, error: EbpfError) -> DetectorError {
        let EbpfError::MapError(MapError::CreateError { name, io_error }) = &error else {
            return DetectorError::from(error).explained();
        };
        let sized = matches!(name.as_str(), FIRST | PROGRESS);
        let too_large = matches!(io_error.raw_os_error(), Some(libc::ENOMEM | libc::E2BIG));
        let available = procfs::Meminfo::current().ok().and_then(|memory| memory.mem_available);
        let (true, true, Some(available)) = (sized, too_large, available) else {
            return DetectorError::from(error).explained();
        };
        let halves = std::iter::successors(Some(self.max_sources), |sources| Some(sources / 2));
        let fits = halves
            .map(|max_sources| Self { max_sources, ..self })
            .find(|settings| settings.memory() <= available / 2)
            .map_or(0, |settings| settings.max_sources);
        DetectorError::TooManySources {
            asked: self.max_sources,
            needed_mib: self.memory() >> 20,
            available_mib: available >> 20,
            fits,
        }
    }
}

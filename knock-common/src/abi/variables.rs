//! Names of the program's constants, which the agent sets before it loads the program.
//!
//! A test of the detector crate compares this list with the object.

/// Length of a jiffy in nanoseconds, `u64`.
pub const JIFFY_NS: &str = "JIFFY_NS";
/// Decoys that a source with progress may hit, `u32`.
pub const STRAYS: &str = "STRAYS";
/// Longest `within` of any door in ticks, `u32`.
pub const LONGEST: &str = "LONGEST";
/// Buckets of first steps, a power of two, `u32`.
pub const BUCKETS: &str = "BUCKETS";
/// First half of the key that places first steps, `u64`.
pub const HASH_KEY_0: &str = "HASH_KEY_0";
/// Second half of that key, `u64`.
pub const HASH_KEY_1: &str = "HASH_KEY_1";
/// Not 0 if packets that matched a step are dropped, `u32`.
pub const DROP_KNOCKS: &str = "DROP_KNOCKS";
/// Not 0 if the program reports each candidate, `u32`.
pub const TRACE: &str = "TRACE";

/// Every constant with its size in bytes.
pub const ALL: [(&str, usize); 8] = [
    (JIFFY_NS, 8),
    (STRAYS, 4),
    (LONGEST, 4),
    (BUCKETS, 4),
    (HASH_KEY_0, 8),
    (HASH_KEY_1, 8),
    (DROP_KNOCKS, 4),
    (TRACE, 4),
];

/// The variable that the port classes are in. The agent writes it as the map
/// [`super::maps::CLASSES`].
pub const CLASSES: &str = "CLASSES";

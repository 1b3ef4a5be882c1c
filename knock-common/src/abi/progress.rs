//! The keys and values of `PROGRESS`, `FIRST` and `RECENT`.

/// A source: an IPv6 address, or an IPv4 address in its mapped form
/// (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2), in network byte order.
///
/// The parser refuses IPv6 packets that carry a mapped address on the wire, so the
/// two families can never be taken for one another.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(pub [u8; 16]);

/// Tracks a source can have past their first step: the words of an entry of `PROGRESS`.
pub const TRACKS: usize = 4;

/// Words of `RECENT`. Each says when one of the sources that share it last sent a first step.
///
/// They are few enough to stay in a CPU's cache. Nearly every packet to a decoy comes from a
/// scanner without progress. One look at these words settles it, in place of a look into a table
/// that no cache holds.
pub const ACTIVITY: usize = 1 << 15;

/// First steps that a bucket has room for.
pub const SLOTS: usize = 7;

/// Set in a word that holds a time, so that time 0 differs from a word that was never written.
pub const WRITTEN: u64 = 1 << 63;

/// The first steps of all sources whose hash names this bucket, and when one of these sources
/// last came further: 64 bytes.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Bucket<W> {
    /// One packed [`crate::first::FirstStep`] each.
    pub slots: [W; SLOTS],
    /// A time with [`WRITTEN`], or 0.
    pub(crate) later: W,
}

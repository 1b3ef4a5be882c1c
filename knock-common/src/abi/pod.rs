//! The types that aya may copy to and from maps.

use super::{
    Clock, Counters, Edge, Gate, GrantKey, GrantValue, Pattern, Source, State, Transition,
};

// SAFETY: sixteen bytes without padding; every bit pattern is an address.
unsafe impl aya::Pod for Source {}
// SAFETY: integers without padding: 4 + 2 + 1 + 1 bytes.
unsafe impl aya::Pod for Edge {}
// SAFETY: integers without padding: 4 + 4 + 8 bytes.
unsafe impl aya::Pod for Transition {}
// SAFETY: an array of integers has no padding.
unsafe impl aya::Pod for Counters {}
// SAFETY: three integers of one size, so no padding.
unsafe impl aya::Pod for Gate {}
// SAFETY: two integers of one size, so no padding.
unsafe impl aya::Pod for Clock {}
// SAFETY: integers without padding: 16 + 32 + 8 + 4 + 4 bytes.
unsafe impl aya::Pod for State {}
// SAFETY: integers without padding: 16 + 2 + 1 + 5 bytes.
unsafe impl aya::Pod for GrantKey {}
// SAFETY: two integers of one size, so no padding.
unsafe impl aya::Pod for GrantValue {}
// SAFETY: ten integers of one size, so no padding.
unsafe impl aya::Pod for Pattern {}

const _: () = {
    assert!(size_of::<State>() == 64);
    assert!(size_of::<GrantKey>() == 24);
};

//! Replay protection: a sealed knock is refused if its time is too far from the clock, or not newer
//! than that of a knock that was accepted.

use std::fmt;
use std::time::Duration;

/// The default of how far the clock of a device may be off.
pub const WINDOW: Duration = Duration::from_secs(60);

/// The reason why the time in a knock is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// The clocks differ too much.
    #[error("its clock is {0}")]
    Clock(Off),
    /// A knock with this time, or a newer one, was accepted before.
    #[error("a replay, or older than a knock that was accepted")]
    Replayed,
}

/// The difference of one clock from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Off {
    /// Behind by this much.
    Behind(Duration),
    /// Ahead by this much.
    Ahead(Duration),
}

impl fmt::Display for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Behind(by) => write!(f, "{} s behind", by.as_secs()),
            Self::Ahead(by) => write!(f, "{} s ahead", by.as_secs()),
        }
    }
}

/// Checks the time that a knock names against this host's clock, both in nanoseconds since
/// 1970.
///
/// # Errors
///
/// [`Stale::Clock`] if they differ by more than `window`.
pub fn check_time(time_ns: u64, now_ns: u64, window: Duration) -> Result<(), Stale> {
    let off = Duration::from_nanos(now_ns.abs_diff(time_ns));
    if off <= window {
        return Ok(());
    }
    Err(Stale::Clock(if time_ns < now_ns { Off::Behind(off) } else { Off::Ahead(off) }))
}

/// The time of the newest accepted knock of a key. Replay protection needs no other memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Newest(pub u64);

impl Newest {
    /// Makes a value for a key whose newest time was lost at `now_ns`. Every knock captured until
    /// then has a time within the window of `now_ns`, and is refused.
    pub fn lost(now_ns: u64, window: Duration) -> Self {
        let window = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        Self(now_ns.saturating_add(window))
    }

    /// Accepts a knock with this time.
    ///
    /// # Errors
    ///
    /// [`Stale::Replayed`] unless the time is strictly newer.
    pub fn accept(&mut self, time_ns: u64) -> Result<(), Stale> {
        if time_ns <= self.0 {
            return Err(Stale::Replayed);
        }
        self.0 = time_ns;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the clocks do, no time is accepted twice, and none after a newer one.
        #[test]
        fn nothing_is_accepted_twice(times: Vec<u64>) {
            let mut newest = Newest::default();
            let mut accepted = Vec::new();
            for time in times {
                if newest.accept(time).is_ok() {
                    accepted.push(time);
                }
            }
            prop_assert!(accepted.is_sorted_by(|time, next| time < next));
        }

        /// Nothing that passed before a loss passes after it.
        #[test]
        fn a_lost_time_lets_nothing_old_in(
            then: u64, off_ns in -60_000_000_000i64..=60_000_000_000, lost_after: u32,
        ) {
            let time = then.saturating_add_signed(off_ns);
            prop_assert_eq!(check_time(time, then, WINDOW), Ok(()));
            let now = then.saturating_add(lost_after.into());
            prop_assert_eq!(Newest::lost(now, WINDOW).accept(time), Err(Stale::Replayed));
        }
    }

    #[test]
    fn a_clock_that_is_off_is_reported_with_the_difference() {
        let now = 1_000_000_000_000;
        assert_eq!(check_time(now, now, WINDOW), Ok(()));
        let error = check_time(now - 61_000_000_000, now, WINDOW).unwrap_err();
        assert_eq!(error.to_string(), "its clock is 61 s behind");
        let error = check_time(now + 3_600_000_000_000, now, WINDOW).unwrap_err();
        assert_eq!(error.to_string(), "its clock is 3600 s ahead");
    }
}

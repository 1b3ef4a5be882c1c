//! The enforcement state: a trial, or its confirmation, that overrides a config which observes.
//! Pure: time comes from the caller, counted from boot.
//!
//! ```text
//!               try                     confirm
//! Configured ---------> Trial { until } ---------> Confirmed
//!      ^                    |    |                     |
//!      |       time is over |    | try: another end    |
//!      +--------------------+----+---------------------+
//!             reload or start of a config that enforces;
//!             start with --observe (ends Confirmed alone)
//! ```
//!
//! Only a config that observes can be tried or confirmed. The kernel ends a trial by itself: the
//! elements that make the guard drop have a timeout. A confirmed trial is in the record and
//! outlives the agent, not the host.

use std::time::Duration;

use knock_policy::Mode;

/// The state that decides, together with the config's mode, whether the guard drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Enforcement {
    /// The config decides.
    #[default]
    Configured,
    /// The guard drops until then, counted from boot.
    Trial { until: Duration },
    /// The owner has confirmed a trial.
    Confirmed,
}

/// The reason why a trial cannot begin or be confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("it is enforcing already; `xknockd try` is for an agent that observes")]
    Enforcing,
    #[error("nothing is being tried; begin with `xknockd try 2m`")]
    NoTrial,
}

impl Enforcement {
    /// Returns what an agent begins with: `confirmed` is on record, and the kernel's table holds a
    /// trial until `trial`. The owner's word on the command line or in the config is newer than a
    /// confirmation.
    pub(super) fn at_start(
        configured: Mode,
        observe: bool,
        confirmed: bool,
        trial: Option<Duration>,
    ) -> Self {
        match (configured, trial) {
            (Mode::Enforce, _) => Self::Configured,
            (Mode::Observe, _) if confirmed && !observe => Self::Confirmed,
            (Mode::Observe, Some(until)) => Self::Trial { until },
            (Mode::Observe, None) => Self::Configured,
        }
    }

    /// Returns what holds under a config that was read again.
    pub(super) const fn after_reload(self, configured: Mode) -> Self {
        match configured {
            Mode::Enforce => Self::Configured,
            Mode::Observe => self,
        }
    }

    /// Begins a trial, or gives a running one another end.
    ///
    /// # Errors
    ///
    /// If the guard drops already.
    pub(super) fn start_trial(self, configured: Mode, until: Duration) -> Result<Self, Denied> {
        match self.mode_without_trial(configured) {
            Mode::Enforce => Err(Denied::Enforcing),
            Mode::Observe => Ok(Self::Trial { until }),
        }
    }

    /// Makes a trial last.
    ///
    /// # Errors
    ///
    /// If nothing is being tried at `now`. A trial whose time is over has ended in the kernel, even
    /// if its end is not noted yet.
    pub(super) fn confirm(self, now: Duration) -> Result<Self, Denied> {
        match self.trial_left(now) {
            Some(_) => Ok(Self::Confirmed),
            None => Err(Denied::NoTrial),
        }
    }

    /// Returns what holds when a trial's time is over.
    pub(super) const fn after_trial(self) -> Self {
        match self {
            Self::Trial { .. } => Self::Configured,
            Self::Configured | Self::Confirmed => self,
        }
    }

    /// Returns the guard's mode once no trial runs.
    pub(super) const fn mode_without_trial(self, configured: Mode) -> Mode {
        match self {
            Self::Confirmed => Mode::Enforce,
            Self::Configured | Self::Trial { .. } => configured,
        }
    }

    /// Returns the guard's mode at `now`.
    pub(super) fn mode_at(self, configured: Mode, now: Duration) -> Mode {
        match self.trial_left(now) {
            Some(_) => Mode::Enforce,
            None => self.mode_without_trial(configured),
        }
    }

    /// Returns the end of a trial, counted from boot.
    pub(super) const fn trial_end(self) -> Option<Duration> {
        match self {
            Self::Trial { until } => Some(until),
            Self::Configured | Self::Confirmed => None,
        }
    }

    /// Returns how much longer a trial makes the guard drop, or `None` if none does.
    pub(super) fn trial_left(self, now: Duration) -> Option<Duration> {
        let left = self.trial_end()?.saturating_sub(now);
        (!left.is_zero()).then_some(left)
    }

    /// Whether the record must say that the owner confirmed a trial.
    pub(super) const fn is_confirmed(self) -> bool {
        matches!(self, Self::Confirmed)
    }
}

#[cfg(test)]
mod tests {
    use super::Enforcement::{Configured, Confirmed};
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);
    const END: Duration = Duration::from_secs(1060);
    const LATER: Duration = Duration::from_secs(1120);
    const TRIAL: Enforcement = Enforcement::Trial { until: END };

    #[test]
    fn every_start_is_in_the_table() {
        let (observe, enforce) = (Mode::Observe, Mode::Enforce);
        for (configured, flag, confirmed, trial, expected) in [
            // A config that enforces needs neither trial nor confirmation.
            (enforce, false, false, None, Configured),
            (enforce, false, true, None, Configured),
            (enforce, false, false, Some(END), Configured),
            (enforce, false, true, Some(END), Configured),
            // A config that observes goes on with what the last agent did.
            (observe, false, false, None, Configured),
            (observe, false, true, None, Confirmed),
            (observe, false, false, Some(END), TRIAL),
            (observe, false, true, Some(END), Confirmed),
            // `--observe` ends a confirmation. A trial ends by itself.
            (observe, true, false, None, Configured),
            (observe, true, true, None, Configured),
            (observe, true, false, Some(END), TRIAL),
            (observe, true, true, Some(END), TRIAL),
        ] {
            let found = Enforcement::at_start(configured, flag, confirmed, trial);
            assert_eq!(found, expected, "{configured} {flag} {confirmed} {trial:?}");
        }
    }

    #[test]
    fn every_state_and_event_is_in_the_table() {
        let again = Ok(Enforcement::Trial { until: LATER });
        for (state, configured, tried, confirmed, over, reloaded, mode, left) in [
            (
                Configured,
                Mode::Observe,
                again,
                Err(Denied::NoTrial),
                Configured,
                [Configured, Configured],
                Mode::Observe,
                None,
            ),
            (
                Configured,
                Mode::Enforce,
                Err(Denied::Enforcing),
                Err(Denied::NoTrial),
                Configured,
                [Configured, Configured],
                Mode::Enforce,
                None,
            ),
            (
                TRIAL,
                Mode::Observe,
                again,
                Ok(Confirmed),
                Configured,
                [TRIAL, Configured],
                Mode::Observe,
                Some(END - NOW),
            ),
            (
                Confirmed,
                Mode::Observe,
                Err(Denied::Enforcing),
                Err(Denied::NoTrial),
                Confirmed,
                [Confirmed, Configured],
                Mode::Enforce,
                None,
            ),
        ] {
            assert_eq!(state.start_trial(configured, LATER), tried, "try in {state:?}");
            assert_eq!(state.confirm(NOW), confirmed, "confirm in {state:?}");
            assert_eq!(state.after_trial(), over, "the time is over in {state:?}");
            let reload = [Mode::Observe, Mode::Enforce].map(|mode| state.after_reload(mode));
            assert_eq!(reload, reloaded, "reload in {state:?}");
            assert_eq!(state.mode_without_trial(configured), mode, "mode of {state:?}");
            assert_eq!(state.trial_left(NOW), left, "time left of {state:?}");
            assert_eq!(state.is_confirmed(), state == Confirmed);
        }
    }

    #[test]
    fn a_trial_whose_time_is_over_counts_for_nothing_although_its_end_is_not_noted() {
        assert_eq!(TRIAL.mode_at(Mode::Observe, NOW), Mode::Enforce);
        assert_eq!(TRIAL.mode_at(Mode::Observe, END), Mode::Observe);
        assert_eq!(TRIAL.trial_left(END), None);
        assert_eq!(TRIAL.confirm(END), Err(Denied::NoTrial));
    }
}

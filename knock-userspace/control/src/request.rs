//! Requests to an agent, and the limits that hold for them with and without one. Pure.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use knock_policy::config;
use knock_policy::lockout::Session;
use serde::{Deserialize, Serialize};

use crate::time_text;
use crate::{Fault, Problem};

/// A request to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Show the status.
    Status,
    /// List the doors.
    Doors,
    /// List running grants.
    Grants,
    /// Open a door for an address as if it had knocked.
    Open(Open),
    /// End grants.
    Revoke(Revoke),
    /// Read the config again.
    Reload(Caller),
    /// Enforce for a while.
    Try(Try),
    /// Make the running trial permanent.
    Confirm(Caller),
    /// Remove program, pins and table, and end.
    Off,
}

/// The body of [`Request::Open`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// Name of the door.
    pub door: String,
    /// The source that gets the grant.
    pub address: IpAddr,
    /// Length of the grant, as in `10m`. Without it, the door's `open_for` counts.
    #[serde(default, rename = "for", with = "time_text::optional")]
    pub lasts: Option<Duration>,
}

impl Open {
    /// How long a door may be opened for.
    const LIMITS: RangeInclusive<Duration> =
        Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);

    /// Returns the length of the grant, which is `usual` if the request names none.
    ///
    /// # Errors
    ///
    /// If it is out of range.
    pub fn length(&self, usual: Duration) -> Result<Duration, Problem> {
        self.lasts.map_or(Ok(usual), |lasts| within(lasts, Self::LIMITS))
    }

    /// Returns the source, as the guard sees it.
    ///
    /// # Errors
    ///
    /// If packets cannot come from that address.
    pub fn source(&self) -> Result<IpAddr, Problem> {
        let address = self.address.to_canonical();
        if address.is_unspecified() || address.is_multicast() {
            let what = format!("no packet comes from {address}; give the address of a host");
            return Err(Problem::new(Fault::Request, what));
        }
        Ok(address)
    }
}

/// The body of [`Request::Revoke`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// Only grants of this source.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Only grants of this door.
    #[serde(default)]
    pub door: Option<String>,
}

/// The caller of a request that may lock them out: the body of [`Request::Reload`] and
/// [`Request::Confirm`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caller {
    /// The caller's SSH session, if there is one.
    #[serde(default)]
    pub session: Option<Session>,
    /// Whether to go on even if the session would be locked out.
    #[serde(default)]
    pub force: bool,
}

/// The body of [`Request::Try`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Try {
    /// Length of the trial, as in `2m`.
    #[serde(rename = "for", with = "time_text")]
    pub lasts: Duration,
}

impl Try {
    /// How long enforcing may be tried.
    const LIMITS: RangeInclusive<Duration> =
        Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

    /// Returns the length of the trial.
    ///
    /// # Errors
    ///
    /// If it is out of range.
    pub fn length(&self) -> Result<Duration, Problem> {
        within(self.lasts, Self::LIMITS)
    }
}

fn within(lasts: Duration, limits: RangeInclusive<Duration>) -> Result<Duration, Problem> {
    let text = humantime::format_duration(lasts).to_string();
    config::within(&text, lasts, limits)
        .map_err(|(what, help)| Problem::new(Fault::Request, format!("{what}; {help}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(address: &str, lasts: Option<Duration>) -> Open {
        Open { door: "ssh".to_owned(), address: address.parse().expect("an address"), lasts }
    }

    #[test]
    fn a_door_opens_for_a_second_to_thirty_days() {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let length = |lasts| open("::1", Some(lasts)).length(DAY).map_err(|problem| problem.error);
        assert_eq!(open("::1", None).length(DAY), Ok(DAY));
        assert_eq!(length(30 * DAY), Ok(30 * DAY));
        let long = length(31 * DAY).unwrap_err();
        assert!(long.contains("`1month 13h 26m 24s` is out of range; give from 1s to"), "{long}");
        assert!(
            length(Duration::from_millis(999)).unwrap_err().contains("`999ms` is out of range")
        );
        assert!(length(Duration::ZERO).unwrap_err().contains("no time at all"));
    }

    #[test]
    fn a_trial_lasts_a_day_at_most() {
        let length = |seconds| Try { lasts: Duration::from_secs(seconds) }.length();
        assert_eq!(length(86_400), Ok(Duration::from_secs(86_400)));
        assert!(length(86_401).is_err());
        assert!(length(0).is_err());
    }

    #[test]
    fn packets_must_be_able_to_come_from_a_source() {
        assert_eq!(open("::ffff:192.0.2.1", None).source(), Ok("192.0.2.1".parse().unwrap()));
        for impossible in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "::ffff:0.0.0.0"] {
            let problem = open(impossible, None).source().unwrap_err();
            assert!(problem.error.contains("no packet comes from"), "{impossible}: {problem:?}");
        }
    }
}

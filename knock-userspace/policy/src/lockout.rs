//! The check that enforcing does not lock out the user who asks for it. Pure.

use std::net::IpAddr;

use knock_common::sequence::Protocol;
use serde::{Deserialize, Serialize};

use crate::policy::{Grant, Policy, Service};

/// The SSH session in which a command was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The address that it comes from.
    pub client: IpAddr,
    /// The port of this host that it came to.
    pub port: u16,
}

impl Session {
    /// Reads the value of `SSH_CONNECTION`, in which sshd writes client address and port, server
    /// address and port (ssh(1)).
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        // A link-local address is followed by its interface.
        let client = words.next()?.split('%').next()?;
        let client: IpAddr = client.parse().ok()?;
        let (_client_port, _server) = (words.next()?, words.next()?);
        let port = words.next()?.parse().ok()?;
        Some(Self { client: client.to_canonical(), port })
    }

    /// Returns the grant that would let the session through the guard.
    pub const fn grant(&self) -> Grant {
        Grant { source: self.client, service: Service::new(Protocol::Tcp, self.port) }
    }
}

/// Enforcing would close the caller's own SSH port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this would lock you out: you are connected from {client} to {service}, which would be closed \
     to you. Put {client} into `always_allow`. Or, while an agent observes, open the door first \
     (`xknockd open {door} {client} --for 1h`) or try it for a while (`xknockd try 2m`). `--force` \
     skips this check"
)]
pub struct LockedOut {
    client: IpAddr,
    service: Service,
    door: String,
}

/// Checks that the user in `session` could connect again if `policy` were enforced. `granted`
/// returns whether a grant is running.
///
/// # Errors
///
/// If they could not.
pub fn check(
    policy: &Policy,
    session: Option<&Session>,
    granted: impl FnOnce(&Grant) -> bool,
) -> Result<(), LockedOut> {
    let Some(session) = session else { return Ok(()) };
    let grant = session.grant();
    let Some(door) = policy.doors.iter().find(|door| door.opens.contains(&grant.service)) else {
        return Ok(());
    };
    let allowed = policy.always_allow.iter().any(|prefix| prefix.contains(&session.client));
    if allowed || session.client.is_loopback() || granted(&grant) {
        return Ok(());
    }
    Err(LockedOut { client: session.client, service: grant.service, door: door.name.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Door;

    fn policy(allow: &[&str]) -> Policy {
        let door = Door::new("ssh", vec![Service::new(Protocol::Tcp, 22)], Vec::new());
        let always_allow = allow.iter().map(|prefix| prefix.parse().expect("a prefix")).collect();
        Policy { doors: vec![door], always_allow, ..Policy::default() }
    }

    fn session(text: &str) -> Session {
        Session::parse(text).expect("a session")
    }

    #[test]
    fn sessions_are_read_as_sshd_writes_them() {
        let v4 = session("198.51.100.7 50022 192.0.2.1 22");
        assert_eq!((v4.client, v4.port), ([198, 51, 100, 7].into(), 22));
        let mapped = session("::ffff:198.51.100.7 50022 ::ffff:192.0.2.1 2222");
        assert_eq!((mapped.client, mapped.port), ([198, 51, 100, 7].into(), 2222));
        let local = session("fe80::7%eth0 50022 fe80::1%eth0 22");
        assert_eq!((local.client, local.port), ("fe80::7".parse().unwrap(), 22));
        for text in ["", "UNKNOWN", "198.51.100.7 1 192.0.2.1", "198.51.100.7 1 192.0.2.1 ssh"] {
            assert_eq!(Session::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn only_who_could_not_come_back_is_locked_out() {
        let here = session("198.51.100.7 50022 192.0.2.1 22");
        let error = check(&policy(&[]), Some(&here), |_| false).unwrap_err().to_string();
        assert!(error.contains("from 198.51.100.7 to tcp/22"), "{error}");
        assert!(error.contains("xknockd open ssh 198.51.100.7"), "{error}");
        let fine = [
            check(&policy(&[]), None, |_| false),
            check(&policy(&["198.51.100.0/24"]), Some(&here), |_| false),
            check(&policy(&[]), Some(&here), |grant| *grant == here.grant()),
            check(&policy(&[]), Some(&session("198.51.100.7 1 192.0.2.1 2222")), |_| false),
            check(&policy(&[]), Some(&session("127.0.0.1 1 127.0.0.1 22")), |_| false),
        ];
        assert_eq!(fine, [Ok(()), Ok(()), Ok(()), Ok(()), Ok(())]);
        assert!(check(&policy(&["203.0.113.0/24"]), Some(&here), |_| false).is_err());
    }
}

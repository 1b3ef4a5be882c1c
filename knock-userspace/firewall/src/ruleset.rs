//! The ruleset that the kernel is to hold, derived from a policy. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use knock_policy::{Connections, Mode, Policy, Service};

/// Everything in the table `inet xknock` except its grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Names of the guarded interfaces. A name that ends with `*` stands for all that begin so.
    /// They need not exist: an interface that appears later is guarded from its first packet on.
    pub interfaces: Vec<String>,
    /// The services of all doors, each with whether its connections end with the grant.
    pub guarded: BTreeMap<Service, bool>,
    /// The sources that never need a grant.
    pub always_allow: Vec<IpNet>,
    /// Whether the guard drops what has no grant.
    pub mode: Mode,
    /// The time, as [`super::since_boot`] counts, until which a guard that observes drops
    /// nevertheless, because `enforce` is on trial. The kernel itself ends the trial.
    pub trial_until: Option<Duration>,
    /// How the guard recognizes packets of running connections.
    pub tracking: Tracking,
}

/// How the guard recognizes packets of running connections. It follows from [`Connections`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// By TCP flags alone, which leaves the network namespace without connection tracking.
    Stateless,
    /// By connection tracking.
    Conntrack,
}

impl Ruleset {
    /// Returns the ruleset of a policy. `conntrack_in_use` decides the meaning of
    /// [`Connections::Auto`].
    pub fn of(policy: &Policy, conntrack_in_use: bool) -> Self {
        let tracking = match policy.connections {
            Connections::Conntrack => Tracking::Conntrack,
            Connections::Auto if conntrack_in_use => Tracking::Conntrack,
            Connections::Auto | Connections::Stateless => Tracking::Stateless,
        };
        let mut guarded = BTreeMap::new();
        for door in &policy.doors {
            for service in &door.opens {
                // If two doors open a service, the stricter one decides.
                *guarded.entry(*service).or_default() |= door.cut;
            }
        }
        Self {
            interfaces: policy.interfaces.clone(),
            guarded,
            always_allow: policy.always_allow.clone(),
            mode: policy.mode,
            trial_until: None,
            tracking,
        }
    }
}

#[cfg(test)]
mod tests {
    use knock_common::sequence::Protocol;

    use super::*;
    use knock_policy::Door;

    const SSH: Service = Service::new(Protocol::Tcp, 22);
    const VPN: Service = Service::new(Protocol::Udp, 51820);

    fn door(opens: &[Service], cut: bool) -> Door {
        Door { cut, ..Door::new(format!("{opens:?}{cut}"), opens.to_vec(), Vec::new()) }
    }

    fn policy(connections: Connections, doors: Vec<Door>) -> Policy {
        Policy {
            interfaces: vec!["eth0".into()],
            mode: Mode::Enforce,
            connections,
            doors,
            ..Policy::default()
        }
    }

    #[test]
    fn a_service_that_any_door_cuts_is_cut() {
        let doors = vec![door(&[SSH], true), door(&[SSH, VPN], false)];
        let ruleset = Ruleset::of(&policy(Connections::Auto, doors), false);
        assert_eq!(ruleset.guarded, BTreeMap::from([(SSH, true), (VPN, false)]));
    }

    #[test]
    fn auto_follows_the_host_and_the_others_do_not() {
        let cases = [
            (Connections::Auto, false, Tracking::Stateless),
            (Connections::Auto, true, Tracking::Conntrack),
            (Connections::Stateless, true, Tracking::Stateless),
            (Connections::Conntrack, false, Tracking::Conntrack),
        ];
        for (connections, in_use, tracking) in cases {
            let ruleset = Ruleset::of(&policy(connections, Vec::new()), in_use);
            assert_eq!(ruleset.tracking, tracking, "{connections} {in_use}");
        }
    }
}

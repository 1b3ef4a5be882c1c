//! What the kernel shall hold, derived from a policy. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use knock_policy::{Connections, Mode, Policy, Service};

/// Everything of the table `inet xknock` but its grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Names of the guarded interfaces; one that ends with `*` stands for all that begin so.
    /// They need not be there: one that appears later is guarded from its first packet on.
    pub interfaces: Vec<String>,
    /// The services of all doors, and whether their connections end with the grant.
    pub guarded: BTreeMap<Service, bool>,
    /// Sources that never need a grant.
    pub always_allow: Vec<IpNet>,
    /// Whether the guard drops.
    pub mode: Mode,
    /// Until when, as [`super::since_boot`] counts, a guard that observes drops nevertheless,
    /// because `enforce` is being tried. The kernel itself ends it.
    pub trial_until: Option<Duration>,
    /// How packets of running connections are told from new ones.
    pub tracking: Tracking,
}

/// How packets of running connections are told from new ones; [`Connections`] decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// By TCP flags alone; leaves the network namespace without connection tracking.
    Stateless,
    /// By connection tracking.
    Conntrack,
}

impl Ruleset {
    /// The ruleset of a policy. `conntrack_in_use` decides what [`Connections::Auto`] means.
    pub fn of(policy: &Policy, conntrack_in_use: bool) -> Self {
        let tracking = match policy.connections {
            Connections::Conntrack => Tracking::Conntrack,
            Connections::Auto if conntrack_in_use => Tracking::Conntrack,
            Connections::Auto | Connections::Stateless => Tracking::Stateless,
        };
        let mut guarded = BTreeMap::new();
        for door in &policy.doors {
            for service in &door.opens {
                // Of two doors to one service the stricter decides.
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

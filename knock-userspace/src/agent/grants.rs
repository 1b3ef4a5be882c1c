//! Which grants are running, and until when. Pure: time comes from the caller.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use crate::policy::{Door, Grant};

/// What the agent believes the kernel holds.
#[derive(Debug, Default)]
pub(super) struct Grants {
    running: HashMap<Grant, Running>,
}

/// One running grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Running {
    door: usize,
    until: Instant,
}

/// A grant that a knock has earned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Earned {
    pub grant: Grant,
    /// Index of the door.
    pub door: usize,
    pub until: Instant,
    /// Whether it was running already.
    pub extended: bool,
}

impl Grants {
    /// What a completed knock of `source` on `door` earns at `now`. A grant that runs
    /// longer than the door would give keeps its end.
    pub(super) fn earned(
        &self,
        source: IpAddr,
        index: usize,
        door: &Door,
        now: Instant,
    ) -> impl Iterator<Item = Earned> {
        door.opens.iter().map(move |&service| {
            let grant = Grant { source, service };
            let running = self.running.get(&grant).filter(|running| running.until > now);
            let until = now + door.open_for;
            Earned {
                grant,
                door: index,
                until: running.map_or(until, |running| running.until.max(until)),
                extended: running.is_some(),
            }
        })
    }

    /// Notes that the kernel holds the grant now.
    pub(super) fn insert(&mut self, earned: Earned) {
        let Earned { grant, door, until, extended: _ } = earned;
        let running = self.running.entry(grant).or_insert(Running { door, until });
        if until >= running.until {
            *running = Running { door, until };
        }
    }

    /// Ends a grant whose time may be over; the index of its door if it was.
    pub(super) fn expire(&mut self, grant: Grant, now: Instant) -> Option<usize> {
        let running = self.running.get(&grant).copied().filter(|running| running.until <= now)?;
        self.running.remove(&grant);
        Some(running.door)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.running.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use knock_common::sequence::Protocol;

    use super::*;
    use crate::policy::Service;

    fn door(open_for: u64) -> Door {
        Door {
            name: "ssh".into(),
            opens: vec![Service::new(Protocol::Tcp, 22), Service::new(Protocol::Udp, 51820)],
            sequence: Vec::new(),
            within: Duration::from_secs(10),
            open_for: Duration::from_secs(open_for),
            cut: false,
        }
    }

    fn knock(grants: &mut Grants, open_for: u64, now: Instant) -> Vec<Earned> {
        let source = "192.0.2.7".parse().unwrap();
        let earned: Vec<_> = grants.earned(source, 0, &door(open_for), now).collect();
        earned.iter().for_each(|&earned| grants.insert(earned));
        earned
    }

    #[test]
    fn a_knock_earns_every_service_of_its_door() {
        let (mut grants, now) = (Grants::default(), Instant::now());
        let earned = knock(&mut grants, 30, now);
        assert_eq!(earned.len(), 2);
        assert!(
            earned.iter().all(|one| !one.extended && one.until == now + Duration::from_secs(30))
        );
    }

    #[test]
    fn a_second_knock_extends_and_the_first_end_is_forgotten() {
        let (mut grants, now) = (Grants::default(), Instant::now());
        let first = knock(&mut grants, 30, now)[0];
        let second = knock(&mut grants, 30, now + Duration::from_secs(20))[0];
        assert!(second.extended);
        assert_eq!(second.until, now + Duration::from_secs(50));
        assert_eq!(grants.expire(first.grant, first.until), None);
        assert_eq!(grants.expire(second.grant, second.until), Some(0));
        assert_eq!(grants.len(), 1);
    }

    #[test]
    fn a_shorter_door_does_not_cut_a_longer_grant() {
        let (mut grants, now) = (Grants::default(), Instant::now());
        knock(&mut grants, 300, now);
        let second = knock(&mut grants, 30, now)[0];
        assert_eq!(second.until, now + Duration::from_secs(300));
    }

    #[test]
    fn a_grant_that_has_ended_is_not_extended() {
        let (mut grants, now) = (Grants::default(), Instant::now());
        knock(&mut grants, 30, now);
        assert!(!knock(&mut grants, 30, now + Duration::from_secs(30))[0].extended);
    }
}

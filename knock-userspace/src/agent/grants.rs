//! Which grants are running, and until when. Pure: time comes from the caller.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use crate::policy::{Door, Grant, Policy};

/// What the agent believes the kernel holds, or will hold once the transaction under way
/// is through.
#[derive(Debug, Default)]
pub(super) struct Grants {
    running: HashMap<Grant, Running>,
    /// How many each source holds, and how many each door has given.
    of_source: HashMap<IpAddr, u32>,
    of_door: HashMap<usize, u32>,
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
    /// What was running before.
    before: Option<Running>,
}

impl Earned {
    /// Whether the grant was running already.
    pub(super) const fn extended(&self) -> bool {
        self.before.is_some()
    }
}

/// Why a completed knock earns nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the source holds {0} grants, and `max_grants` allows no more")]
    Source(u32),
    #[error("the door has given {0} grants, and its `max_grants` allows no more")]
    Door(u32),
}

impl Grants {
    /// Takes down what a completed knock of `source` on door `index` earns at `now`: one
    /// grant for each service of the door, or none at all. A grant that runs longer than
    /// the door would give keeps its end; to extend one is never refused.
    pub(super) fn earn(
        &mut self,
        policy: &Policy,
        source: IpAddr,
        index: usize,
        now: Instant,
    ) -> Result<Vec<Earned>, Refused> {
        let Some(door) = policy.doors.get(index) else { return Ok(Vec::new()) };
        let earned: Vec<_> = door
            .opens
            .iter()
            .map(|&service| {
                let grant = Grant { source, service };
                let before = self.running.get(&grant).filter(|running| running.until > now);
                let until = now + door.open_for;
                Earned {
                    grant,
                    door: index,
                    until: before.map_or(until, |running| running.until.max(until)),
                    before: before.copied(),
                }
            })
            .collect();
        self.check(policy, door, index, source, &earned)?;
        for &one in &earned {
            let door = match one.before {
                Some(running) if running.until > now + door.open_for => running.door,
                _ => index,
            };
            self.set(one.grant, Some(Running { door, until: one.until }));
        }
        Ok(earned)
    }

    fn check(
        &self,
        policy: &Policy,
        door: &Door,
        index: usize,
        source: IpAddr,
        earned: &[Earned],
    ) -> Result<(), Refused> {
        let new = earned.iter().filter(|one| !one.extended()).count();
        let new = u32::try_from(new).unwrap_or(u32::MAX);
        if new == 0 {
            return Ok(());
        }
        let held = self.of_source.get(&source).copied().unwrap_or(0);
        if held.saturating_add(new) > policy.max_grants {
            return Err(Refused::Source(held));
        }
        let given = self.of_door.get(&index).copied().unwrap_or(0);
        if given.saturating_add(new) > door.max_grants {
            return Err(Refused::Door(given));
        }
        Ok(())
    }

    /// Takes back what the kernel refused; in the reverse order of [`Grants::earn`].
    pub(super) fn take_back(&mut self, earned: Earned) {
        self.set(earned.grant, earned.before);
    }

    /// Ends a grant whose time may be over; the index of its door if it was.
    pub(super) fn expire(&mut self, grant: Grant, now: Instant) -> Option<usize> {
        let running = self.running.get(&grant).copied().filter(|running| running.until <= now)?;
        self.set(grant, None);
        Some(running.door)
    }

    /// Writes or removes a grant, and keeps the counts.
    fn set(&mut self, grant: Grant, running: Option<Running>) {
        let before = match running {
            Some(running) => self.running.insert(grant, running),
            None => self.running.remove(&grant),
        };
        if let Some(before) = before {
            drop_one(&mut self.of_source, grant.source);
            drop_one(&mut self.of_door, before.door);
        }
        if let Some(running) = running {
            *self.of_source.entry(grant.source).or_insert(0) += 1;
            *self.of_door.entry(running.door).or_insert(0) += 1;
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.running.len()
    }
}

fn drop_one<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: K) {
    if let std::collections::hash_map::Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use knock_common::sequence::Protocol;

    use super::*;
    use crate::policy::Service;

    const SOURCE: [u8; 4] = [192, 0, 2, 7];

    fn policy(open_for: &[u64]) -> Policy {
        let opens = || vec![Service::new(Protocol::Tcp, 22), Service::new(Protocol::Udp, 51820)];
        let door = |&seconds: &u64| Door {
            open_for: Duration::from_secs(seconds),
            ..Door::new("ssh", opens(), Vec::new())
        };
        Policy { doors: open_for.iter().map(door).collect(), ..Policy::default() }
    }

    fn knock(grants: &mut Grants, policy: &Policy, door: usize, now: Instant) -> Vec<Earned> {
        grants.earn(policy, SOURCE.into(), door, now).expect("a grant")
    }

    #[test]
    fn a_knock_earns_every_service_of_its_door() {
        let (mut grants, now) = (Grants::default(), Instant::now());
        let earned = knock(&mut grants, &policy(&[30]), 0, now);
        assert_eq!(earned.len(), 2);
        let until = now + Duration::from_secs(30);
        assert!(earned.iter().all(|one| !one.extended() && one.until == until));
    }

    #[test]
    fn a_second_knock_extends_and_the_first_end_is_forgotten() {
        let (mut grants, now, policy) = (Grants::default(), Instant::now(), policy(&[30]));
        let first = knock(&mut grants, &policy, 0, now)[0];
        let second = knock(&mut grants, &policy, 0, now + Duration::from_secs(20))[0];
        assert!(second.extended());
        assert_eq!(second.until, now + Duration::from_secs(50));
        assert_eq!(grants.expire(first.grant, first.until), None);
        assert_eq!(grants.expire(second.grant, second.until), Some(0));
        assert_eq!(grants.len(), 1);
    }

    #[test]
    fn a_shorter_door_does_not_cut_a_longer_grant() {
        let (mut grants, now, policy) = (Grants::default(), Instant::now(), policy(&[300, 30]));
        knock(&mut grants, &policy, 0, now);
        let second = knock(&mut grants, &policy, 1, now)[0];
        assert_eq!(second.until, now + Duration::from_secs(300));
        assert_eq!(grants.expire(second.grant, second.until), Some(0), "it is the longer door's");
    }

    #[test]
    fn a_grant_that_has_ended_is_not_extended() {
        let (mut grants, now, policy) = (Grants::default(), Instant::now(), policy(&[30]));
        knock(&mut grants, &policy, 0, now);
        let later = now + Duration::from_secs(30);
        assert!(!knock(&mut grants, &policy, 0, later)[0].extended());
    }

    #[test]
    fn who_holds_enough_gets_no_more_but_keeps_what_there_is() {
        let (mut grants, now) = (Grants::default(), Instant::now());
        let policy = Policy { max_grants: 3, ..policy(&[30, 30]) };
        let mut policy = policy;
        policy.doors[1].opens =
            vec![Service::new(Protocol::Tcp, 80), Service::new(Protocol::Tcp, 443)];
        knock(&mut grants, &policy, 0, now);
        let refused = grants.earn(&policy, SOURCE.into(), 1, now);
        assert_eq!(refused, Err(Refused::Source(2)), "both services or none");
        assert!(knock(&mut grants, &policy, 0, now)[0].extended());
        assert!(grants.earn(&policy, [192, 0, 2, 8].into(), 1, now).is_ok());
    }

    #[test]
    fn a_door_that_has_given_enough_gives_again_once_a_grant_ends() {
        let (mut grants, now, mut policy) = (Grants::default(), Instant::now(), policy(&[30]));
        policy.doors[0].max_grants = 2;
        let earned = knock(&mut grants, &policy, 0, now);
        let other: IpAddr = [192, 0, 2, 8].into();
        assert_eq!(grants.earn(&policy, other, 0, now), Err(Refused::Door(2)));
        for one in earned {
            grants.expire(one.grant, one.until);
        }
        assert!(grants.earn(&policy, other, 0, now).is_ok());
    }

    #[test]
    fn what_the_kernel_refused_leaves_no_trace() {
        let (mut grants, now, policy) = (Grants::default(), Instant::now(), policy(&[30]));
        let mut earned = knock(&mut grants, &policy, 0, now);
        earned.extend(knock(&mut grants, &policy, 0, now + Duration::from_secs(1)));
        earned.into_iter().rev().for_each(|one| grants.take_back(one));
        assert_eq!(grants.len(), 0);
        assert!(grants.of_source.is_empty() && grants.of_door.is_empty());
    }
}

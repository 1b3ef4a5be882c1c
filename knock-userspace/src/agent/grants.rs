//! The set of running grants and their ends. Pure: time comes from the caller. It is counted from
//! boot and goes on while the host sleeps.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use knock_common::sequence::DoorId;
use knock_policy::{Door, Grant, Policy};

/// The grants that the kernel's table holds, or will hold once the transaction under way is done.
#[derive(Debug, Default)]
pub(super) struct Grants {
    running: HashMap<Grant, RunningGrant>,
    /// How many grants each source holds.
    of_source: HashMap<IpAddr, u32>,
    /// How many running grants each door has given.
    of_door: HashMap<DoorId, u32>,
}

/// One running grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunningGrant {
    pub door: DoorId,
    pub until: Duration,
}

/// A grant that a knock has earned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Earned {
    pub grant: Grant,
    pub door: DoorId,
    pub until: Duration,
    /// The same grant as it was running before, if it was.
    pub before: Option<RunningGrant>,
}

impl Earned {
    /// Whether the grant was running already.
    pub(super) const fn extended(&self) -> bool {
        self.before.is_some()
    }
}

/// The limit that keeps a completed knock from earning anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the source holds {0} grants, and `max_grants` allows no more")]
    Source(u32),
    #[error("the door has given {0} grants, and its `max_grants` allows no more")]
    Door(u32),
}

impl Grants {
    /// Notes and returns the grants that `source` earns by a knock on `door` at `now`, for as long
    /// as `lasts`: one for each service of the door, or none at all. A grant that runs longer than
    /// that keeps its end. To extend a grant is never refused.
    ///
    /// # Errors
    ///
    /// If the source or the door has as many grants as the policy allows.
    pub(super) fn earn(
        &mut self,
        policy: &Policy,
        door: &Door,
        source: IpAddr,
        lasts: Duration,
        now: Duration,
    ) -> Result<Vec<Earned>, Refused> {
        let id = door.id();
        let earned: Vec<_> = door
            .opens
            .iter()
            .map(|&service| {
                let grant = Grant { source, service };
                let before = self.running.get(&grant).filter(|running| running.until > now);
                let (door, until) = match before {
                    Some(running) if running.until > now + lasts => (running.door, running.until),
                    _ => (id, now + lasts),
                };
                Earned { grant, door, until, before: before.copied() }
            })
            .collect();
        self.check(policy, door, source, &earned)?;
        for &Earned { grant, door, until, .. } in &earned {
            self.set(grant, Some(RunningGrant { door, until }));
        }
        Ok(earned)
    }

    fn check(
        &self,
        policy: &Policy,
        door: &Door,
        source: IpAddr,
        earned: &[Earned],
    ) -> Result<(), Refused> {
        let new = earned.iter().filter(|earned| !earned.extended()).count();
        let new = u32::try_from(new).unwrap_or(u32::MAX);
        if new == 0 {
            return Ok(());
        }
        let held = self.of_source.get(&source).copied().unwrap_or(0);
        if held.saturating_add(new) > policy.max_grants {
            return Err(Refused::Source(held));
        }
        let given = self.of_door.get(&door.id()).copied().unwrap_or(0);
        if given.saturating_add(new) > door.max_grants {
            return Err(Refused::Door(given));
        }
        Ok(())
    }

    /// Takes back a grant that the kernel refused. Several are taken back in the reverse order of
    /// [`Grants::earn`].
    pub(super) fn undo(&mut self, earned: Earned) {
        self.set(earned.grant, earned.before);
    }

    /// Notes a grant that was running before this agent was.
    pub(super) fn adopt(&mut self, grant: Grant, running: RunningGrant) {
        self.set(grant, Some(running));
    }

    /// Removes a grant and returns it, or `None` if it was not running.
    pub(super) fn end(&mut self, grant: Grant) -> Option<RunningGrant> {
        let running = self.running.get(&grant).copied()?;
        self.set(grant, None);
        Some(running)
    }

    /// Removes a grant and returns it, if its time is over at `now`.
    pub(super) fn expire(&mut self, grant: Grant, now: Duration) -> Option<RunningGrant> {
        self.running.get(&grant).filter(|running| running.until <= now)?;
        self.end(grant)
    }

    /// Iterates over every grant that has been earned and has not ended.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Grant, RunningGrant)> {
        self.running.iter().map(|(grant, running)| (*grant, *running))
    }

    /// Returns when a grant ends, or `None` if it is not running.
    pub(super) fn until(&self, grant: &Grant) -> Option<Duration> {
        self.running.get(grant).map(|running| running.until)
    }

    /// Returns the grants that `policy` no longer gives: their door is gone, or opens other
    /// services.
    pub(super) fn no_longer_allowed(&self, policy: &Policy) -> Vec<Grant> {
        let doors: HashMap<_, _> = policy.doors.iter().map(|door| (door.id(), door)).collect();
        let allowed = |grant: &Grant, running: &RunningGrant| {
            doors.get(&running.door).is_some_and(|door| door.opens.contains(&grant.service))
        };
        let lost = self.running.iter().filter(|(grant, running)| !allowed(grant, running));
        lost.map(|(grant, _)| *grant).collect()
    }

    /// Writes or removes a grant, and keeps the counts.
    fn set(&mut self, grant: Grant, running: Option<RunningGrant>) {
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

    /// Returns how many running grants a door has given.
    pub(super) fn given_by(&self, door: DoorId) -> usize {
        self.of_door.get(&door).map_or(0, |given| *given as usize)
    }

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
    use knock_common::sequence::Protocol;

    use super::*;
    use knock_policy::Service;

    const SOURCE: [u8; 4] = [192, 0, 2, 7];

    fn policy(open_for: &[u64]) -> Policy {
        let opens = || vec![Service::new(Protocol::Tcp, 22), Service::new(Protocol::Udp, 51820)];
        let door = |(n, &seconds): (usize, &u64)| Door {
            open_for: Duration::from_secs(seconds),
            ..Door::new(format!("door{n}"), opens(), Vec::new())
        };
        Policy { doors: open_for.iter().enumerate().map(door).collect(), ..Policy::default() }
    }

    const NOW: Duration = Duration::from_secs(1000);

    fn try_knock(
        grants: &mut Grants,
        policy: &Policy,
        source: IpAddr,
        door: usize,
        now: Duration,
    ) -> Result<Vec<Earned>, Refused> {
        let door = &policy.doors[door];
        grants.earn(policy, door, source, door.open_for, now)
    }

    fn knock(grants: &mut Grants, policy: &Policy, door: usize, now: Duration) -> Vec<Earned> {
        try_knock(grants, policy, SOURCE.into(), door, now).expect("a grant")
    }

    #[test]
    fn a_knock_earns_every_service_of_its_door() {
        let (mut grants, now) = (Grants::default(), NOW);
        let earned = knock(&mut grants, &policy(&[30]), 0, now);
        assert_eq!(earned.len(), 2);
        let until = now + Duration::from_secs(30);
        assert!(earned.iter().all(|earned| !earned.extended() && earned.until == until));
    }

    #[test]
    fn a_second_knock_extends_and_the_first_end_is_forgotten() {
        let (mut grants, now, policy) = (Grants::default(), NOW, policy(&[30]));
        let first = knock(&mut grants, &policy, 0, now)[0];
        let second = knock(&mut grants, &policy, 0, now + Duration::from_secs(20))[0];
        assert!(second.extended());
        assert_eq!(second.until, now + Duration::from_secs(50));
        assert_eq!(grants.expire(first.grant, first.until), None);
        assert_eq!(
            grants.expire(second.grant, second.until),
            Some(RunningGrant { door: DoorId::of("door0"), until: second.until })
        );
        assert_eq!(grants.len(), 1);
    }

    #[test]
    fn a_shorter_door_does_not_cut_a_longer_grant() {
        let (mut grants, now, policy) = (Grants::default(), NOW, policy(&[300, 30]));
        knock(&mut grants, &policy, 0, now);
        let second = knock(&mut grants, &policy, 1, now)[0];
        assert_eq!(second.until, now + Duration::from_secs(300));
        assert_eq!(
            grants.expire(second.grant, second.until),
            Some(RunningGrant { door: DoorId::of("door0"), until: second.until }),
            "it is the longer door's"
        );
    }

    #[test]
    fn a_grant_that_has_ended_is_not_extended() {
        let (mut grants, now, policy) = (Grants::default(), NOW, policy(&[30]));
        knock(&mut grants, &policy, 0, now);
        let later = now + Duration::from_secs(30);
        assert!(!knock(&mut grants, &policy, 0, later)[0].extended());
    }

    #[test]
    fn a_source_with_enough_grants_gets_no_more_but_keeps_those() {
        let (mut grants, now) = (Grants::default(), NOW);
        let policy = Policy { max_grants: 3, ..policy(&[30, 30]) };
        let mut policy = policy;
        policy.doors[1].opens =
            vec![Service::new(Protocol::Tcp, 80), Service::new(Protocol::Tcp, 443)];
        knock(&mut grants, &policy, 0, now);
        let refused = try_knock(&mut grants, &policy, SOURCE.into(), 1, now);
        assert_eq!(refused, Err(Refused::Source(2)), "both services or none");
        assert!(knock(&mut grants, &policy, 0, now)[0].extended());
        assert!(try_knock(&mut grants, &policy, [192, 0, 2, 8].into(), 1, now).is_ok());
    }

    #[test]
    fn a_door_that_has_given_enough_gives_again_once_a_grant_ends() {
        let (mut grants, now, mut policy) = (Grants::default(), NOW, policy(&[30]));
        policy.doors[0].max_grants = 2;
        let earned = knock(&mut grants, &policy, 0, now);
        let other: IpAddr = [192, 0, 2, 8].into();
        assert_eq!(try_knock(&mut grants, &policy, other, 0, now), Err(Refused::Door(2)));
        for Earned { grant, until, .. } in earned {
            grants.expire(grant, until);
        }
        assert!(try_knock(&mut grants, &policy, other, 0, now).is_ok());
    }

    #[test]
    fn what_the_kernel_refused_leaves_no_trace() {
        let (mut grants, now, policy) = (Grants::default(), NOW, policy(&[30]));
        let mut earned = knock(&mut grants, &policy, 0, now);
        earned.extend(knock(&mut grants, &policy, 0, now + Duration::from_secs(1)));
        earned.into_iter().rev().for_each(|earned| grants.undo(earned));
        assert_eq!(grants.len(), 0);
        assert!(grants.of_source.is_empty() && grants.of_door.is_empty());
    }
}

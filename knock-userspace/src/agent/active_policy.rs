//! The policy that the agent acts on, with its doors by identifier.

use std::collections::HashMap;
use std::ops::Deref;

use knock_common::sequence::DoorId;
use knock_policy::{Door, Policy};

/// A policy whose doors are found by the identifier that events carry.
pub(super) struct ActivePolicy {
    policy: Policy,
    /// Indices into `policy.doors`. Ten thousand doors must not be searched for each knock.
    by_id: HashMap<DoorId, usize>,
}

impl ActivePolicy {
    pub(super) fn new(policy: Policy) -> Self {
        let by_id =
            policy.doors.iter().enumerate().map(|(index, door)| (door.id(), index)).collect();
        Self { policy, by_id }
    }

    /// Returns the door with this identifier.
    pub(super) fn door_by_id(&self, id: DoorId) -> Option<&Door> {
        self.policy.doors.get(*self.by_id.get(&id)?)
    }

    /// Returns the name of the door with this identifier.
    pub(super) fn door_name(&self, id: DoorId) -> Option<&str> {
        self.door_by_id(id).map(|door| door.name.as_str())
    }
}

impl Deref for ActivePolicy {
    type Target = Policy;

    fn deref(&self) -> &Policy {
        &self.policy
    }
}

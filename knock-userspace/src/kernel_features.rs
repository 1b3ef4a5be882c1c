//! The table of kernel features: the detector's, and those of nftables that the guard uses.

use knock_detector::{Component, FEATURES, Feature, Probe};
use knock_firewall::{Ability, has};

/// The features of nftables that the guard uses or could use.
static GUARD: [Feature; 5] = [
    Feature {
        name: "nftables for both families",
        component: Component::Guard,
        needed_for: "the guard",
        since: "3.14",
        commit: "1d49144c0aaa",
        instead: None,
        probe: Probe::Apart(|| has(Ability::Tables)),
    },
    Feature {
        name: "new time-outs for set elements",
        component: Component::Guard,
        needed_for: "grants that are extended",
        since: "6.12",
        commit: "4201f3938914",
        instead: Some("adding, deleting and adding again in one transaction, on every kernel"),
        probe: Probe::Apart(|| has(Ability::NewTimeouts)),
    },
    Feature {
        name: "tables with an owner",
        component: Component::Guard,
        needed_for: "nothing yet: a table that others cannot flush",
        since: "5.12",
        commit: "6001a930ce03",
        instead: Some("the agent restores a table that was flushed"),
        probe: Probe::Apart(|| has(Ability::Owner)),
    },
    Feature {
        name: "owned tables that persist",
        component: Component::Guard,
        needed_for: "nothing yet: the same, and the ports stay closed without the agent",
        since: "6.9",
        commit: "da5141bbe0c2",
        instead: Some("a table without an owner, which outlives the agent"),
        probe: Probe::Apart(|| has(Ability::Persist)),
    },
    Feature {
        name: "reject before routing",
        component: Component::Guard,
        needed_for: "nothing yet: a guard that answers as a closed port does",
        since: "5.9",
        commit: "f53b9b0bdc59",
        instead: Some("a guard that drops"),
        probe: Probe::Apart(|| has(Ability::Reject)),
    },
];

/// Returns every feature: the detector's, the guard's, then the agent's and those that only tests
/// use.
pub fn features() -> impl Iterator<Item = &'static Feature> {
    let (detector, others): (Vec<_>, Vec<_>) =
        FEATURES.iter().partition(|feature| feature.component == Component::Detector);
    detector.into_iter().chain(&GUARD).chain(others)
}

#[cfg(test)]
mod tests {
    use knock_detector::FLOOR;

    use super::*;

    fn version(text: &str) -> (u32, u32) {
        let (major, minor) = text.split_once('.').expect("major.minor");
        (major.parse().unwrap(), minor.parse().unwrap())
    }

    #[test]
    fn what_has_no_substitute_is_at_the_floor_or_below_it() {
        for feature in features().filter(|feature| feature.instead.is_none()) {
            assert!(version(feature.since) <= version(FLOOR), "{}", feature.name);
        }
    }

    #[test]
    fn every_commit_can_be_looked_up() {
        for feature in features() {
            let hex = feature.commit.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(hex && feature.commit.len() == 12, "{}", feature.name);
        }
    }
}

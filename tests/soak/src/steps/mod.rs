//! The steps of the soak, chosen at random.

mod knocks;
mod links;
mod lives;
mod look;
mod owner;
mod reloads;
mod sealed;
mod table;

use anyhow::Result;
use rand::{RngExt as _, rngs::StdRng};

use crate::Soak;

/// One step: its weight, its name, and its work, which returns the particulars.
pub(crate) struct Kind {
    weight: u32,
    name: &'static str,
    work: fn(&mut Soak) -> Result<String>,
}

const KINDS: [Kind; 20] = [
    Kind { weight: 8, name: "knock with xknock", work: Soak::knock_with_client },
    Kind { weight: 8, name: "knock with frames", work: Soak::knock_with_frames },
    Kind { weight: 4, name: "knock at the second interface", work: Soak::knock_at_second },
    Kind { weight: 6, name: "half a knock, then", work: Soak::half_a_knock },
    Kind { weight: 8, name: "sealed knocks, and copies", work: Soak::knock_sealed },
    Kind { weight: 4, name: "flood", work: Soak::flood },
    Kind { weight: 4, name: "flood, meanwhile", work: Soak::flood_and_more },
    Kind { weight: 6, name: "kill", work: Soak::kill_and_restart },
    Kind { weight: 4, name: "kill in the middle of knocks", work: Soak::kill_among_knocks },
    Kind { weight: 3, name: "SIGTERM", work: Soak::stop_and_restart },
    Kind {
        weight: 3,
        name: "restarts under a stream of knocks",
        work: Soak::restarts_under_stream,
    },
    Kind { weight: 3, name: "end during start-up", work: Soak::end_during_start },
    Kind { weight: 8, name: "reload", work: Soak::reload },
    Kind { weight: 3, name: "reload a wrong config", work: Soak::reload_wrong },
    Kind { weight: 8, name: "nft", work: Soak::meddle },
    Kind { weight: 2, name: "nft during start-up", work: Soak::meddle_during_start },
    Kind { weight: 2, name: "interfaces during start-up", work: Soak::flap_during_start },
    Kind { weight: 6, name: "second interface", work: Soak::flap },
    Kind { weight: 6, name: "owner", work: Soak::owner },
    Kind { weight: 3, name: "try", work: Soak::try_enforcing },
];

impl Kind {
    /// Returns whether there is a step whose name contains `only`.
    pub(crate) fn any(only: &str) -> bool {
        KINDS.iter().any(|kind| kind.name.contains(only))
    }

    /// Draws one of the steps whose names contain `only`. There must be one.
    pub(crate) fn choose(rng: &mut StdRng, only: &str) -> &'static Self {
        let kinds = KINDS.iter().filter(|kind| kind.name.contains(only));
        weighted(rng, &kinds.map(|kind| (kind.weight, kind)).collect::<Vec<_>>())
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn run(&self, soak: &mut Soak) -> Result<String> {
        (self.work)(soak)
    }
}

/// Draws one of `choices`, each as often as its weight says.
fn weighted<T: Copy>(rng: &mut StdRng, choices: &[(u32, T)]) -> T {
    let mut left = rng.random_range(0..choices.iter().map(|(weight, _)| weight).sum());
    for &(weight, choice) in choices {
        match left.checked_sub(weight) {
            Some(rest) => left = rest,
            None => return choice,
        }
    }
    unreachable!("the number is below the sum of all weights")
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn choices_are_drawn_as_often_as_their_weights_say() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut drawn = [0u32; 3];
        for _ in 0..6000 {
            drawn[weighted(&mut rng, &[(1, 0), (3, 1), (2, 2)])] += 1;
        }
        for (count, expected) in drawn.into_iter().zip([1000, 3000, 2000]) {
            assert!(count.abs_diff(expected) < 200, "{drawn:?}");
        }
    }
}

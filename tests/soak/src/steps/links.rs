//! Changes of the second interface: added, removed, renamed.

use std::time::Duration;

use anyhow::Result;
use rand::RngExt as _;

use super::weighted;
use crate::Soak;
use crate::world::World;

/// A change of it.
#[derive(Clone, Copy, Debug)]
enum Flap {
    DownAndUp,
    Recreate,
    /// Recreated with the index that the one before had.
    RecreateInPlace,
    Rename(&'static str),
    Remove,
}

const FLAPS: [(u32, Flap); 7] = [
    (2, Flap::DownAndUp),
    (2, Flap::Recreate),
    (1, Flap::RecreateInPlace),
    (2, Flap::Rename("eth1")),
    (1, Flap::Rename("eth7")),
    (1, Flap::Rename("lan0")),
    (1, Flap::Remove),
];

impl Flap {
    fn apply(self, world: &mut World) {
        match (self, world.second) {
            (_, None) => world.add_second(None),
            (Self::DownAndUp, Some(name)) => {
                world.lab.server.ip(&format!("link set {name} down"));
                world.raise_second();
            }
            (Self::Recreate, Some(_)) => {
                world.remove_second();
                world.add_second(None);
            }
            (Self::RecreateInPlace, Some(_)) => {
                let index = world.remove_second();
                world.add_second(index);
            }
            (Self::Rename(to), Some(name)) if to == name => world.rename_second("lan0"),
            (Self::Rename(to), Some(_)) => world.rename_second(to),
            (Self::Remove, Some(_)) => _ = world.remove_second(),
        }
    }
}

impl Soak {
    fn a_flap(&mut self) -> Flap {
        weighted(&mut self.rng, &FLAPS)
    }

    /// Changes it a few times in a row, with or without a running agent.
    pub(super) fn flap(&mut self) -> Result<String> {
        let times = self.rng.random_range(1..4);
        let flaps: Vec<_> = (0..times).map(|_| self.a_flap()).collect();
        for flap in &flaps {
            flap.apply(&mut self.world);
        }
        Ok(format!("{flaps:?}, now {:?}", self.world.second))
    }

    pub(super) fn flap_during_start(&mut self) -> Result<String> {
        self.kill()?;
        let flaps: Vec<_> = (0..64).map(|_| self.a_flap()).collect();
        let (mut done, pause) = (0, self.jitter(10));
        self.world.start_while(pause.max(Duration::from_micros(1)), |world| {
            flaps[done % flaps.len()].apply(world);
            done += 1;
        })?;
        self.note_start();
        Ok(format!("{done} changes, now {:?}", self.world.second))
    }
}

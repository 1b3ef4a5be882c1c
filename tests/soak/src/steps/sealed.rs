//! Knocks of a device with a key, and copies of them by another host.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context as _, Result};
use knock_lab::{Packet, wire};
use rand::RngExt as _;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use super::knocks::Knock;
use crate::device::PORT;
use crate::{Soak, one_in};

impl Soak {
    /// Sends some sealed knocks, and copies of all packets so far from any address: before the
    /// knocks, right after them, while no agent runs, and after it is back. Each knock counts once.
    pub(super) fn knock_sealed(&mut self) -> Result<String> {
        let mut sources = self.client_sources();
        sources.shuffle(&mut self.rng);
        sources.truncate(self.rng.random_range(1..4));
        self.copy()?;
        let since = Instant::now();
        let down = one_in(&mut self.rng, 2);
        if down {
            self.kill()?;
        }
        let mut knocks = Vec::new();
        for source in sources {
            let packet = self.device.seal()?;
            let frame = Packet::to(&self.world.lab.server, source).datagram(PORT, &packet);
            // A copy may overtake the knock on its way to another CPU, so it comes from the same
            // source.
            let copies = self.rng.random_range(1..3);
            wire::send(&self.world.lab.client, vec![frame; copies]);
            knocks.push(Knock { source, door: self.model.plan.vault.clone(), since });
        }
        self.tally.knocks += knocks.len() as u64;
        if down {
            self.start()?;
        }
        self.must_be_granted(&knocks)?;
        self.copy()?;
        if one_in(&mut self.rng, 2) {
            self.kill()?;
            self.copy()?;
            self.start()?;
        }
        self.copy()?;
        let how = if down { "while no agent ran" } else { "to a running agent" };
        let copied = self.device.captured().len();
        Ok(format!("{} {how}, copies of {copied} packets", knocks.len()))
    }

    /// Sends all captured packets, each from some address.
    fn copy(&mut self) -> Result<()> {
        let stranger = &self.world.lab.stranger;
        let mut from = self.client_sources();
        from.extend([stranger.v4, stranger.v6]);
        let copies = self.device.captured().to_vec();
        let mut frames = Vec::new();
        for packet in copies {
            let source: IpAddr = *from.choose(&mut self.rng).context("there are sources")?;
            frames.push(Packet::to(&self.world.lab.server, source).datagram(PORT, &packet));
        }
        wire::send(&self.world.lab.client, frames);
        Ok(())
    }
}

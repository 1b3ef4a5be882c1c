//! A device with a key, and a capture of all that it sent.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use knock_common::sealed::SIZE;
use knock_keys::{Action, Address, DoorTag, Folder, Key, Kind, Request, Sealer};
use knock_userspace::keyring::ReplayStore;
use tempfile::TempDir;

use crate::world::World;

/// The port of its packets: the default of `port` in a config.
pub(crate) const PORT: u16 = 62_201;
/// The number of its packets that are kept: all that a clock window has, and older ones.
const CAPTURED: usize = 64;

pub(crate) struct Device {
    sealer: Sealer,
    /// Its packets, the latest last.
    captured: Vec<[u8; SIZE]>,
    _keys: TempDir,
}

impl Device {
    /// Gives a key for the door `vault` to the agent of `world`, which does not run yet.
    pub(crate) fn new(world: &World, keys: TempDir) -> Result<Self> {
        let door = format!("vault:sealed:{PORT}:seen:16:tcp/993");
        let door = door.parse().map_err(|error| anyhow!("{door}: {error}"))?;
        let host = world.lab.server.v4.to_string();
        let now = now_ns() / 1_000_000_000;
        let (key, line) =
            Key::draw("device".into(), host, Kind::Shared, vec![door], now, None, None)?;
        ReplayStore::create_if_absent(&world.paths().newest())?;
        Folder::new(keys.path().join("keys")).write(&key, false)?;
        let sealer = Sealer::new(line.id, &line.credential).context("a key")?;
        Ok(Self { sealer, captured: Vec::new(), _keys: keys })
    }

    /// Seals a packet that opens the vault for its sender, once.
    pub(crate) fn seal(&mut self) -> Result<[u8; SIZE]> {
        let request = Request {
            action: Action::Open,
            time_ns: now_ns(),
            doors: vec![DoorTag::of("vault")],
            wanted_s: 0,
            address: Address::Seen,
        };
        let packet = self.sealer.seal(&request)?;
        self.captured.drain(..(self.captured.len() + 1).saturating_sub(CAPTURED));
        self.captured.push(packet);
        Ok(packet)
    }

    /// Returns the captured packets.
    pub(crate) fn captured(&self) -> &[[u8; SIZE]] {
        &self.captured
    }
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

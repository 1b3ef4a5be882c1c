//! Changes of the agent's table by another tool.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use knock_lab::process::PATIENCE;
use rand::seq::IndexedRandom as _;

use super::weighted;
use crate::Soak;
use crate::model::Grant;

/// A change by another tool.
#[derive(Clone, Copy)]
enum Change {
    DeleteElement,
    FlushGrants,
    FlushGuarded,
    FlushCheck,
    FlushGuard,
    DeleteTable,
    AddElement,
    HalfATable,
    FlushAll,
}

const CHANGES: [(u32, Change); 9] = [
    (3, Change::DeleteElement),
    (1, Change::FlushGrants),
    (1, Change::FlushGuarded),
    (1, Change::FlushCheck),
    (1, Change::FlushGuard),
    (1, Change::DeleteTable),
    (1, Change::AddElement),
    (1, Change::HalfATable),
    (1, Change::FlushAll),
];

impl Soak {
    /// Changes the table and waits until the agent says that it has restored it.
    pub(super) fn meddle(&mut self) -> Result<String> {
        let line = self.a_change();
        let restored = self.restored()?;
        let output = self.world.lab.server.shell(&format!("nft '{line}'"));
        if !output.status.success() {
            bail!("`nft {line}` fails: {}", String::from_utf8_lossy(&output.stderr));
        }
        let deadline = Instant::now() + PATIENCE;
        while self.restored()? <= restored {
            if Instant::now() > deadline {
                bail!("after `nft {line}` nothing was restored");
            }
        }
        Ok(line)
    }

    fn restored(&self) -> Result<u64> {
        Ok(self.world.asked("status")?["restored"].as_u64().unwrap_or(0))
    }

    /// Returns a command that changes the table.
    pub(super) fn a_change(&mut self) -> String {
        let running: Vec<Grant> = self.model.running(Instant::now()).cloned().collect();
        let element = running.choose(&mut self.rng);
        let set = |source: &IpAddr| if source.is_ipv4() { "open4" } else { "open6" };
        match (weighted(&mut self.rng, &CHANGES), element) {
            (Change::DeleteElement, Some((source, service))) => {
                let (protocol, port) = service.split_once('/').unwrap_or(("tcp", "22"));
                let set = set(source);
                format!("delete element inet xknock {set} {{ {source} . {protocol} . {port} }}")
            }
            (Change::FlushGrants, Some((source, _))) => {
                format!("flush set inet xknock {}", set(source))
            }
            (Change::FlushGuarded, _) => "flush set inet xknock guarded".to_owned(),
            (Change::FlushCheck, _) => "flush chain inet xknock check".to_owned(),
            (Change::FlushGuard, _) => "flush chain inet xknock guard".to_owned(),
            (Change::DeleteTable, _) => "delete table inet xknock".to_owned(),
            (Change::AddElement, _) => {
                let stranger = self.world.lab.stranger.v4;
                format!("add element inet xknock open4 {{ {stranger} . tcp . 22 timeout 1h }}")
            }
            (Change::HalfATable, _) => {
                // What is left cannot be read as a table of the agent.
                let chains = "flush chain inet xknock guard; flush chain inet xknock check";
                format!("{chains}; delete chain inet xknock check; delete set inet xknock open4")
            }
            // Also in place of a change of a grant, where there is none.
            (Change::FlushAll | Change::DeleteElement | Change::FlushGrants, _) => {
                "flush ruleset".to_owned()
            }
        }
    }

    /// Flushes all rules again and again until the agent is ready.
    pub(super) fn meddle_during_start(&mut self) -> Result<String> {
        if self.model.trial.is_some() {
            return Ok("not during a trial, which this would end".to_owned());
        }
        self.kill()?;
        let (mut done, pause) = (0, self.jitter(15));
        self.world.start_while(pause.max(Duration::from_micros(1)), |world| {
            world.lab.server.sh("nft flush ruleset");
            done += 1;
        })?;
        self.note_start();
        Ok(format!("{done} times `nft flush ruleset`"))
    }
}

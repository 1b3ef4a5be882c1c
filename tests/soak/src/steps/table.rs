//! Another tool changes the agent's table.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use knock_lab::process::PATIENCE;
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;

use crate::Soak;
use crate::model::Grant;

impl Soak {
    /// Changes it and waits until the agent says that it has restored it.
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

    /// What somebody may do to the table.
    pub(super) fn a_change(&mut self) -> String {
        let running: Vec<Grant> = self.model.running(Instant::now()).cloned().collect();
        let element = running.choose(&mut self.rng);
        let set = |source: &IpAddr| if source.is_ipv4() { "open4" } else { "open6" };
        match (self.rng.random_range(0..11), element) {
            (0..=2, Some((source, service))) => {
                let (protocol, port) = service.split_once('/').unwrap_or(("tcp", "22"));
                let set = set(source);
                format!("delete element inet xknock {set} {{ {source} . {protocol} . {port} }}")
            }
            (3, Some((source, _))) => format!("flush set inet xknock {}", set(source)),
            (4, _) => "flush set inet xknock guarded".to_owned(),
            (5, _) => "flush chain inet xknock check".to_owned(),
            (6, _) => "flush chain inet xknock guard".to_owned(),
            (7, _) => "delete table inet xknock".to_owned(),
            (8, _) => {
                "add element inet xknock open4 { 10.77.0.3 . tcp . 22 timeout 1h }".to_owned()
            }
            (9, _) => {
                // Only a part is left, which cannot be read as a table of the agent.
                let chains = "flush chain inet xknock guard; flush chain inet xknock check";
                format!("{chains}; delete chain inet xknock check; delete set inet xknock open4")
            }
            _ => "flush ruleset".to_owned(),
        }
    }

    /// All rules go, again and again, until the agent is ready.
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

//! The agent dies, is restarted, and reads its config again.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use knock_lab::process::PATIENCE;
use knock_lab::wire;
use nix::sys::signal::Signal;
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;

use super::knocks::Knock;
use crate::model::{Plan, SIZES};
use crate::{Soak, check, one_in};

impl Soak {
    pub(super) fn jitter(&mut self, most_ms: u64) -> Duration {
        Duration::from_micros(self.rng.random_range(0..most_ms * 1000))
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.tally.kills += 1;
        self.world.end(Signal::SIGKILL).map(drop)
    }

    /// Starts it; what a start does to the mode is so from now on.
    pub(super) fn start(&mut self) -> Result<()> {
        self.world.start()?;
        self.note_start();
        Ok(())
    }

    pub(super) fn note_start(&mut self) {
        if self.model.plan.enforce {
            (self.model.confirmed, self.model.trial) = (false, None);
        }
        self.model.forget_disallowed();
    }

    fn terminate(&mut self) -> Result<()> {
        self.tally.stops += 1;
        let last = check::counters(&self.world.asked("status")?).values().sum::<u64>();
        let log = self.world.end(Signal::SIGTERM)?;
        let line = log.iter().rev().find(|line| line.contains("\"message\":\"counters\""));
        let line: serde_json::Value =
            serde_json::from_str(line.context("no counters at the end")?)?;
        let counted = line["counters"].as_str().unwrap_or("").split(' ');
        let sum: u64 = counted.filter_map(|one| one.split_once('=')?.1.parse::<u64>().ok()).sum();
        ensure!(
            line["packets"] == sum && sum >= last,
            "{} packets at the end, counters add up to {sum}, before it were {last}",
            line["packets"]
        );
        Ok(())
    }

    fn terminate_or_kill(&mut self) -> Result<&'static str> {
        if one_in(&mut self.rng, 2) {
            self.kill().map(|()| "killed")
        } else {
            self.terminate().map(|()| "stopped")
        }
    }

    pub(super) fn kill_and_restart(&mut self) -> Result<String> {
        self.kill()?;
        let meanwhile = self.while_down()?;
        self.start()?;
        Ok(meanwhile)
    }

    pub(super) fn stop_and_restart(&mut self) -> Result<String> {
        self.terminate()?;
        let meanwhile = self.while_down()?;
        self.start()?;
        Ok(meanwhile)
    }

    /// No agent runs; the kernel goes on. Knocks made now count once one runs again, which is
    /// why this starts it itself if there were any.
    fn while_down(&mut self) -> Result<String> {
        match self.rng.random_range(0..8) {
            0 => Ok("at once".to_owned()),
            1 => {
                check::check_table(&self.world, &self.model)?;
                self.probe()?;
                Ok("the table goes on".to_owned())
            }
            2..=3 => {
                let knocks = self.some_knocks(6)?;
                wire::send(&self.world.lab.client, self.frames(&knocks));
                self.count_certain(knocks.len());
                self.start()?;
                self.must_be_granted(&knocks)?;
                self.terminate_or_kill()?;
                Ok(format!("{} knocks meanwhile", knocks.len()))
            }
            4 => self.owner(),
            5 => {
                let how = self.flap()?;
                Ok(format!("second interface {how}"))
            }
            6 => {
                let change = self.a_change();
                self.world.lab.server.sh(&format!("nft '{change}'"));
                // There may be nothing left from which a trial could go on.
                if self.model.trial.is_some() {
                    self.world.lab.server.sh("nft flush ruleset");
                    self.model.trial = None;
                }
                Ok(format!("nft {change}"))
            }
            _ => {
                let good = self.model.plan.toml();
                let wrong = self.wrong_config();
                self.world.write_config(&wrong)?;
                self.world.start_in_vain()?;
                check::check_table(&self.world, &self.model)?;
                let (plan, what) = self.another_plan(&[]);
                if one_in(&mut self.rng, 2) {
                    self.world.write_config(&good)?;
                    return Ok("a start with a wrong config in between".to_owned());
                }
                self.world.write_config(&plan.toml())?;
                self.model.plan = plan;
                Ok(format!("a wrong config, then {what}"))
            }
        }
    }

    /// Knocks are under way when it dies.
    pub(super) fn kill_among_knocks(&mut self) -> Result<String> {
        let knocks = self.some_knocks(14)?;
        let frames = self.frames(&knocks);
        let before = self.rng.random_range(0..frames.len());
        let (sent, progress) = channel();
        let sender = self.world.lab.client.spawn(move || {
            for frame in frames {
                wire::send_here(&[frame]);
                // Nobody listens any more once the agent is to be killed.
                let _ = sent.send(());
            }
        });
        for () in progress.iter().take(before) {}
        self.kill()?;
        sender.join().map_err(|_| anyhow::anyhow!("the frames could not be sent"))?;
        self.count_certain(knocks.len());
        self.start()?;
        self.must_be_granted(&knocks)?;
        Ok(format!("{} after {before} frames", knocks.len()))
    }

    pub(super) fn restarts_under_stream(&mut self) -> Result<String> {
        /// Between knocks: some hundreds of them in all.
        const GAP: Duration = Duration::from_millis(4);
        let (stop, stopped) = channel::<()>();
        let knocks: Vec<_> = self
            .client_sources()
            .into_iter()
            .map(|source| Ok(Knock { source, door: self.a_door()?, since: Instant::now() }))
            .collect::<Result<_>>()?;
        let frames: Vec<_> =
            knocks.iter().map(|knock| self.frames(std::slice::from_ref(knock))).collect();
        let stream = self.world.lab.client.spawn(move || {
            let mut last = vec![Instant::now(); frames.len()];
            let mut sent = 0;
            while stopped.recv_timeout(GAP) == Err(RecvTimeoutError::Timeout) {
                let at = sent % frames.len();
                last[at] = Instant::now();
                wire::send_here(&frames[at]);
                sent += 1;
            }
            (sent, last)
        });
        let restarts = self.rng.random_range(2..5);
        let result = (0..restarts).try_for_each(|_| {
            self.terminate_or_kill()?;
            self.start()
        });
        drop(stop);
        let (sent, last) =
            stream.join().map_err(|_| anyhow::anyhow!("the stream could not be sent"))?;
        result?;
        self.count_certain(sent);
        let knocks = knocks.into_iter().zip(last).map(|(knock, since)| Knock { since, ..knock });
        let knocks: Vec<_> = knocks.take(sent).collect();
        self.must_be_granted(&knocks)?;
        Ok(format!("{restarts} restarts, {sent} knocks"))
    }

    pub(super) fn end_during_start(&mut self) -> Result<String> {
        let how = self.terminate_or_kill()?;
        let jitter = self.jitter(120);
        let signal = if one_in(&mut self.rng, 2) { Signal::SIGTERM } else { Signal::SIGKILL };
        self.world.start_and_end(jitter, signal);
        check::check_table(&self.world, &self.model)?;
        self.start()?;
        Ok(format!("{how}, then {signal} {} us after the next start", jitter.as_micros()))
    }

    /// The config as it is, with one thing changed; doors in `kept` stay as they are.
    pub(super) fn another_plan(&mut self, kept: &[&str]) -> (Plan, String) {
        let mut plan = self.model.plan.clone();
        let others: Vec<_> =
            (0..plan.doors.len()).filter(|&at| !kept.contains(&plan.doors[at].name)).collect();
        let kinds = if kept.is_empty() { 0..8 } else { 0..7 };
        let kind = self.rng.random_range(kinds);
        let door = others.choose(&mut self.rng).map(|&at| &mut plan.doors[at]);
        let what = match (kind, door) {
            (0..=1, Some(door)) => {
                door.there = !door.there;
                format!("{} {}", door.name, if door.there { "is back" } else { "goes" })
            }
            (2, Some(door)) => {
                door.sequence = 1 - door.sequence;
                format!("another sequence for {}", door.name)
            }
            (3, Some(door)) => {
                door.open_for = Duration::from_secs(self.rng.random_range(10..60));
                format!("{} opens for {:?}", door.name, door.open_for)
            }
            (4, _) => {
                plan.enforce = !plan.enforce;
                format!("enforce: {}", plan.enforce)
            }
            (5, _) => {
                plan.pattern = !plan.pattern;
                format!("interfaces by pattern: {}", plan.pattern)
            }
            (7, _) => {
                let others = SIZES.into_iter().filter(|size| *size != plan.max_sources);
                let others: Vec<_> = others.collect();
                plan.max_sources = *others.choose(&mut self.rng).unwrap_or(&SIZES[0]);
                format!("{} sources", plan.max_sources)
            }
            _ => {
                plan.strays = 5 - plan.strays;
                format!("{} strays", plan.strays)
            }
        };
        if plan.present().is_empty() {
            plan.doors[0].there = true;
        }
        (plan, what)
    }

    pub(super) fn reload(&mut self) -> Result<String> {
        self.reload_but(&[])
    }

    /// Another config, in which the doors in `kept` are as before.
    pub(super) fn reload_but(&mut self, kept: &[&str]) -> Result<String> {
        let (plan, what) = self.another_plan(kept);
        self.world.write_config(&plan.toml())?;
        let how = if one_in(&mut self.rng, 2) {
            self.world.told(&["reload"])?;
            "reload"
        } else {
            self.hang_up("\"message\":\"reloaded\"")?;
            "SIGHUP"
        };
        if plan.enforce {
            (self.model.confirmed, self.model.trial) = (false, None);
        }
        self.model.plan = plan;
        self.model.forget_disallowed();
        Ok(format!("{how}, {what}"))
    }

    /// Sends SIGHUP and waits for the log to say `expected`.
    fn hang_up(&mut self, expected: &str) -> Result<()> {
        let agent = self.world.agent()?;
        agent.seen();
        agent.signal(Signal::SIGHUP);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match agent.next_line(left) {
                Ok(line) if line.contains(expected) => return Ok(()),
                Ok(_) => {}
                Err(error) => bail!("after SIGHUP the agent does not say {expected}: {error}"),
            }
        }
    }

    fn wrong_config(&mut self) -> String {
        let good = self.model.plan.toml();
        let spoil = |part: &str, by: &str| {
            assert!(good.contains(part), "no {part} in {good}");
            good.replacen(part, by, 1)
        };
        match self.rng.random_range(0..6) {
            0 => "[[door".to_owned(),
            1 => spoil("opens = [", "opens = []\nunknown = ["),
            2 => spoil("open_for = \"", "open_for = \"-"),
            3 => format!("{good}\n[[door]]\nname = \"x\"\nopens = [\"tcp/0\"]\nsequence = []\n"),
            4 => spoil("sequence = [", "sequence = [\"tcp/1\", \"tcp/2\", \"tcp/3\"] # "),
            _ => good[..good.len() / 2].to_owned() + "\u{0}\u{1}",
        }
    }

    pub(super) fn reload_wrong(&mut self) -> Result<String> {
        let wrong = self.wrong_config();
        self.world.write_config(&wrong)?;
        let how = if one_in(&mut self.rng, 2) {
            let output = self.world.xknockd(&["reload"])?;
            ensure!(!output.status.success() && !output.stderr.is_empty(), "it is taken: {wrong}");
            "reload"
        } else {
            self.hang_up("not reloaded")?;
            "SIGHUP"
        };
        self.world.write_config(&self.model.plan.toml())?;
        Ok(how.to_owned())
    }

    /// Something that knocks under way survive, if their doors are `kept`.
    pub(super) fn happen_between(&mut self, kept: &[&str]) -> Result<String> {
        match self.rng.random_range(0..8) {
            0..=1 => {
                let how = self.terminate_or_kill()?;
                self.start()?;
                Ok(how.to_owned())
            }
            2..=4 => self.reload_but(kept),
            5 => self.reload_wrong(),
            6 => self.meddle(),
            _ => self.flap(),
        }
    }
}

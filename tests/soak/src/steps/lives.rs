//! Ends and starts of the agent.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use knock_lab::wire;
use nix::sys::signal::Signal;
use rand::RngExt as _;

use super::knocks::Knock;
use super::weighted;
use crate::{Soak, check, one_in};

/// An event while no agent runs.
#[derive(Clone, Copy)]
enum WhileDown {
    Nothing,
    Look,
    Knocks,
    Owner,
    Flap,
    Meddle,
    WrongConfig,
}

const WHILE_DOWN: [(u32, WhileDown); 7] = [
    (1, WhileDown::Nothing),
    (1, WhileDown::Look),
    (2, WhileDown::Knocks),
    (1, WhileDown::Owner),
    (1, WhileDown::Flap),
    (1, WhileDown::Meddle),
    (1, WhileDown::WrongConfig),
];

/// An event between two steps of a knock.
#[derive(Clone, Copy)]
enum Between {
    Restart,
    Reload,
    ReloadWrong,
    Meddle,
    Flap,
}

const BETWEEN: [(u32, Between); 5] = [
    (2, Between::Restart),
    (3, Between::Reload),
    (1, Between::ReloadWrong),
    (1, Between::Meddle),
    (1, Between::Flap),
];

impl Soak {
    pub(super) fn jitter(&mut self, most_ms: u64) -> Duration {
        Duration::from_micros(self.rng.random_range(0..most_ms * 1000))
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.tally.kills += 1;
        self.world.end(Signal::SIGKILL).map(drop)
    }

    /// Starts the agent, and notes what a start does to the mode.
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

    /// Does something while no agent runs and the kernel goes on.
    fn while_down(&mut self) -> Result<String> {
        match weighted(&mut self.rng, &WHILE_DOWN) {
            WhileDown::Nothing => Ok("at once".to_owned()),
            WhileDown::Look => {
                check::check_table(&self.world, &self.model)?;
                self.probe()?;
                Ok("the table goes on".to_owned())
            }
            WhileDown::Knocks => self.knock_while_down(),
            WhileDown::Owner => self.owner(),
            WhileDown::Flap => {
                let how = self.flap()?;
                Ok(format!("second interface {how}"))
            }
            WhileDown::Meddle => {
                let change = self.a_change();
                self.world.lab.server.sh(&format!("nft '{change}'"));
                // There may be nothing left from which a trial could go on.
                if self.model.trial.is_some() {
                    self.world.lab.server.sh("nft flush ruleset");
                    self.model.trial = None;
                }
                Ok(format!("nft {change}"))
            }
            WhileDown::WrongConfig => self.start_in_vain(),
        }
    }

    /// Sends knocks, which count once an agent runs again. It starts one for them and ends it,
    /// because the caller expects that none runs.
    fn knock_while_down(&mut self) -> Result<String> {
        let knocks = self.some_knocks(6)?;
        wire::send(&self.world.lab.client, self.frames(&knocks));
        self.count_certain(knocks.len());
        self.start()?;
        self.must_be_granted(&knocks)?;
        self.terminate_or_kill()?;
        Ok(format!("{} knocks meanwhile", knocks.len()))
    }

    /// Starts the agent with a wrong config, which changes nothing, and then writes the old config
    /// or another.
    fn start_in_vain(&mut self) -> Result<String> {
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

    /// Kills the agent while knocks are under way.
    pub(super) fn kill_among_knocks(&mut self) -> Result<String> {
        let knocks = self.some_knocks(14)?;
        let frames = self.frames(&knocks);
        let before = self.rng.random_range(0..frames.len());
        let (sent, progress) = channel();
        let sender = self.world.lab.client.spawn(move || {
            for frame in frames {
                wire::send_here(&[frame]);
                // The receiver is gone once the agent is to be killed.
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
        /// The pause between knocks, of which there are some hundreds.
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

    /// Does something that knocks under way survive, if their doors are `kept`.
    pub(super) fn happen_between(&mut self, kept: &[&str]) -> Result<String> {
        match weighted(&mut self.rng, &BETWEEN) {
            Between::Restart => {
                let how = self.terminate_or_kill()?;
                self.start()?;
                Ok(how.to_owned())
            }
            Between::Reload => self.reload_but(kept),
            Between::ReloadWrong => self.reload_wrong(),
            Between::Meddle => self.meddle(),
            Between::Flap => self.flap(),
        }
    }
}

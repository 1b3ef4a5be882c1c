//! Reloads of the config, of another one or of a wrong one.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use knock_lab::process::PATIENCE;
use nix::sys::signal::Signal;
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;

use super::weighted;
use crate::model::{Plan, SIZES};
use crate::{Soak, one_in};

/// A change of the config.
#[derive(Clone, Copy)]
enum Change {
    /// Whether a door is there.
    Presence,
    Sequence,
    OpenFor,
    Mode,
    /// Whether interfaces are named by a pattern.
    Pattern,
    Strays,
    Sizes,
}

const CHANGES: [(u32, Change); 7] = [
    (2, Change::Presence),
    (1, Change::Sequence),
    (1, Change::OpenFor),
    (1, Change::Mode),
    (1, Change::Pattern),
    (1, Change::Strays),
    (1, Change::Sizes),
];

/// A mistake in a config.
#[derive(Clone, Copy)]
enum Mistake {
    Syntax,
    UnknownKey,
    NegativeTime,
    BadDoor,
    Scannable,
    HalfAFile,
}

const MISTAKES: [(u32, Mistake); 6] = [
    (1, Mistake::Syntax),
    (1, Mistake::UnknownKey),
    (1, Mistake::NegativeTime),
    (1, Mistake::BadDoor),
    (1, Mistake::Scannable),
    (1, Mistake::HalfAFile),
];

impl Soak {
    /// Returns the config as it is with one thing changed, and what that is. Doors in `kept` stay
    /// as they are.
    pub(super) fn another_plan(&mut self, kept: &[&str]) -> (Plan, String) {
        let mut plan = self.model.plan.clone();
        let others: Vec<_> =
            (0..plan.doors.len()).filter(|&at| !kept.contains(&plan.doors[at].name)).collect();
        // Other sizes need new maps, which would lose the knocks under way.
        let changes = if kept.is_empty() { &CHANGES[..] } else { &CHANGES[..CHANGES.len() - 1] };
        let change = weighted(&mut self.rng, changes);
        let door = others.choose(&mut self.rng).map(|&at| &mut plan.doors[at]);
        let what = match (change, door) {
            (Change::Presence, Some(door)) => {
                door.there = !door.there;
                format!("{} {}", door.name, if door.there { "is back" } else { "goes" })
            }
            (Change::Sequence, Some(door)) => {
                door.sequence = 1 - door.sequence;
                format!("another sequence for {}", door.name)
            }
            (Change::OpenFor, Some(door)) => {
                door.open_for = Duration::from_secs(self.rng.random_range(10..60));
                format!("{} opens for {:?}", door.name, door.open_for)
            }
            (Change::Mode, _) => {
                plan.enforce = !plan.enforce;
                format!("enforce: {}", plan.enforce)
            }
            (Change::Pattern, _) => {
                plan.pattern = !plan.pattern;
                format!("interfaces by pattern: {}", plan.pattern)
            }
            (Change::Sizes, _) => {
                let others = SIZES.into_iter().filter(|size| *size != plan.max_sources);
                let others: Vec<_> = others.collect();
                plan.max_sources = *others.choose(&mut self.rng).unwrap_or(&SIZES[0]);
                format!("{} sources", plan.max_sources)
            }
            // Also in place of a change of a door, where all doors stay as they are.
            (Change::Strays | Change::Presence | Change::Sequence | Change::OpenFor, _) => {
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

    /// Reloads another config, in which the doors in `kept` are as before.
    pub(super) fn reload_but(&mut self, kept: &[&str]) -> Result<String> {
        let (plan, what) = self.another_plan(kept);
        self.world.write_config(&plan.toml())?;
        let how = if one_in(&mut self.rng, 2) {
            self.world.verb(&["reload"])?;
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

    pub(super) fn wrong_config(&mut self) -> String {
        let good = self.model.plan.toml();
        let spoil = |part: &str, by: &str| {
            assert!(good.contains(part), "no {part} in {good}");
            good.replacen(part, by, 1)
        };
        match weighted(&mut self.rng, &MISTAKES) {
            Mistake::Syntax => "[[door".to_owned(),
            Mistake::UnknownKey => spoil("opens = [", "opens = []\nunknown = ["),
            Mistake::NegativeTime => spoil("open_for = \"", "open_for = \"-"),
            Mistake::BadDoor => {
                let door = "\n[[door]]\nname = \"x\"\nopens = [\"tcp/0\"]\nsequence = []\n";
                good + door
            }
            Mistake::Scannable => {
                spoil("sequence = [", "sequence = [\"tcp/1\", \"tcp/2\", \"tcp/3\"] # ")
            }
            Mistake::HalfAFile => good[..good.len() / 2].to_owned() + "\u{0}\u{1}",
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
}

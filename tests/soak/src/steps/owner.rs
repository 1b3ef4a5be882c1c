//! The owner of the host, who opens, revokes and tries by hand.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::RngExt as _;
use rand::seq::IndexedRandom as _;

use super::weighted;
use crate::model::{End, Grant};
use crate::{Soak, one_in};

/// The grants that the owner ends.
#[derive(Clone, Copy)]
enum Revoked {
    All,
    /// Those that a door gave.
    Door,
    /// Those of a source.
    Source,
}

const REVOKED: [(u32, Revoked); 3] = [(1, Revoked::All), (1, Revoked::Door), (2, Revoked::Source)];

/// An event during a trial.
#[derive(Clone, Copy)]
enum Meanwhile {
    Confirm,
    Kill,
    Nothing,
}

const DURING_A_TRIAL: [(u32, Meanwhile); 3] =
    [(1, Meanwhile::Confirm), (1, Meanwhile::Kill), (1, Meanwhile::Nothing)];

impl Soak {
    /// Opens or revokes, with or without a running agent.
    pub(super) fn owner(&mut self) -> Result<String> {
        if one_in(&mut self.rng, 2) { self.open() } else { self.revoke() }
    }

    fn open(&mut self) -> Result<String> {
        let door = self.a_door()?;
        let foreign: IpAddr = [192, 0, 2, self.rng.random_range(1..255)].into();
        let known = self.client_sources();
        let known = known.choose(&mut self.rng).copied().context("there are sources")?;
        let source = if one_in(&mut self.rng, 3) { foreign } else { known };
        let lasts = Duration::from_secs(self.rng.random_range(5..90));
        let (address, time) = (source.to_string(), format!("{}s", lasts.as_secs()));
        let config = self.world.config_path();
        let since = Instant::now();
        let words = ["open", door.name, &address, "--for", &time, "--config", &config];
        self.world.verb(&words)?;
        let seen = Instant::now();
        if self.world.runs() {
            self.model.earn(&door, source, lasts, (since, seen));
        } else {
            // Without an agent the time is what was asked for, not what was running before.
            self.model.replace(&door, source, lasts, (since, seen));
        }
        Ok(format!("opens {} for {address} for {time}", door.name))
    }

    fn revoke(&mut self) -> Result<String> {
        let running: Vec<Grant> = self.model.running(Instant::now()).cloned().collect();
        let one = running.choose(&mut self.rng).cloned();
        match (weighted(&mut self.rng, &REVOKED), one) {
            (Revoked::All, _) => {
                self.world.verb(&["revoke", "--all"])?;
                self.model.grants.clear();
                Ok("revokes all".to_owned())
            }
            (Revoked::Door, _) => {
                let door = self.a_door()?;
                self.world.verb(&["revoke", "--door", door.name])?;
                let of_door = |service: &str| door.opens.contains(&service);
                self.model.grants.retain(|(_, service), _| !of_door(service));
                Ok(format!("revokes {}", door.name))
            }
            (Revoked::Source, Some((source, _))) => {
                self.world.verb(&["revoke", &source.to_string()])?;
                self.model.grants.retain(|(granted, _), _| *granted != source);
                Ok(format!("revokes those of {source}"))
            }
            (Revoked::Source, None) => self.open(),
        }
    }

    /// Tries to enforce, where the config says observe.
    pub(super) fn try_enforcing(&mut self) -> Result<String> {
        if self.model.plan.enforce || self.model.confirmed {
            let output = self.world.xknockd(&["try", "5s"])?;
            anyhow::ensure!(!output.status.success(), "there is nothing to try");
            return Ok("refused, it enforces already".to_owned());
        }
        let lasts = Duration::from_secs(self.rng.random_range(4..20));
        let asked = Instant::now();
        self.world.verb(&["try", &format!("{}s", lasts.as_secs())])?;
        self.model.trial = Some(End { earliest: asked + lasts, latest: Instant::now() + lasts });
        let what = format!("for {lasts:?}");
        match weighted(&mut self.rng, &DURING_A_TRIAL) {
            Meanwhile::Confirm => {
                self.probe()?;
                if self.model.enforcing(Instant::now()) != Some(true) {
                    return Ok(format!("{what}, over before it could be confirmed"));
                }
                self.world.verb(&["confirm"])?;
                (self.model.trial, self.model.confirmed) = (None, true);
                Ok(format!("{what}, confirmed"))
            }
            Meanwhile::Kill => {
                self.kill()?;
                self.probe()?;
                self.start()?;
                Ok(format!("{what}, killed meanwhile"))
            }
            Meanwhile::Nothing => Ok(what),
        }
    }
}

//! What the agent does and answers when it is asked.

use std::net::IpAddr;
use std::time::Duration;

use knock_control::{
    Caller, Done, Door, Fault, Grant, Interface, Open, Problem, Reply, Request, Revoke, Status, Try,
};
use knock_detector::State;
use knock_firewall::{Ruleset, Tracking};
use knock_policy::{self as policy, Mode};

use super::{Agent, Sources, clock};
use crate::control_socket::Call;

/// How long a door may be opened by hand.
const OPEN_FOR: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
/// How long enforcing may be tried.
const TRY_FOR: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

type Answer = Result<Reply, Problem>;

impl Agent {
    pub(super) async fn answer(&mut self, call: Call, sources: &mut Sources) {
        let reply = match call.request {
            Request::Status => self.status(sources).await,
            Request::Doors => Ok(self.doors()),
            Request::Grants => Ok(Reply::Grants(self.shown(self.keeper.grants.iter()))),
            Request::Open(open) => self.open(open).await,
            Request::Revoke(revoke) => self.revoke_some(revoke).await,
            Request::Reload(caller) => self.reload(&caller, sources).await.map(done),
            Request::Try(trial) => self.begin_trial(&trial).await,
            Request::Confirm(caller) => self.confirm(&caller).await,
            Request::Off => {
                self.off = true;
                Ok(done("everything is being removed: program, pins, table"))
            }
        };
        // Whoever asked may have gone meanwhile.
        let _ = call.answer.send(reply);
    }

    async fn status(&mut self, sources: &Sources) -> Answer {
        let held = self.firewall().await.status().map_err(failed)?;
        let present = sources.interfaces.list().await.map_err(failed)?;
        let names: Vec<_> = present.iter().map(|interface| interface.name.as_str()).collect();
        let totals = self.detector.totals().map_err(failed)?;
        let interfaces = self.detector.attached().map(|(index, name, mode)| Interface {
            name: name.to_owned(),
            index,
            mode: mode.to_string(),
        });
        let trial = self.trial_left().map(|left| left.as_secs_f64());
        let mode = if trial.is_some() { Mode::Enforce } else { self.ruleset.mode };
        Ok(Reply::Status(Box::new(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            mode: mode.to_string(),
            trial_seconds: trial,
            confirmed: self.state.confirmed != 0,
            connections: match self.ruleset.tracking {
                Tracking::Stateless => policy::Connections::Stateless,
                Tracking::Conntrack => policy::Connections::Conntrack,
            }
            .to_string(),
            interfaces: interfaces.collect(),
            awaited: self.keeper.policy.awaited(&names).into_iter().map(str::to_owned).collect(),
            doors: self.keeper.policy.doors.len(),
            grants: self.keeper.grants.len(),
            refused_packets: held.map_or(0, |held| held.refused_packets),
            restored: self.restored,
            late: self.keeper.journal.late_total,
            pinned: self.pins.is_some(),
            keys: self.keys.len(),
            key_knocks: self.keys.ends().collect(),
            packets: totals.named().map(|(name, n)| (name.to_owned(), n)).collect(),
        })))
    }

    fn doors(&self) -> Reply {
        let policy = &self.keeper.policy;
        let door = |door: &policy::Door| Door {
            name: door.name.clone(),
            opens: door.opens.iter().map(ToString::to_string).collect(),
            open_for: humantime::format_duration(door.open_for).to_string(),
            grants: self.keeper.grants.given_by(door.id()),
        };
        Reply::Doors(policy.doors.iter().map(door).collect())
    }

    fn shown(
        &self,
        grants: impl Iterator<Item = (policy::Grant, super::grants::Running)>,
    ) -> Vec<Grant> {
        let now = clock::since_boot();
        let show = |(grant, running): (policy::Grant, super::grants::Running)| Grant {
            source: grant.source,
            service: grant.service.to_string(),
            door: self.keeper.door(running.door).map(|door| door.name.clone()),
            seconds: running.until.saturating_sub(now).as_secs_f64(),
        };
        let mut shown: Vec<_> = grants.map(show).collect();
        shown.sort_by(|a, b| (a.source, &a.service).cmp(&(b.source, &b.service)));
        shown
    }

    fn known_door(&self, name: &str) -> Result<&policy::Door, Problem> {
        let policy = &self.keeper.policy;
        policy.door(name).ok_or_else(|| {
            let names: Vec<_> =
                policy.doors.iter().map(|door| door.name.as_str()).take(20).collect();
            let what = format!("there is no door `{name}`; there are: {}", names.join(", "));
            Problem::new(Fault::Request, what)
        })
    }

    async fn open(&mut self, open: Open) -> Answer {
        let Open { door, address, lasts } = open;
        let known = self.known_door(&door)?;
        let lasts = match lasts {
            Some(text) => duration(&text, OPEN_FOR)?,
            None => known.open_for,
        };
        let address = possible_source(address)?;
        let earned = match self.keeper.open(&door, address, lasts) {
            Some(Ok(earned)) => earned,
            Some(Err(refused)) => return Err(Problem::new(Fault::Request, refused)),
            None => Vec::new(),
        };
        self.flush().await;
        let opened: Vec<_> = self
            .keeper
            .grants
            .iter()
            .filter(|(grant, _)| earned.iter().any(|one| one.grant == *grant))
            .collect();
        if opened.len() < earned.len() {
            return Err(Problem::new(Fault::Agent, "the kernel refused the grant; see the log"));
        }
        Ok(Reply::Grants(self.shown(opened.into_iter())))
    }

    async fn revoke_some(&mut self, revoke: Revoke) -> Answer {
        let Revoke { address, door } = revoke;
        let door = door.map(|name| self.known_door(&name).map(policy::Door::id)).transpose()?;
        let address = address.map(|address| address.to_canonical());
        let meant: Vec<_> = self
            .keeper
            .grants
            .iter()
            .filter(|(grant, running)| {
                address.is_none_or(|address| grant.source == address)
                    && door.is_none_or(|door| running.door == door)
            })
            .collect();
        let shown = self.shown(meant.iter().copied());
        let grants: Vec<_> = meant.into_iter().map(|(grant, _)| grant).collect();
        self.revoke(&grants).await.map_err(failed)?;
        Ok(Reply::Grants(shown))
    }

    async fn begin_trial(&mut self, trial: &Try) -> Answer {
        let lasts = duration(&trial.lasts, TRY_FOR)?;
        if self.ruleset.mode == Mode::Enforce {
            let what = "it is enforcing already; `xknockd try` is for an agent that observes";
            return Err(Problem::new(Fault::Request, what));
        }
        let end = Some(clock::since_boot() + lasts);
        let ruleset = Ruleset { trial_until: end, ..self.ruleset.clone() };
        self.install(ruleset).await.map_err(failed)?;
        self.trial = end;
        tracing::warn!(lasts = trial.lasts, "enforcing on trial");
        Ok(done(format!(
            "enforcing for {}, then observing again, whatever happens to the agent; \
             `xknockd confirm` makes it last",
            humantime::format_duration(lasts)
        )))
    }

    async fn confirm(&mut self, caller: &Caller) -> Answer {
        if self.trial_left().is_none() {
            let what = "nothing is being tried; begin with `xknockd try 2m`";
            return Err(Problem::new(Fault::Request, what));
        }
        self.refuse_lockout(&self.keeper.policy, caller)?;
        let state = State { confirmed: 1, ..self.state };
        self.keeper.record.set_state(state).map_err(failed)?;
        let ruleset = Ruleset { mode: Mode::Enforce, trial_until: None, ..self.ruleset.clone() };
        if let Err(error) = self.install(ruleset).await {
            // The trial ends as it would have; the next agent must not go on with it.
            self.keeper.record.set_state(self.state).map_err(failed)?;
            return Err(failed(error));
        }
        self.state = state;
        self.trial = None;
        tracing::warn!("the trial was confirmed: enforcing");
        Ok(done(
            "enforcing from now on; set `mode = \"enforce\"` in the config, so that it stays so \
             after the host was started anew",
        ))
    }
}

fn done(message: impl Into<String>) -> Reply {
    Reply::Done(Done { message: message.into() })
}

fn failed(error: impl ToString) -> Problem {
    Problem::new(Fault::Agent, error)
}

fn duration(text: &str, limits: std::ops::RangeInclusive<Duration>) -> Result<Duration, Problem> {
    knock_policy::config::duration(text, limits)
        .map_err(|(what, help)| Problem::new(Fault::Request, format!("{what}; {help}")))
}

/// An address that packets can come from.
fn possible_source(address: IpAddr) -> Result<IpAddr, Problem> {
    let address = address.to_canonical();
    if address.is_unspecified() || address.is_multicast() {
        let what = format!("no packet comes from {address}; give the address of a host");
        return Err(Problem::new(Fault::Request, what));
    }
    Ok(address)
}

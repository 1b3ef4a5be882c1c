//! Answers to control requests.

use knock_control::{
    AttachedMode, Caller, Connections, Done, Door, Fault, Grant, Interface, Open, Problem, Reply,
    Request, Revoke, Status, Try,
};
use knock_firewall::Tracking;
use knock_policy as policy;

use super::grants::RunningGrant;
use super::{Agent, clock};
use crate::control_socket::Call;

type Answer = Result<Reply, Problem>;

impl Agent {
    pub(super) async fn answer(&mut self, call: Call) {
        let reply = match call.request {
            Request::Status => self.status().await,
            Request::Doors => Ok(self.doors()),
            Request::Grants => Ok(Reply::Grants(self.shown(self.ledger.iter()))),
            Request::Open(open) => self.open(open).await,
            Request::Revoke(revoke) => self.revoke_some(revoke).await,
            Request::Reload(caller) => self.reload(&caller).await.map(done),
            Request::Try(trial) => self.begin_trial(&trial).await,
            Request::Confirm(caller) => self.confirm(&caller).await,
            Request::Off => {
                self.off = true;
                Ok(done("everything is being removed: program, pins, table"))
            }
        };
        // The client may have closed its connection meanwhile.
        let _ = call.answer.send(reply);
    }

    async fn status(&mut self) -> Answer {
        let Self { table, policy, ledger, .. } = &mut *self;
        let held = table.status(policy, ledger).await.map_err(failed)?;
        let present = self.sources.interfaces.list().await.map_err(failed)?;
        let names: Vec<_> = present.iter().map(|interface| interface.name.as_str()).collect();
        let totals = self.watcher.totals().map_err(failed)?;
        let interfaces = self.watcher.attached().map(|(index, name, mode)| Interface {
            name: name.to_owned(),
            index,
            mode: match mode {
                knock_detector::AttachedMode::Native => AttachedMode::Native,
                knock_detector::AttachedMode::Generic => AttachedMode::Generic,
            },
        });
        let now = clock::since_boot();
        let trial = self.enforcement.trial_left(now);
        Ok(Reply::Status(Box::new(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            mode: self.enforcement.mode_at(self.policy.mode, now).into(),
            trial_seconds: trial.map(|left| left.as_secs_f64()),
            confirmed: self.enforcement.is_confirmed(),
            connections: match self.table.ruleset().tracking {
                Tracking::Stateless => Connections::Stateless,
                Tracking::Conntrack => Connections::Conntrack,
            },
            interfaces: interfaces.collect(),
            awaited: self.policy.awaited(&names).into_iter().map(str::to_owned).collect(),
            doors: self.policy.doors.len(),
            grants: self.ledger.len(),
            refused_packets: held.map_or(0, |held| held.refused_packets),
            restored: self.table.restored(),
            late: self.ledger.late(),
            pinned: self.watcher.is_pinned(),
            keys: self.keys.len(),
            key_knocks: self.keys.results().collect(),
            packets: totals.named().map(|(name, n)| (name.to_owned(), n)).collect(),
        })))
    }

    fn doors(&self) -> Reply {
        let policy = &self.policy;
        let door = |door: &policy::Door| Door {
            name: door.name.clone(),
            opens: door.opens.iter().map(ToString::to_string).collect(),
            open_for: door.open_for,
            grants: self.ledger.given_by(door.id()),
        };
        Reply::Doors(policy.doors.iter().map(door).collect())
    }

    fn shown(&self, grants: impl Iterator<Item = (policy::Grant, RunningGrant)>) -> Vec<Grant> {
        let now = clock::since_boot();
        let show = |(grant, running): (policy::Grant, RunningGrant)| Grant {
            source: grant.source,
            service: grant.service.to_string(),
            door: self.policy.door_name(running.door).map(str::to_owned),
            seconds: running.until.saturating_sub(now).as_secs_f64(),
        };
        let mut shown: Vec<_> = grants.map(show).collect();
        shown.sort_by(|a, b| (a.source, &a.service).cmp(&(b.source, &b.service)));
        shown
    }

    async fn open(&mut self, open: Open) -> Answer {
        let known = known_door(&self.policy, &open.door)?;
        let lasts = open.length(known.open_for)?;
        let address = open.source()?;
        let earned = self
            .ledger
            .open(&self.policy, known, address, lasts)
            .map_err(|refused| Problem::new(Fault::Request, refused))?;
        self.drain_pending().await;
        let opened: Vec<_> = self
            .ledger
            .iter()
            .filter(|(grant, _)| earned.iter().any(|earned| earned.grant == *grant))
            .collect();
        if opened.len() < earned.len() {
            return Err(Problem::new(Fault::Agent, "the kernel refused the grant; see the log"));
        }
        Ok(Reply::Grants(self.shown(opened.into_iter())))
    }

    async fn revoke_some(&mut self, revoke: Revoke) -> Answer {
        let Revoke { address, door } = revoke;
        let door =
            door.map(|name| known_door(&self.policy, &name).map(policy::Door::id)).transpose()?;
        let address = address.map(|address| address.to_canonical());
        let meant: Vec<_> = self
            .ledger
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
        let lasts = trial.length()?;
        let until = clock::since_boot() + lasts;
        let next = self.enforcement.start_trial(self.policy.mode, until).map_err(denied)?;
        let Self { table, policy, ledger, .. } = &mut *self;
        table.enforce(next, policy, ledger).await.map_err(failed)?;
        self.enforcement = next;
        tracing::warn!(lasts = %humantime::format_duration(lasts), "enforcing on trial");
        Ok(done(format!(
            "enforcing for {}, then observing again, whatever happens to the agent; \
             `xknockd confirm` makes it last",
            humantime::format_duration(lasts)
        )))
    }

    async fn confirm(&mut self, caller: &Caller) -> Answer {
        let next = self.enforcement.confirm(clock::since_boot()).map_err(denied)?;
        self.refuse_lockout(&self.policy, caller)?;
        // On record first: if this agent is killed after the table has changed, the next one must
        // not observe again.
        self.state.update(|state| state.confirmed = 1).map_err(failed)?;
        let Self { table, policy, ledger, .. } = &mut *self;
        if let Err(error) = table.enforce(next, policy, ledger).await {
            // The trial ends as it would have. The next agent must not go on with it.
            self.state.update(|state| state.confirmed = 0).map_err(failed)?;
            return Err(failed(error));
        }
        self.enforcement = next;
        tracing::warn!("the trial was confirmed: enforcing");
        Ok(done(
            "enforcing from now on; set `mode = \"enforce\"` in the config, so that it stays so \
             after a reboot",
        ))
    }
}

/// Returns the door of this name.
fn known_door<'a>(policy: &'a policy::Policy, name: &str) -> Result<&'a policy::Door, Problem> {
    policy.known_door(name).map_err(|error| Problem::new(Fault::Request, error))
}

fn denied(why: super::enforcement::Denied) -> Problem {
    Problem::new(Fault::Request, why)
}

fn done(message: impl Into<String>) -> Reply {
    Reply::Done(Done { message: message.into() })
}

fn failed(error: impl ToString) -> Problem {
    Problem::new(Fault::Agent, error)
}

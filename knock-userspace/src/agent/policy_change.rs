//! Another policy, while packets come.

use knock_control::{Caller, Fault, Problem};
use knock_detector::{Detector, Settings};
use knock_firewall::Ruleset;
use knock_policy::compile::Compiled;
use knock_policy::lockout;
use knock_policy::{Mode, Policy};
use tracing::{error, info, warn};

use super::keys::{Changes, Keys};
use super::{Agent, AgentError, Sources, start};

impl Agent {
    /// `SIGHUP`: nobody waits for an answer, so it goes to the log.
    pub(super) async fn reload_on_signal(&mut self, sources: &mut Sources) {
        if let Err(problem) = self.reload(&Caller::default(), sources).await {
            error!(error = problem.error, "not reloaded; the old policy stays");
        }
    }

    /// Reads the config and acts on it from now on. If it is wrong, nothing changes.
    pub(super) async fn reload(
        &mut self,
        caller: &Caller,
        sources: &mut Sources,
    ) -> Result<String, Problem> {
        self.supervisor.reloading();
        let result = self.try_reload(caller, sources).await;
        self.supervisor.ready();
        result
    }

    async fn try_reload(
        &mut self,
        caller: &Caller,
        sources: &mut Sources,
    ) -> Result<String, Problem> {
        let policy =
            (self.options.reread)().map_err(|error| Problem::new(Fault::Request, error))?;
        // What was confirmed goes on being enforced, whatever the config says.
        if policy.mode == Mode::Enforce || self.state.confirmed != 0 {
            self.refuse_lockout(&policy, caller)?;
        }
        let doors = policy.doors.len();
        match self.change_policy(policy, sources).await {
            Ok(revoked) => {
                info!(doors, revoked, "reloaded");
                Ok(format!("{doors} doors; {revoked} grants ended"))
            }
            Err(error) => Err(Problem::new(Fault::Agent, error)),
        }
    }

    /// Whoever asks must be able to come back, or say that he need not.
    pub(super) fn refuse_lockout(&self, policy: &Policy, caller: &Caller) -> Result<(), Problem> {
        if caller.force {
            return Ok(());
        }
        let granted = |grant: &_| self.keeper.grants.until(grant).is_some();
        lockout::check(policy, caller.session.as_ref(), granted)
            .map_err(|error| Problem::new(Fault::LockOut, error))
    }

    /// The detector for `compiled`, if the one that runs cannot become it.
    pub(super) fn next_detector(
        &self,
        compiled: &Compiled,
        settings: Settings,
    ) -> Result<Option<Detector>, AgentError> {
        if self.detector.can_become(compiled, settings) {
            return Ok(None);
        }
        Ok(Some(Detector::load_among(compiled, settings, self.pins.as_ref())?))
    }

    /// Makes the detector look up what `compiled` says, or lets `next` take its place.
    pub(super) fn use_detector(
        &mut self,
        next: Option<Detector>,
        compiled: &Compiled,
        sources: &mut Sources,
    ) -> Result<(), AgentError> {
        let Some(mut next) = next else {
            self.detector.update(compiled)?;
            return Ok(());
        };
        self.keys.install(&mut next)?;
        // From here on it is the one, even if something below fails.
        let mut before = std::mem::replace(&mut self.detector, next);
        self.detector.take_over(&mut before)?;
        for what in self.detector.settle()? {
            warn!(lost = what, "begun anew, because doors or keys need other maps");
        }
        sources.events = self.detector.events()?;
        sources.sealed = self.detector.sealed()?;
        if self.options.trace_kernel {
            sources.trace = Some(self.detector.trace()?);
        }
        Ok(())
    }

    /// How many grants were ended, because no door gives them any more.
    async fn change_policy(
        &mut self,
        policy: Policy,
        sources: &mut Sources,
    ) -> Result<usize, AgentError> {
        if policy.interfaces.is_empty() {
            return Err(AgentError::NoInterface);
        }
        let present = sources.interfaces.list().await?;
        let new = |index| self.detector.attached().all(|(attached, ..)| attached != index);
        for interface in present.iter().filter(|one| policy.watches(&one.name) && new(one.index)) {
            if let Some(xdp) = interface.xdp {
                return Err(start::occupied(interface, xdp.program).into());
            }
        }
        // Whatever has changed, and whether it could be heard or not.
        let key_changes = Changes::of(&policy);
        let mut other =
            (!self.keys.fit(&policy)).then(|| Keys::open(&policy, &self.options.places));
        if other.is_none() {
            self.keys.read();
        }
        let keys = other.as_mut().unwrap_or(&mut self.keys);
        let compiled = start::compile_for(self.detector.trie(), &policy, keys, &self.state)?;
        let settings = start::settings(&policy, &self.state, self.options.trace_kernel);
        let mut state = self.state;
        state.next_node = compiled.trie.next().0;
        if policy.mode == Mode::Enforce {
            state.confirmed = 0;
        }
        let trial = self.trial.filter(|_| policy.mode == Mode::Observe);
        self.flush().await;
        let conntrack = self.firewall().await.conntrack_in_use()?;
        let mut ruleset = Ruleset::of(&policy, conntrack);
        start::enforce(&mut ruleset, &state, trial);
        self.keeper.record.set_state(state)?;
        let next = self.next_detector(&compiled, settings);
        let ready = if next.is_ok() { self.install(ruleset).await } else { Ok(()) };
        let next = match (next, ready) {
            (Ok(next), Ok(())) => next,
            (next, ready) => {
                // The old policy stays, also in the maps that both programs share.
                self.detector.reassert()?;
                self.keys.compute_again();
                next?;
                ready?;
                return Ok(0);
            }
        };
        self.state = state;
        self.trial = trial;
        self.keeper.set_policy(policy);
        let lost = self.keeper.grants.no_longer_allowed(&self.keeper.policy);
        sources.key_changes = key_changes;
        if let Some(keys) = other {
            self.keys = keys;
        } else {
            self.keys.look_for_misfits(&self.keeper.policy);
        }
        let applied = self.use_detector(next, &compiled, sources);
        if let Err(error) = applied.and_then(|()| Ok(self.keys.install(&mut self.detector)?)) {
            // The table is the new policy's already, so to go back would open and close at random.
            error!(%error, "the new policy holds, but the detector could not follow in all");
        }
        self.attach_as_wanted(&present);
        let names: Vec<_> = present.iter().map(|interface| interface.name.as_str()).collect();
        for pattern in self.keeper.policy.awaited(&names) {
            warn!(interface = pattern, "not there yet; waiting for it");
        }
        if let Err(error) = self.revoke(&lost).await {
            error!(%error, "grants of doors that are gone could not be ended in the table");
            self.restore_soon();
        }
        Ok(lost.len())
    }
}

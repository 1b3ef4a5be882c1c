//! From a policy to a running detector and a firewall table, beginning anew or going on where
//! another agent ended. Whatever fails in here before the table is in place, nothing stays
//! behind that was not there before: the table comes in one transaction, and a detector that is
//! not settled takes its files along.

use std::collections::HashMap;
use std::time::Duration;

use knock_detector::{
    AttachedMode, Detector, DetectorError, Pins, PinsError, Record, Settings, State,
    missing_capabilities, program_name,
};
use knock_firewall::{Firewall, Ruleset, Status, TimedGrant, Watch};
use knock_policy::compile::{Compiled, compile_onto};
use knock_policy::trie::Trie;
use knock_policy::{Grant, Mode, Policy};
use tracing::{info, warn};

use super::grants::Running;
use super::keeper::Keeper;
use super::keys::{Changes, Keys};
use super::{AgentError, Options, clock};
use crate::interfaces::{Interface, Interfaces};
use crate::sockets;

/// What runs once the agent has started.
pub(super) struct Started {
    pub detector: Detector,
    pub firewall: Firewall,
    pub watch: Watch,
    pub ruleset: Ruleset,
    pub interfaces: Interfaces,
    pub keeper: Keeper,
    pub keys: Keys,
    pub key_changes: Changes,
    pub state: State,
    pub pins: Option<Pins>,
    /// When a trial that goes on will end.
    pub trial: Option<Duration>,
    /// Whether nothing was on record before.
    pub is_first: bool,
}

pub(super) async fn start(policy: Policy, options: &Options) -> Result<Started, AgentError> {
    check_privileges()?;
    if policy.interfaces.is_empty() {
        return Err(AgentError::NoInterface);
    }
    let interfaces = Interfaces::open()?;
    let present = interfaces.list().await?;
    let (pins, record) = open_record(options)?;
    let is_first = record.state()?.is_new();
    let mut started = go_on(policy, options, interfaces, &present, pins.clone(), record);
    if let (Err(_), true, Some(pins)) = (&started, is_first, pins) {
        // Whatever is in there, this agent put it there. The error before counts more.
        let _ = pins.remove_all();
    }
    if let Ok(started) = &mut started {
        started.is_first = is_first;
    }
    started
}

/// The same with what is there now: interfaces, and what another agent may have left.
fn go_on(
    policy: Policy,
    options: &Options,
    interfaces: Interfaces,
    present: &[Interface],
    pins: Option<Pins>,
    record: Record,
) -> Result<Started, AgentError> {
    refuse_occupied(&policy, present, pins.as_ref())?;
    let state = record.state()?;
    let trie = match &pins {
        Some(pins) => Trie::restored(Detector::pinned_edges(pins)?, state.next_node()),
        None => Trie::default(),
    };
    let on_record = !state.is_new();
    let mut state = if on_record { state } else { fresh_state()? };
    let key_changes = Changes::of(&policy);
    let mut keys = Keys::open(&policy, &options.places);
    let compiled = compile_for(&trie, &policy, &mut keys, &state)?;

    let mut firewall = Firewall::open()?;
    // Before the table is looked at: what others change from here on is put back.
    let watch = Watch::open(firewall.port()?)?;
    let read = firewall.status();
    let held = read.as_ref().ok().and_then(Option::as_ref);
    let mut keeper = Keeper::new(policy, record);
    // The owner has said which it shall be.
    if keeper.policy.mode == Mode::Enforce || options.observe {
        state.confirmed = 0;
    }
    state.next_node = compiled.trie.next().0;
    // The next agent must not give away identifiers that this one is about to use.
    keeper.record.set_state(state)?;
    let settings = settings(&keeper.policy, &state, options.trace_kernel);
    let mut detector = Detector::load_among(&compiled, settings, pins.as_ref())?;
    keys.install(&mut detector)?;
    for interface in present.iter().filter(|one| keeper.policy.watches(&one.name)) {
        match attach(&mut detector, &keeper.policy, interface) {
            // It went meanwhile; the event loop hears of it, and of its return.
            Err(DetectorError::UnknownInterface(name)) => {
                warn!(interface = name, "went while it was being attached to; waiting for it");
            }
            result => result?,
        }
    }
    let names: Vec<_> = present.iter().map(|interface| interface.name.as_str()).collect();
    for pattern in keeper.policy.awaited(&names) {
        warn!(interface = pattern, present = names.join(","), "not there yet; waiting for it");
    }
    detach_unwanted(&mut detector, &keeper.policy, pins.as_ref(), present)?;

    let (restore, revoke) = adopt(&mut keeper, held, on_record)?;
    let trial = held.and_then(|status| status.trial_until);
    let mut ruleset = Ruleset::of(&keeper.policy, firewall.conntrack_in_use()?);
    enforce(&mut ruleset, &state, trial);
    let was_gone = matches!(read, Ok(None));
    let damage = match read {
        Ok(_) => firewall.install(&ruleset, &restore).err(),
        Err(error) => Some(error),
    };
    // Another tool has left only a part of it, or a part that cannot become what it should be.
    if let Some(error) = damage {
        let all = missing(&keeper, &[]);
        firewall.install_anew(&ruleset, &all)?;
        warn!(%error, grants = all.len(), "the table inet xknock was damaged, and was made anew");
    }
    firewall.revoke(&revoke)?;
    for what in detector.settle()? {
        warn!(lost = what, "begun anew, because this program or its config needs other maps");
    }
    if was_gone && !restore.is_empty() {
        warn!(grants = restore.len(), "the table inet xknock was gone; its grants are back");
    }
    let trial = ruleset.trial_until;
    Ok(Started {
        detector,
        firewall,
        watch,
        ruleset,
        interfaces,
        keeper,
        keys,
        key_changes,
        state,
        pins,
        trial,
        is_first: false,
    })
}

fn check_privileges() -> Result<(), AgentError> {
    // A kernel that does not tell will refuse later, with an error of its own.
    let missing = missing_capabilities().unwrap_or_default();
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<_> =
        missing.iter().map(|(name, what_for)| format!("{name} ({what_for})")).collect();
    Err(AgentError::Privilege(missing.join(", ")))
}

/// The pins, if there can be any, and the record among them.
fn open_record(options: &Options) -> Result<(Option<Pins>, Record), AgentError> {
    let pins = match Pins::open(&options.places.pins) {
        Ok(pins) => Some(pins),
        Err(error @ PinsError::Held(_)) => return Err(DetectorError::from(error).into()),
        Err(error) => {
            warn!(%error, "nothing but the table will outlive this agent");
            None
        }
    };
    let record = Record::open(pins.as_ref())?;
    let Some(pins) = pins else { return Ok((None, record)) };
    let state = record.state()?;
    if state.is_new() || state.netns == sockets::network_namespace()? {
        return Ok((Some(pins), record));
    }
    warn!("what is pinned belongs to another network namespace, and is removed");
    drop(record);
    pins.remove_all().map_err(DetectorError::from)?;
    drop(pins);
    let pins = Pins::open(&options.places.pins).map_err(DetectorError::from)?;
    let record = Record::open(Some(&pins))?;
    Ok((Some(pins), record))
}

fn fresh_state() -> Result<State, AgentError> {
    Ok(State {
        hash_key: rand::random(),
        decoy_seed: rand::random(),
        netns: sockets::network_namespace()?,
        next_node: 0,
        confirmed: 0,
    })
}

/// What is fixed while a program is loaded.
pub(super) const fn settings(policy: &Policy, state: &State, trace: bool) -> Settings {
    Settings {
        strays: policy.strays,
        max_sources: policy.max_sources,
        knocks: policy.knocks,
        trace,
        hash_key: state.hash_key,
    }
}

/// What decides over the mode besides the policy. `trial` is when one ends.
pub(super) fn enforce(ruleset: &mut Ruleset, state: &State, trial: Option<Duration>) {
    if state.confirmed != 0 {
        ruleset.mode = Mode::Enforce;
    }
    ruleset.trial_until = trial.filter(|_| ruleset.mode == Mode::Observe);
}

/// None of the interfaces may run the XDP program of somebody else.
fn refuse_occupied(
    policy: &Policy,
    present: &[Interface],
    pins: Option<&Pins>,
) -> Result<(), AgentError> {
    let ours = pins.map(Pins::linked).transpose().map_err(DetectorError::from)?.unwrap_or_default();
    for interface in present.iter().filter(|one| policy.watches(&one.name)) {
        if let Some(xdp) = interface.xdp
            && !ours.contains(&interface.index)
        {
            return Err(occupied(interface, xdp.program).into());
        }
    }
    Ok(())
}

pub(super) fn occupied(interface: &Interface, program: u32) -> DetectorError {
    let occupant = program_name(program)
        .map_or(format!("id {program}"), |name| format!("`{name}` (id {program})"));
    DetectorError::Occupied { interface: interface.name.clone(), occupant: Some(occupant) }
}

/// Attaches to one interface, or goes on where it is attached already.
pub(super) fn attach(
    detector: &mut Detector,
    policy: &Policy,
    interface: &Interface,
) -> Result<(), DetectorError> {
    let running = interface
        .xdp
        .map(|xdp| if xdp.generic { AttachedMode::Generic } else { AttachedMode::Native });
    let mode = detector.attach((interface.index, &interface.name), policy.attach, running)?;
    info!(interface = interface.name, mode = %mode, "attached");
    Ok(())
}

/// Links of the agent before this one to interfaces that this one does not watch, or that are
/// gone.
fn detach_unwanted(
    detector: &mut Detector,
    policy: &Policy,
    pins: Option<&Pins>,
    present: &[Interface],
) -> Result<(), AgentError> {
    let linked = pins.map(Pins::linked).transpose().map_err(DetectorError::from)?;
    for index in linked.unwrap_or_default() {
        let wanted = |one: &Interface| one.index == index && policy.watches(&one.name);
        if !present.iter().any(wanted) {
            detector.detach(index)?;
        }
    }
    Ok(())
}

/// Takes over the grants of the agent before this one: those that the table lacks, to be put
/// back, and those that no door gives any more, or that nobody has earned, to be ended.
fn adopt(
    keeper: &mut Keeper,
    held: Option<&Status>,
    on_record: bool,
) -> Result<(Vec<TimedGrant>, Vec<Grant>), AgentError> {
    let now = clock::since_boot();
    for (grant, running) in keeper.recorded(now)? {
        keeper.grants.adopt(grant, running);
    }
    let in_table = held.map(|status| status.grants.as_slice()).unwrap_or_default();
    for &TimedGrant { grant, until } in in_table {
        // What is not on record was put there by somebody else, unless there was none: after an
        // agent of another layout, or one that could not pin.
        if on_record || keeper.grants.until(&grant).is_some() {
            continue;
        }
        let giver = keeper.policy.doors.iter().find(|door| door.opens.contains(&grant.service));
        let Some(door) = giver.map(knock_policy::Door::id) else { continue };
        keeper.adopt(grant, Running { door, until });
    }
    let mut revoke = keeper.grants.no_longer_allowed(&keeper.policy);
    for grant in &revoke {
        if let Some(running) = keeper.end(*grant) {
            keeper.closed(*grant, running);
        }
    }
    let unknown = in_table.iter().map(|timed| timed.grant);
    revoke.extend(unknown.filter(|grant| keeper.grants.until(grant).is_none()));
    let restore = missing(keeper, in_table);
    Ok((restore, revoke))
}

/// Running grants that the table does not hold, or for another time than they run. An agent that
/// is killed may have written down more than it could do yet.
pub(super) fn missing(keeper: &Keeper, in_table: &[TimedGrant]) -> Vec<TimedGrant> {
    /// Between two clocks, of which the second is read when the kernel has answered: the table
    /// seems to give more.
    const LESS: Duration = Duration::from_millis(100);
    const MORE: Duration = Duration::from_secs(2);
    let now = clock::since_boot();
    let held: HashMap<_, _> = in_table.iter().map(|timed| (timed.grant, timed.until)).collect();
    let right = |grant: &Grant, running: &Running| {
        let canonical = Grant { source: grant.source.to_canonical(), ..*grant };
        let ends = running.until;
        held.get(&canonical).is_some_and(|&held| ends <= held + LESS && held <= ends + MORE)
    };
    let running = keeper.grants.iter().filter(|(_, running)| running.until > now);
    let lost = running.filter(|(grant, running)| !right(grant, running));
    lost.map(|(grant, running)| TimedGrant { grant, until: running.until }).collect()
}

/// Compiles for what the detector has, and remembers where the trie goes on.
pub(super) fn compile_for(
    trie: &Trie,
    policy: &Policy,
    keys: &mut Keys,
    state: &State,
) -> Result<Compiled, AgentError> {
    let served = sockets::served()?;
    let ways = keys.ways(policy, &served);
    Ok(compile_onto(trie, policy, &ways, &served, state.decoy_seed)?)
}

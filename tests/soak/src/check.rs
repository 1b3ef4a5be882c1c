//! The comparison of agent and kernel with the model.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use knock_lab::process::PATIENCE;
use serde_json::Value;

use crate::model::{Grant, MARGIN, Model, Standing};
use crate::world::{Wire, World, json};

/// Frames that a driver may have handed to the program and not counted yet.
const UNDER_WAY: u64 = 64;
/// The most file descriptors that an agent may have open: maps, links, sockets, a few requests.
const DESCRIPTORS: usize = 96;

/// Counters and packets when the pins were made, and the counters when last seen.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    packets: u64,
    completed: u64,
    before: Wire,
    after: Wire,
    last: BTreeMap<String, u64>,
}

pub(crate) fn counters(status: &Value) -> BTreeMap<String, u64> {
    let all = status["packets"].as_object().into_iter().flatten();
    all.filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).collect()
}

fn completed(counters: &BTreeMap<String, u64>) -> u64 {
    counters.get("completed").copied().unwrap_or(0)
}

impl Counts {
    /// Takes the counters as they are as the base of all later checks.
    pub(crate) fn begin(world: &World) -> Result<Self> {
        let before = world.wire();
        let last = counters(&world.asked("status")?);
        let (packets, completed) = (last.values().sum(), completed(&last));
        Ok(Self { packets, completed, before, after: world.wire(), last })
    }

    /// Checks that no counter goes back, and that they add up to what the interfaces have received.
    fn check(&mut self, status: &Value, before: Wire, after: Wire) -> Result<()> {
        let now = counters(status);
        for (name, last) in &self.last {
            let count = now.get(name).copied().unwrap_or(0);
            ensure!(count >= *last, "counter {name} went back from {last} to {count}");
        }
        let packets = now.values().sum::<u64>() - self.packets;
        self.last = now;
        let least = (before.first - self.after.first).saturating_sub(UNDER_WAY);
        let most = after.all - self.before.all + UNDER_WAY;
        ensure!(
            (least..=most).contains(&packets),
            "the counters add up to {packets} packets; the interfaces have received {least} to {most}"
        );
        Ok(())
    }

    /// Checks that every complete sequence has been counted once.
    fn check_completed(&self, model: &Model) -> Result<()> {
        let completed = completed(&self.last) - self.completed;
        ensure!(
            (model.certain..=model.sent).contains(&completed),
            "{completed} knocks completed; sent were {} to {}",
            model.certain,
            model.sent
        );
        Ok(())
    }
}

/// Waits until the agent says and the kernel holds what the model expects.
pub(crate) fn settle(world: &mut World, model: &mut Model, counts: &mut Counts) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let result = look(world, model, counts);
        match result {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
    }
}

fn look(world: &mut World, model: &mut Model, counts: &mut Counts) -> Result<()> {
    model.forget_ended(Instant::now());
    check_table(world, model)?;
    let before = world.wire();
    let asked = Instant::now();
    let status = world.asked("status")?;
    counts.check(&status, before, world.wire())?;
    counts.check_completed(model)?;
    check_status(&status, model, asked)?;
    check_links(world, model, &status)?;
    let asked = Instant::now();
    let grants = world.asked("grants")?;
    let listed = grants.as_array().context("a list of grants")?.iter().filter_map(agent_grant);
    check_grants("the agent", &listed.collect(), model, (asked, Instant::now()), MARGIN)?;
    let id = world.agent()?.id();
    let open = std::fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count);
    ensure!(open <= DESCRIPTORS, "the agent has {open} files open");
    Ok(())
}

fn check_status(status: &Value, model: &Model, asked: Instant) -> Result<()> {
    let mode = &status["mode"];
    match (model.enforcing(asked), model.enforcing(Instant::now())) {
        (Some(before), Some(after)) if before == after => {
            let expected = if before { "enforce" } else { "observe" };
            ensure!(mode == expected, "the agent says {mode}, expected {expected}");
        }
        _ => {}
    }
    // The door for keys is not among the present ones.
    let doors = model.plan.present().len() + 1;
    ensure!(status["doors"] == doors, "{} doors, expected {doors}", status["doors"]);
    ensure!(status["pinned"] == true, "nothing is pinned");
    let grants = status["grants"].as_u64().unwrap_or(0) as usize;
    let standing =
        |wanted| model.grants.values().filter(|end| end.standing(asked) == wanted).count();
    let (least, near) = (standing(Standing::Running), standing(Standing::Near));
    ensure!(
        (least..=least + near).contains(&grants),
        "the agent counts {grants} grants, expected {least} to {}",
        least + near
    );
    Ok(())
}

/// Checks that there is a link for each watched interface, and no other.
fn check_links(world: &World, model: &Model, status: &Value) -> Result<()> {
    let watched = world.interfaces().into_iter().filter(|(_, name)| model.plan.watches(name));
    let watched: BTreeSet<_> = watched.collect();
    let said = status["interfaces"].as_array().into_iter().flatten();
    let said: BTreeSet<_> = said
        .filter_map(|one| Some((one["index"].as_u64()?, one["name"].as_str()?.to_owned())))
        .collect();
    ensure!(said == watched, "the agent watches {said:?}, expected {watched:?}");
    let (links, wanted) = (world.links(), watched.iter().map(|(index, _)| *index).collect());
    ensure!(links == wanted, "links are pinned to {links:?}, expected {wanted:?}");
    Ok(())
}

/// A trial ends when it was promised, as the agent says and as the kernel's table holds it. Nothing
/// is waited for: one that is too long would be waited out.
pub(crate) fn check_trial(world: &World, model: &Model) -> Result<()> {
    let asked = Instant::now();
    let left = world.asked("status")?["trial_seconds"].as_f64().map(Duration::from_secs_f64);
    check_trial_left("the agent", left, model, asked, MARGIN)?;
    let asked = Instant::now();
    let set = json(&world.lab.server.sh("nft -n -j list set inet xknock trial"))?;
    let objects = set["nftables"].as_array().context("no objects")?;
    let elements = objects.iter().filter_map(|object| object["set"]["elem"].as_array()).flatten();
    let left = elements.filter_map(|element| element["elem"]["expires"].as_u64()).max();
    // nft(8) prints whole seconds.
    let margin = MARGIN + Duration::from_secs(1);
    check_trial_left("the table", left.map(Duration::from_secs), model, asked, margin)
}

fn check_trial_left(
    whose: &str,
    left: Option<Duration>,
    model: &Model,
    asked: Instant,
    margin: Duration,
) -> Result<()> {
    let answered = Instant::now();
    let Some(end) = model.trial.filter(|end| end.standing(asked) != Standing::Over) else {
        ensure!(left.is_none(), "{whose} is on trial for {left:?} more, expected none");
        return Ok(());
    };
    let expected = end.left((asked, answered), margin);
    match left {
        None => ensure!(
            end.standing(answered) != Standing::Running,
            "{whose} is not on trial, expected {expected:?} more"
        ),
        Some(left) => ensure!(
            expected.contains(&left),
            "{whose} is on trial for {left:?} more, expected {expected:?}"
        ),
    }
    Ok(())
}

/// Checks the elements in the kernel's table.
pub(crate) fn check_table(world: &World, model: &Model) -> Result<()> {
    let asked = Instant::now();
    let output = world.lab.server.shell("nft -n -j list table inet xknock");
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "there is no table: {said}");
    let table = json(&String::from_utf8_lossy(&output.stdout))?;
    let objects = table["nftables"].as_array().context("no objects")?;
    let sets = objects.iter().filter_map(|object| object.get("set"));
    let sets = sets.filter(|set| matches!(set["name"].as_str(), Some("open4" | "open6")));
    let elements = sets.filter_map(|set| set["elem"].as_array()).flatten();
    let found: BTreeMap<_, _> = elements.filter_map(kernel_grant).collect();
    // nft(8) prints whole seconds.
    let margin = MARGIN + Duration::from_secs(1);
    check_grants("the table", &found, model, (asked, Instant::now()), margin)
}

fn kernel_grant(element: &Value) -> Option<(Grant, Duration)> {
    let element = &element["elem"];
    let parts = element["val"]["concat"].as_array()?;
    let source: IpAddr = parts.first()?.as_str()?.parse().ok()?;
    let protocol = match parts.get(1)?.as_u64()? {
        6 => "tcp",
        17 => "udp",
        _ => return None,
    };
    let service = format!("{protocol}/{}", parts.get(2)?);
    Some(((source, service), Duration::from_secs(element["expires"].as_u64()?)))
}

pub(crate) fn agent_grant(grant: &Value) -> Option<(Grant, Duration)> {
    let source: IpAddr = grant["source"].as_str()?.parse().ok()?;
    let left = Duration::from_secs_f64(grant["seconds"].as_f64()?);
    Some(((source, grant["service"].as_str()?.to_owned()), left))
}

/// Checks that all grants of the model are there with their time, and no others.
fn check_grants(
    whose: &str,
    found: &BTreeMap<Grant, Duration>,
    model: &Model,
    (asked, answered): (Instant, Instant),
    margin: Duration,
) -> Result<()> {
    for (grant, end) in &model.grants {
        let runs = end.standing(answered) == Standing::Running;
        ensure!(!runs || found.contains_key(grant), "{whose} lacks {grant:?} until {end:?}");
    }
    for (grant, left) in found {
        let Some(end) = model.grants.get(grant) else {
            bail!("{whose} holds {grant:?}, which was not earned or has ended");
        };
        let over = end.standing(asked) == Standing::Over;
        ensure!(!over, "{whose} holds {grant:?}, which has ended");
        let expected = end.left((asked, answered), margin);
        ensure!(
            expected.contains(left),
            "{whose} gives {grant:?} {left:?} more, expected {expected:?}"
        );
    }
    Ok(())
}

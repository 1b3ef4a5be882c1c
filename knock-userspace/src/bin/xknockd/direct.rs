//! Verbs without an agent: they change the table and the record of grants in the kernel themselves.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use knock_control::{Grant, Open, Revoke};
use knock_detector::{Pins, Record, Recorded};
use knock_firewall::{Firewall, TimedGrant, since_boot};
use knock_userspace::instance_paths::InstancePaths;
use knock_userspace::lock::Lock;

use crate::ConfigArgs;
use crate::policy::{path, read};

pub(crate) fn grants() -> Result<Vec<Grant>> {
    let held = Firewall::open()?.status()?;
    let Some(held) = held else {
        bail!("no agent is running, and there is no table inet xknock");
    };
    Ok(held.grants.iter().map(|timed| shown(timed, None)).collect())
}

pub(crate) fn open(
    paths: &InstancePaths,
    config: &ConfigArgs,
    request: &Open,
) -> Result<Vec<Grant>> {
    let lock = take_lock(paths)?;
    let path = path(config).context(
        "no agent is running, and there is no config that says what the door opens: give --config",
    )?;
    let policy = read(&path)?;
    let door = policy.known_door(&request.door).with_context(|| path.display().to_string())?;
    let until = since_boot() + request.length(door.open_for)?;
    let source = request.source()?;
    let timed: Vec<_> = door
        .opens
        .iter()
        .map(|&service| TimedGrant { grant: knock_policy::Grant { source, service }, until })
        .collect();
    let mut firewall = Firewall::open()?;
    firewall
        .grant(&timed)
        .context("no agent is running, so nothing is closed that could be opened")?;
    if let Some(mut record) = record(paths)? {
        for TimedGrant { grant, .. } in &timed {
            record.grants.put(grant, Recorded { door: door.id(), until })?;
        }
    }
    drop(lock);
    Ok(timed.iter().map(|timed| shown(timed, Some(&request.door))).collect())
}

pub(crate) fn revoke(paths: &InstancePaths, request: &Revoke) -> Result<Vec<Grant>> {
    let door = request.door.as_deref();
    let _lock = take_lock(paths)?;
    let mut firewall = Firewall::open()?;
    let held =
        firewall.status()?.context("no agent is running, and there is no table inet xknock")?;
    let mut record = record(paths)?;
    let recorded =
        record.as_ref().map(|record| record.grants.all()).transpose()?.unwrap_or_default();
    let of_door = |grant: &knock_policy::Grant| {
        let Some(door) = door else { return true };
        let id = knock_common::sequence::DoorId::of(door);
        recorded.iter().any(|(known, entry)| known == grant && entry.door == id)
    };
    let address = request.address.map(|address| address.to_canonical());
    let meant: Vec<_> = held
        .grants
        .into_iter()
        .filter(|timed| address.is_none_or(|address| timed.grant.source == address))
        .filter(|timed| of_door(&timed.grant))
        .collect();
    let grants: Vec<_> = meant.iter().map(|timed| timed.grant).collect();
    // Out of the record first: an agent that starts now must not bring the grants back.
    if let Some(record) = &mut record {
        for grant in &grants {
            record.grants.remove(grant)?;
        }
    }
    firewall.revoke(&grants)?;
    Ok(meant.iter().map(|timed| shown(timed, door)).collect())
}

/// Removes the table, the pins and the state.
pub(crate) fn off(paths: &InstancePaths) -> Result<()> {
    let lock = take_lock(paths)?;
    Firewall::open()?.remove()?;
    if let Some(pins) = Pins::existing(&paths.pins)? {
        pins.remove_all()?;
    }
    // It stays if a key was ever used: the newest times in it must not be lost.
    let _ = std::fs::remove_dir(&paths.state);
    lock.remove(paths);
    Ok(())
}

fn record(paths: &InstancePaths) -> Result<Option<Record>> {
    match Pins::existing(&paths.pins)? {
        Some(pins) => Ok(Record::existing(&pins)?),
        None => Ok(None),
    }
}

fn shown(timed: &TimedGrant, door: Option<&str>) -> Grant {
    Grant {
        source: timed.grant.source,
        service: timed.grant.service.to_string(),
        door: door.map(str::to_owned),
        seconds: match timed.until {
            // Without an end, which no agent gives.
            Duration::MAX => timed.until,
            until => until.saturating_sub(since_boot()),
        }
        .as_secs_f64(),
    }
}

/// Takes the agent's lock, for changes that must not be made while an agent runs.
fn take_lock(paths: &InstancePaths) -> Result<Lock> {
    match Lock::take(paths) {
        Ok(lock) => Ok(lock),
        Err(error) => bail!("{error}; it does not answer at {}", paths.socket().display()),
    }
}

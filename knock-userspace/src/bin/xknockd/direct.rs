//! What is done to the kernel's own state where no agent runs.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use knock_control::Grant;
use knock_detector::{Pins, Record, Recorded};
use knock_firewall::{Firewall, TimedGrant, since_boot};
use knock_userspace::places::Places;

use crate::ConfigArgs;
use crate::policy::{path, read};
use crate::verbs::take_lock;

pub(crate) fn grants() -> Result<Vec<Grant>> {
    let held = Firewall::open()?.status()?;
    let Some(held) = held else {
        bail!("no agent is running, and there is no table inet xknock");
    };
    Ok(held.grants.iter().map(|timed| shown(timed, None)).collect())
}

pub(crate) fn open(
    places: &Places,
    config: &ConfigArgs,
    name: &str,
    address: IpAddr,
    lasts: Option<Duration>,
) -> Result<Vec<Grant>> {
    let lock = take_lock(places)?;
    let path = path(config).context(
        "no agent is running, and there is no config that says what the door opens: give --config",
    )?;
    let policy = read(&path)?;
    let door = policy.door(name).with_context(|| {
        let names: Vec<_> = policy.doors.iter().map(|door| door.name.as_str()).take(20).collect();
        format!("there is no door `{name}` in {}; there are: {}", path.display(), names.join(", "))
    })?;
    let until = since_boot() + lasts.unwrap_or(door.open_for);
    let source = address.to_canonical();
    let timed: Vec<_> = door
        .opens
        .iter()
        .map(|&service| TimedGrant { grant: knock_policy::Grant { source, service }, until })
        .collect();
    let mut firewall = Firewall::open()?;
    firewall
        .grant(&timed)
        .context("no agent is running, so nothing is closed that could be opened")?;
    if let Some(mut record) = record(places)? {
        for TimedGrant { grant, .. } in &timed {
            record.put(grant, Recorded { door: door.id(), until })?;
        }
    }
    drop(lock);
    Ok(timed.iter().map(|timed| shown(timed, Some(name))).collect())
}

pub(crate) fn revoke(
    places: &Places,
    address: Option<IpAddr>,
    door: Option<&str>,
) -> Result<Vec<Grant>> {
    let _lock = take_lock(places)?;
    let mut firewall = Firewall::open()?;
    let held =
        firewall.status()?.context("no agent is running, and there is no table inet xknock")?;
    let mut record = record(places)?;
    let recorded = record.as_ref().map(Record::grants).transpose()?.unwrap_or_default();
    let of_door = |grant: &knock_policy::Grant| {
        let Some(door) = door else { return true };
        let id = knock_common::sequence::DoorId::of(door);
        recorded.iter().any(|(known, entry)| known == grant && entry.door == id)
    };
    let address = address.map(|address| address.to_canonical());
    let meant: Vec<_> = held
        .grants
        .into_iter()
        .filter(|timed| address.is_none_or(|address| timed.grant.source == address))
        .filter(|timed| of_door(&timed.grant))
        .collect();
    let grants: Vec<_> = meant.iter().map(|timed| timed.grant).collect();
    // Out of the record first: an agent that starts now must not bring them back.
    if let Some(record) = &mut record {
        for grant in &grants {
            record.remove(grant)?;
        }
    }
    firewall.revoke(&grants)?;
    Ok(meant.iter().map(|timed| shown(timed, door)).collect())
}

/// Removes everything.
pub(crate) fn off(places: &Places) -> Result<()> {
    let lock = take_lock(places)?;
    Firewall::open()?.remove()?;
    if let Some(pins) = Pins::existing(&places.pins)? {
        pins.remove_all()?;
    }
    // What must not be forgotten stays in there if a key was ever used.
    let _ = std::fs::remove_dir(&places.state);
    lock.remove(places);
    Ok(())
}

fn record(places: &Places) -> Result<Option<Record>> {
    match Pins::existing(&places.pins)? {
        Some(pins) => Ok(Record::existing(&pins)?),
        None => Ok(None),
    }
}

fn shown(timed: &TimedGrant, door: Option<&str>) -> Grant {
    Grant {
        source: timed.grant.source,
        service: timed.grant.service.to_string(),
        door: door.map(str::to_owned),
        seconds: timed.until.saturating_sub(since_boot()).as_secs_f64(),
    }
}

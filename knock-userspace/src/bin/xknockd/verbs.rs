//! Verbs that ask the running agent. Those that work without one fall back to [`direct`].

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use knock_control::{Caller, Client, Done, Door, Grant, Open, Revoke, Status, Try};
use knock_output::out;
use knock_userspace::caller;
use knock_userspace::instance_paths::InstancePaths;
use knock_userspace::lock::Lock;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{ConfigArgs, direct};

/// How long the agent may take to end, once it has agreed to.
const FAREWELL: Duration = Duration::from_secs(10);

pub(crate) fn status(paths: &InstancePaths, json: bool) -> Result<()> {
    let status: Status = get(paths, "status")?;
    if json {
        return print_json(&status);
    }
    let mut mode = status.mode.to_string();
    if let Some(seconds) = status.trial_seconds {
        mode += &format!(", on trial for {} more", whole_seconds(seconds));
    } else if status.confirmed {
        mode += ", confirmed (the config says observe)";
    }
    let interfaces = status.interfaces.iter().map(|one| format!("{} ({})", one.name, one.mode));
    let awaited = status.awaited.iter().map(|name| format!("{name} (not there yet)"));
    let watched: Vec<_> = interfaces.chain(awaited).collect();
    let packets: u64 = status.packets.values().sum();
    let mut table = plain_table();
    for (what, value) in [
        ("process", format!("{}, version {}", status.process, status.version)),
        ("mode", mode),
        ("connections", status.connections.to_string()),
        ("interfaces", watched.join(", ")),
        ("doors", status.doors.to_string()),
        ("grants", status.grants.to_string()),
        ("refused packets", status.refused_packets.to_string()),
        ("late knocks", status.late.to_string()),
        ("table restored", format!("{} times", status.restored)),
        ("outlives the agent", if status.pinned { "all of it" } else { "the table only" }.into()),
        ("packets seen", packets.to_string()),
    ] {
        table.add_row([what.to_owned(), value]);
    }
    for (name, count) in &status.packets {
        table.add_row([format!("  {name}"), count.to_string()]);
    }
    out!("{}", table.trim_fmt())?;
    Ok(())
}

pub(crate) fn doors(paths: &InstancePaths, json: bool) -> Result<()> {
    let doors: Vec<Door> = get(paths, "doors")?;
    if json {
        return print_json(&doors);
    }
    let mut table = plain_table();
    table.set_header(["DOOR", "OPENS", "OPEN FOR", "GRANTS"]);
    for door in doors {
        let open_for = humantime::format_duration(door.open_for).to_string();
        table.add_row([door.name, door.opens.join(", "), open_for, door.grants.to_string()]);
    }
    out!("{}", table.trim_fmt())?;
    Ok(())
}

pub(crate) fn grants(paths: &InstancePaths, json: bool) -> Result<()> {
    let grants = match ask(paths, async |client| client.get("grants").await)? {
        Some(grants) => grants,
        None => direct::grants()?,
    };
    if json { print_json(&grants) } else { print_grants(&grants) }
}

pub(crate) fn open(
    paths: &InstancePaths,
    config: &ConfigArgs,
    door: String,
    address: IpAddr,
    lasts: Option<Duration>,
) -> Result<()> {
    let body = Open { door, address, lasts };
    let grants = match ask(paths, async |client| client.post("open", &body).await)? {
        Some(grants) => grants,
        None => direct::open(paths, config, &body)?,
    };
    print_grants(&grants)
}

pub(crate) fn revoke(
    paths: &InstancePaths,
    address: Option<IpAddr>,
    door: Option<String>,
) -> Result<()> {
    let body = Revoke { address, door };
    let grants: Vec<Grant> = match ask(paths, async |client| client.post("revoke", &body).await)? {
        Some(grants) => grants,
        None => direct::revoke(paths, &body)?,
    };
    if grants.is_empty() {
        out!("There was no such grant.")?;
        return Ok(());
    }
    out!("Ended:")?;
    print_grants(&grants)
}

pub(crate) fn reload(paths: &InstancePaths, force: bool) -> Result<()> {
    tell(paths, "reload", &caller(force))
}

pub(crate) fn try_enforcing(paths: &InstancePaths, lasts: Duration) -> Result<()> {
    tell(paths, "try", &Try { lasts })
}

pub(crate) fn confirm(paths: &InstancePaths, force: bool) -> Result<()> {
    tell(paths, "confirm", &caller(force))
}

pub(crate) fn off(paths: &InstancePaths) -> Result<()> {
    let asked = ask(paths, async |client| client.post::<Done>("off", &()).await)?;
    if asked.is_some() {
        // It has ended when the lock is free.
        let deadline = Instant::now() + FAREWELL;
        while paths.lock().exists() {
            match Lock::take(paths) {
                Ok(_) => break,
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(error).context("the agent does not end"),
            }
        }
    }
    // An agent that was killed has left these, too.
    direct::off(paths)?;
    out!("xknock is off: no program, no pins, no table; all ports are as before.")?;
    Ok(())
}

fn caller(force: bool) -> Caller {
    Caller { session: caller::session(), force }
}

fn tell(paths: &InstancePaths, what: &str, body: &impl Serialize) -> Result<()> {
    let done = ask(paths, async |client| client.post::<Done>(what, body).await)?;
    let done = done.with_context(|| no_agent(paths))?;
    out!("{}", done.message)?;
    Ok(())
}

fn get<T: DeserializeOwned>(paths: &InstancePaths, what: &str) -> Result<T> {
    ask(paths, async |client| client.get(what).await)?.with_context(|| no_agent(paths))
}

fn no_agent(paths: &InstancePaths) -> String {
    format!("no agent is running (nothing listens at {})", paths.socket().display())
}

/// Does `work` with a connection to the agent. Returns `None` if no agent runs.
fn ask<T, E: std::error::Error + Send + Sync + 'static>(
    paths: &InstancePaths,
    work: impl AsyncFnOnce(Client) -> Result<T, E>,
) -> Result<Option<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match Client::connect(&paths.socket()).await? {
            Some(client) => Ok(Some(work(client).await?)),
            None => Ok(None),
        }
    })
}

fn print_json(value: &impl Serialize) -> Result<()> {
    out!("{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

fn print_grants(grants: &[Grant]) -> Result<()> {
    let mut table = plain_table();
    table.set_header(["SOURCE", "SERVICE", "DOOR", "LEFT"]);
    for grant in grants {
        table.add_row([
            grant.source.to_string(),
            grant.service.clone(),
            grant.door.clone().unwrap_or_else(|| "?".to_owned()),
            whole_seconds(grant.seconds),
        ]);
    }
    out!("{}", table.trim_fmt())?;
    Ok(())
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

fn whole_seconds(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds.ceil()) {
        Ok(duration) => humantime::format_duration(duration).to_string(),
        Err(_) => "?".to_owned(),
    }
}

//! `xknockd key`.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, stdout};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use knock_common::sequence::Step;
use knock_keys::{
    self, Folder, KEY_NAME_FORM, Key, KeyDoor, KeyLine, Kind, Ports, Rolling, key_name,
    no_core_dumps, time_to_text, wall_clock_s,
};
use knock_output::{OutputError, note, out};
use knock_policy::compile::taken_ports;
use knock_policy::{Door, Method, Policy};
use knock_userspace::instance_paths::InstancePaths;
use knock_userspace::keyring::{ReplayStore, has_knocked, misfits};
use knock_userspace::sockets;
use qrcode::{EcLevel, QrCode, render::unicode};

use crate::{ConfigArgs, policy};

#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// Draw a key for a device, and print the line that the device imports.
    Add(AddArgs),
    /// List all keys.
    List(Place),
    /// Show which doors a key opens, and until when.
    Show {
        /// Name of the key.
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Remove a key. Its grants end in their time.
    Remove {
        /// Name of the key.
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Draw a key anew, and print its line. The old line works until the grace period ends.
    Rotate {
        /// Name of the key.
        name: String,
        /// Set how long the old line still works. 0s ends it at once.
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = humantime::parse_duration)]
        grace: Duration,
        /// Set the name or address where devices find this host. The default is the old one.
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        /// End the key after this time. The default is the end that it has.
        #[arg(long, value_name = "TIME", value_parser = lasting)]
        expires: Option<Duration>,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Args)]
pub(crate) struct Place {
    #[command(flatten)]
    config: ConfigArgs,
    /// Use this folder of key files instead of the one in the config.
    #[arg(long, value_name = "FOLDER")]
    keys: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct AddArgs {
    /// Name of the key. Each device has a key of its own.
    name: String,
    /// Let the key open this door. May be repeated.
    #[arg(long = "door", value_name = "NAME", required = true)]
    doors: Vec<String>,
    /// Set the name or address where devices find this host. The default is its full name, if it
    /// has one.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// End the key after this time.
    #[arg(long, value_name = "TIME", value_parser = lasting)]
    expires: Option<Duration>,
    /// Set the longest time that this key opens a door for.
    #[arg(long, value_name = "TIME", value_parser = lasting)]
    longest: Option<Duration>,
    /// Draw a key pair, so that the files of this host cannot make a knock. For sealed doors only.
    #[arg(long)]
    public: bool,
    #[command(flatten)]
    place: Place,
}

pub(crate) fn key(paths: &InstancePaths, command: KeyCommand) -> Result<()> {
    no_core_dumps();
    match command {
        KeyCommand::Add(args) => add(paths, args),
        KeyCommand::List(place) => list(&place),
        KeyCommand::Show { name, place } => show(&place.folder()?.read(&name)?),
        KeyCommand::Remove { name, place } => {
            ensure!(key_name(&name).is_some(), "there is no key `{name}`");
            place.folder()?.remove(&name)?;
            out!("Removed the key `{name}`.")?;
            Ok(())
        }
        KeyCommand::Rotate { name, grace, host, expires, place } => {
            rotate(paths, &name, grace, host, expires, &place)
        }
    }
}

fn rotate(
    paths: &InstancePaths,
    name: &str,
    grace: Duration,
    host: Option<String>,
    expires: Option<Duration>,
    place: &Place,
) -> Result<()> {
    ensure!(key_name(name).is_some(), "there is no key `{name}`");
    let folder = place.folder()?;
    let before = folder.read(name)?;
    if let Some(misfit) =
        place.policy()?.and_then(|policy| misfits(&before, &policy).into_iter().next())
    {
        bail!(
            "{misfit}, so a new line would open nothing: `xknockd key remove {name}`, and add it \
             anew"
        );
    }
    let mut key = before.clone();
    let now = wall_clock_s();
    if let Some(expires) = expires {
        key.expires = Some(now.saturating_add(expires.as_secs()));
    }
    ensure!(
        !key.has_expired(now),
        "the key `{name}` has ended: say with --expires until when the new line is good"
    );
    key.host = host_name(host, before.host.clone())?;
    // If this is unknown, assume that the device has the line that was handed out last.
    let numbers = ReplayStore::read_existing(&paths.newest()).ok();
    let unused =
        numbers.is_some_and(|numbers| !has_knocked(&numbers, &before.current, &before.doors));
    let line = key.rotate(now, now.saturating_add(grace.as_secs()), unused)?;
    folder.write(&key, true)?;
    if let Err(error) = hand_over(&line) {
        folder.write(&before, true)?;
        bail!("{error}; the key is as it was");
    }
    if let Some((part, until)) = &key.previous
        && part.id != before.current.id
    {
        note!(
            "The last line was never used to knock, so it is void now. The line before it works \
             until {}.",
            time_to_text(*until)
        );
    }
    Ok(())
}

impl Place {
    /// Reads the policy from the config, if there is one.
    fn policy(&self) -> Result<Option<Policy>> {
        policy::path(&self.config).map(|path| policy::read(&path)).transpose()
    }

    fn folder(&self) -> Result<Folder> {
        Ok(match &self.keys {
            Some(keys) => Folder::new(keys),
            None => Folder::new(self.policy()?.unwrap_or_default().keys),
        })
    }
}

fn add(paths: &InstancePaths, args: AddArgs) -> Result<()> {
    let AddArgs { name, doors, host, expires, longest, public, place } = args;
    ensure!(key_name(&name).is_some(), "`{name}` cannot be the name of a key: use {KEY_NAME_FORM}");
    let Some(policy) = place.policy()? else {
        bail!("there is no config: write {}, with a door of method \"sealed\"", policy::DEFAULT);
    };
    let kind = if public { Kind::Public } else { Kind::Shared };
    let used = used_ports(&policy);
    let doors: BTreeSet<_> = doors.into_iter().collect();
    let doors = doors.iter().map(|door| key_door(&policy, door, kind, longest, &used));
    let doors = doors.collect::<Result<Vec<_>>>()?;
    let now = wall_clock_s();
    let expires = expires.map(|expires| now.saturating_add(expires.as_secs()));
    let host = host_name(host, String::new())?;
    let (key, line) = Key::draw(name, host, kind, doors, now, expires, longest)?;
    let folder = Folder::new(place.keys.unwrap_or(policy.keys));
    if folder.is_empty() {
        // Before the first key no replay state can have been lost. If this fails, the agent refuses
        // knocks for a clock window, and says so.
        let _ = ReplayStore::create_if_absent(&paths.newest());
    }
    folder.write(&key, false)?;
    if let Err(error) = hand_over(&line) {
        folder.remove(&key.name)?;
        bail!("{error}; the key `{}` was not added", key.name);
    }
    Ok(())
}

/// Returns a door as the key will know it from now on.
fn key_door(
    policy: &Policy,
    name: &str,
    kind: Kind,
    longest: Option<Duration>,
    used: &BTreeSet<u16>,
) -> Result<KeyDoor> {
    let Door { opens, open_for, method, .. } = policy.known_door(name)?;
    let method = match method {
        Method::Sequence => bail!(
            "door `{name}` is knocked on without a key: set `method = \"sealed\"` or \"rolling\" \
             in the config"
        ),
        Method::Rolling { .. } if kind == Kind::Public => bail!(
            "door `{name}` is of method \"rolling\", for which this host must hold the secret: \
             leave --public out, or make the door \"sealed\""
        ),
        Method::Rolling { ports, steps, mixed } => {
            let ports = Ports::new(ports.clone(), used.iter().copied())
                .with_context(|| format!("door `{name}`, without the ports in use"))?;
            knock_keys::KeyMethod::Rolling(Rolling { ports, steps: *steps, mixed: *mixed })
        }
        Method::Sealed { port, addresses } => {
            knock_keys::KeyMethod::Sealed { port: *port, addresses: *addresses }
        }
    };
    let open_for = longest.map_or(*open_for, |longest| longest.min(*open_for));
    Ok(KeyDoor {
        name: name.to_owned(),
        method,
        open_for: Duration::from_secs(open_for.as_secs().max(1)),
        opens: opens.iter().map(|service| Step::new(service.protocol, service.port)).collect(),
    })
}

/// Returns the ports that cannot be steps: something listens on them, or a door uses them.
fn used_ports(policy: &Policy) -> BTreeSet<u16> {
    // Without procfs, a step may hit a served port; the agent then leaves that slot out.
    taken_ports(policy, &sockets::served().unwrap_or_default())
}

/// Prints the line, alone on standard output, so that it can be piped to the device.
fn hand_over(line: &KeyLine) -> Result<(), OutputError> {
    let text = line.to_text();
    out!("{}", *text)?;
    if stdout().is_terminal() {
        if let Ok(code) = QrCode::with_error_correction_level(text.as_bytes(), EcLevel::L) {
            out!("{}", code.render::<unicode::Dense1x2>().build())?;
        }
        note!(
            "On the device, run `xknock import` and paste the line. It is shown only now. Anyone \
             who sees it can knock."
        );
    }
    if line.host.is_empty() {
        note!("This host has no full name: add --host NAME to the import.");
    }
    Ok(())
}

fn list(place: &Place) -> Result<()> {
    let policy = place.policy()?;
    let folder = place.folder()?;
    if policy.is_none() && place.keys.is_none() {
        note!("There is no config. These are the keys in {}.", folder.path().display());
    }
    let (keys, mut errors) = folder.read_all();
    if let Some(at) = errors.iter().position(|error| error.is_about(folder.path())) {
        return Err(errors.swap_remove(at).into());
    }
    let now = wall_clock_s();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["KEY", "ID", "KIND", "DOORS", "MADE", "EXPIRES"]);
    for key in &keys {
        let doors: Vec<_> = key.doors.iter().map(|door| &*door.name).collect();
        table.add_row([
            key.name.clone(),
            key.current.id.to_string(),
            kind(key).to_owned(),
            doors.join(", "),
            time_to_text(key.made),
            expiry(key, now),
        ]);
    }
    out!("{}", table.trim_fmt())?;
    for (key, policy) in keys.iter().zip(std::iter::repeat(&policy)) {
        for misfit in policy.iter().flat_map(|policy| misfits(key, policy)) {
            note!("xknockd: `{}` opens nothing there: {misfit}", key.name);
        }
    }
    for error in &errors {
        note!("xknockd: {error}");
    }
    ensure!(
        errors.is_empty(),
        "{} of {} key files are refused",
        errors.len(),
        errors.len() + keys.len()
    );
    Ok(())
}

fn show(key: &Key) -> Result<()> {
    let now = wall_clock_s();
    out!("key      {}", key.name)?;
    out!("id       {}", key.current.id)?;
    out!("kind     {}", kind(key))?;
    out!("made     {}", time_to_text(key.made))?;
    out!("expires  {}", expiry(key, now))?;
    if let Some(longest) = key.longest {
        out!("longest  {}", humantime::format_duration(longest))?;
    }
    for door in &key.doors {
        out!("door     {door}")?;
    }
    if let Some((part, until)) = &key.previous {
        let state = if *until > now { "works until" } else { "ended" };
        out!("before   {} {state} {}", part.id, time_to_text(*until))?;
    }
    Ok(())
}

const fn kind(key: &Key) -> &'static str {
    match key.kind() {
        Kind::Shared => "shared",
        Kind::Public => "public",
    }
}

fn expiry(key: &Key, now: u64) -> String {
    match key.expires {
        None => "never".to_owned(),
        Some(expires) if key.has_expired(now) => format!("{} (over)", time_to_text(expires)),
        Some(expires) => time_to_text(expires),
    }
}

/// Returns where devices find this host: `named` by the user, or `known`, or its full name.
fn host_name(named: Option<String>, known: String) -> Result<String> {
    if let Some(named) = &named {
        ensure!(
            knock_keys::host_name(named).is_some(),
            "`{named}` is no name of a host: leave out users and ports; for other alphabets, use \
             the form that begins with xn--"
        );
    }
    let own = || nix::unistd::gethostname().ok()?.into_string().ok();
    let own = || own().filter(|name| name.contains('.') && knock_keys::host_name(name).is_some());
    let known = Some(known).filter(|known| !known.is_empty());
    Ok(named.or(known).or_else(own).unwrap_or_default())
}

/// Parses a time of one second or more.
fn lasting(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time.as_secs() == 0 { Err("give 1s or more".to_owned()) } else { Ok(time) }
}

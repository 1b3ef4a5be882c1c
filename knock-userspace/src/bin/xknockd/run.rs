//! `xknockd run`.

use anyhow::{Context as _, Result};
use knock_firewall::Firewall;
use knock_output::out;
use knock_policy::{Door, Grant, Mode, Policy, lockout};
use knock_userspace::agent::{self, Options, Signal};
use knock_userspace::instance_paths::InstancePaths;
use knock_userspace::interfaces::Interfaces;
use knock_userspace::{caller, logging};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::PolicyArgs;
use crate::policy::{self, load};

/// Options besides those of the policy.
#[derive(Clone, Copy)]
pub(crate) struct Flags {
    pub(crate) trace_kernel: bool,
    pub(crate) clean: bool,
    pub(crate) force: bool,
}

pub(crate) fn run(args: PolicyArgs, paths: InstancePaths, flags: Flags) -> Result<()> {
    let (policy, configured) = load(&args)?;
    refuse_lockout(&policy, flags.force)?;
    logging::init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(async {
        let help = if configured { None } else { Some(how_to_knock(&policy).await) };
        let on_ready = || {
            if let Some(help) = help {
                // An agent goes on without a reader.
                let _ = out!("{help}");
            }
        };
        let path = policy::path(&args.config);
        let unconfigured = policy.clone();
        let options = Options {
            paths,
            trace_kernel: flags.trace_kernel,
            clean: flags.clean,
            observe: args.observe,
            // Its path, and the path that it links to.
            config: path
                .iter()
                .flat_map(|path| [std::path::absolute(path), path.canonicalize()])
                .flatten()
                .collect(),
            reread: Box::new(move || {
                let Some(path) = &path else { return Ok(unconfigured.clone()) };
                let mut policy = policy::read(path).map_err(|error| error.to_string())?;
                policy::amend(&mut policy, &args);
                Ok(policy)
            }),
        };
        agent::run(policy, options, on_ready, signals()?).await?;
        Ok(())
    })
}

/// Fails if enforcing would lock out the SSH session that this is run from.
fn refuse_lockout(policy: &Policy, force: bool) -> Result<()> {
    if policy.mode == Mode::Observe || force {
        return Ok(());
    }
    let granted = |grant: &Grant| {
        let held = Firewall::open().and_then(|mut firewall| firewall.status()).ok().flatten();
        held.is_some_and(|held| held.grants.iter().any(|timed| timed.grant == *grant))
    };
    Ok(lockout::check(policy, caller::session().as_ref(), granted)?)
}

/// Turns the signals of this process into those of the agent.
fn signals() -> Result<mpsc::Receiver<Signal>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let what = tokio::select! {
                _ = terminate.recv() => Signal::Stop,
                _ = interrupt.recv() => Signal::Stop,
                _ = hang_up.recv() => Signal::Reload,
            };
            if sender.send(what).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Describes how to open the built-in door.
async fn how_to_knock(policy: &Policy) -> String {
    let found = match Interfaces::open() {
        Ok(interfaces) => interfaces.list().await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let mut watched = found.iter().filter(|one| policy.watches(&one.name));
    let address = watched.find_map(|one| one.addresses.first().copied());
    let host = address.map_or_else(|| "HOST".to_owned(), |address| address.to_string());
    let doors: Vec<_> = policy.doors.iter().map(|door| commands(door, &host)).collect();
    let mode = match policy.mode {
        Mode::Observe => {
            "Observing: nothing is closed. `--enforce` closes the port to everyone who has not knocked."
        }
        Mode::Enforce => "Enforcing: the port is closed to everyone who has not knocked.",
    };
    format!("{}\n{mode}", doors.join("\n"))
}

fn commands(door: &Door, host: &str) -> String {
    let steps = door.sequence.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let classic: Vec<_> = door
        .sequence
        .iter()
        .map(|step| format!("{}:{}", step.port, step.protocol.name()))
        .collect();
    let services: Vec<_> = door.opens.iter().map(ToString::to_string).collect();
    format!(
        "Door `{}` opens {} for {}. To knock:\n  xknock {host} --steps {steps}\n  knock -d 50 {host} {}",
        door.name,
        services.join(", "),
        humantime::format_duration(door.open_for),
        classic.join(" "),
    )
}

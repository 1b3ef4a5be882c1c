//! `xknockd run`.

use anyhow::{Context as _, Result};
use knock_userspace::agent::{self, Options};
use knock_userspace::policy::{Door, Mode, Policy};
use knock_userspace::{interfaces, logging};
use tokio::signal::unix::{SignalKind, signal};

use crate::PolicyArgs;
use crate::policy::load;

pub(crate) fn run(args: &PolicyArgs, trace_kernel: bool, clean: bool) -> Result<()> {
    let (policy, configured) = load(args)?;
    logging::init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(async {
        let help = if configured { None } else { Some(how_to_knock(&policy).await) };
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let on_ready = || {
            if let Some(help) = help {
                println!("{help}");
            }
        };
        let options = Options { trace_kernel, clean };
        agent::run(policy, options, on_ready, shutdown).await?;
        Ok(())
    })
}

/// The commands that open the built-in door.
async fn how_to_knock(policy: &Policy) -> String {
    let address = match interfaces::inspect(&policy.interfaces).await {
        Ok(found) => found.iter().find_map(|one| one.addresses.first().copied()),
        Err(_) => None,
    };
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

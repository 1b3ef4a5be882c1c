//! Knocking with a key, and what happens while the door is open.

use std::process::{self, ExitCode};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use knock_userspace::client::{Host, Knocker, OpenError, Target, Wishes};
use knock_userspace::keys::{KeyDoor, Method};

use crate::{KnockArgs, PATIENCE};

/// A rolling sequence whose slot was used before waits for the next one.
const ROLLING_PATIENCE: Duration = Duration::from_secs(45);

/// How long `door` may take to open, unless the user says otherwise.
pub(crate) fn patience(door: &KeyDoor) -> Duration {
    match door.method {
        Method::Sealed { .. } => PATIENCE,
        Method::Rolling(_) => ROLLING_PATIENCE,
    }
}

pub(crate) fn knock(host: &Host, args: &KnockArgs) -> Result<ExitCode> {
    let door = host.door(args.door.as_deref()).map_err(|what| anyhow!(what))?;
    let target = Target::resolve(&host.address, args.family.family())?;
    let wishes = Wishes { address: args.address, lasts: args.lasts };
    let mut knocker = Knocker::new(host.line.clone(), door.clone(), target, wishes)?;
    let say = |what: &str| {
        if args.verbose {
            eprintln!("{what} to {target}");
        }
    };
    if args.close {
        knocker.may_close()?;
        if args.then.is_empty() {
            say(&knocker.close()?);
            return Ok(ExitCode::SUCCESS);
        }
    }
    // Another address is let in: whether it can connect cannot be seen from here.
    match knocker.service().filter(|_| args.address.is_none()) {
        Some(service) => {
            let timeout = args.timeout.unwrap_or_else(|| patience(door));
            let opened = knocker.open(service.port, timeout, say);
            let (_, took) = opened.map_err(|error| explain(error, &service, target, timeout))?;
            eprintln!("{service} on {target} answers after {:.1} ms", took.as_secs_f64() * 1000.0);
        }
        None => say(&knocker.knock()?),
    }
    if args.then.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let code = run(&mut knocker, &args.then, args.keep)?;
    if args.close {
        say(&knocker.close()?);
    }
    Ok(code)
}

/// Says why a door did not open.
pub(crate) fn explain(
    error: OpenError,
    service: &dyn std::fmt::Display,
    target: Target,
    timeout: Duration,
) -> anyhow::Error {
    match error {
        OpenError::Knock(error) => error.into(),
        OpenError::NoAnswer(reasons) => anyhow!(
            "{service} on {target} did not answer within {}. Perhaps {reasons}",
            humantime::format_duration(timeout)
        ),
    }
}

/// Runs a command to its end, knocking meanwhile if `keep` says so; its exit status.
fn run(knocker: &mut Knocker, command: &[String], keep: bool) -> Result<ExitCode> {
    let Some((program, arguments)) = command.split_first() else { bail!("no command") };
    // An interrupt from the terminal is for the command; this process still has to close.
    #[cfg(unix)]
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGQUIT] {
        let noticed = std::sync::Arc::default();
        signal_hook::flag::register(signal, noticed).context("cannot catch signals")?;
    }
    let status = std::thread::scope(|scope| {
        let (done, ended) = channel();
        if keep {
            scope.spawn(move || renew(knocker, &ended));
        }
        let status = process::Command::new(program).args(arguments).status();
        drop(done);
        status
    });
    let status = status.with_context(|| format!("cannot run `{program}`"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Knocks again whenever half of the door's time is over, until the other end of `ended` is
/// gone.
pub(crate) fn renew(knocker: &mut Knocker, ended: &Receiver<()>) {
    while ended.recv_timeout(knocker.renewal()) == Err(RecvTimeoutError::Timeout) {
        if let Err(error) = knocker.knock() {
            eprintln!("xknock: {error}");
        }
    }
}

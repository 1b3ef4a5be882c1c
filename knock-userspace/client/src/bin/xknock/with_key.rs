//! Knocks with a key, and the command that runs while the door is open.

use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Result, anyhow};
use knock_client::{Host, Knocker, OpenError, Target, Wishes};
use knock_keys::{KeyDoor, KeyMethod};
use knock_output::note;

use crate::{KnockArgs, PATIENCE, command};

/// Patience with a rolling door: if its slot was used before, the client waits for the next one.
const ROLLING_PATIENCE: Duration = Duration::from_secs(45);

/// Returns how long `door` may take to open, unless the user says otherwise.
pub(crate) fn patience(door: &KeyDoor) -> Duration {
    match door.method {
        KeyMethod::Sealed { .. } => PATIENCE,
        KeyMethod::Rolling(_) => ROLLING_PATIENCE,
    }
}

pub(crate) fn knock(host: &Host, args: &KnockArgs) -> Result<ExitCode> {
    let door = host.door(args.keyed.door.as_deref()).map_err(|what| anyhow!(what))?;
    let target = Target::resolve(&host.address, args.family.family())?;
    let wishes = Wishes { address: args.keyed.address, lasts: args.keyed.lasts };
    let mut knocker = Knocker::new(host.line.clone(), door.clone(), target, wishes)?;
    let say = |what: &str| {
        if args.verbose {
            note!("{what} to {target}");
        }
    };
    if args.keyed.keep {
        knocker.may_keep()?;
    }
    if args.keyed.close {
        knocker.may_close()?;
        if args.keyed.then.is_empty() {
            say(&knocker.close()?);
            return Ok(ExitCode::SUCCESS);
        }
    }
    // If the door opens for another address, this machine cannot see whether that can connect.
    match knocker.service().filter(|_| args.keyed.address.is_none()) {
        Some(service) => {
            let timeout = args.timeout.unwrap_or_else(|| patience(door));
            let opened = knocker.open(service.port, timeout, say);
            let (_, took) = opened.map_err(|error| explain(error, &service, target, timeout))?;
            note!("{service} on {target} answers after {:.1} ms", took.as_secs_f64() * 1000.0);
        }
        None => say(&knocker.knock()?),
    }
    if args.keyed.then.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let mut code = run(&mut knocker, args);
    if args.keyed.close {
        match knocker.close() {
            Ok(sent) => say(&sent),
            Err(error) => {
                note!("xknock: {:#}", anyhow!(error));
                code = code.max(1);
            }
        }
    }
    Ok(ExitCode::from(code))
}

/// Explains why a door did not open.
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

/// Runs the command to its end, and knocks meanwhile if the user wants that. Returns the exit
/// status that a shell would show.
fn run(knocker: &mut Knocker, args: &KnockArgs) -> u8 {
    // Dashes in front of the command have no meaning here.
    let words = args.keyed.then.strip_prefix(&["--".to_owned()]).unwrap_or(&args.keyed.then);
    let Some((program, arguments)) = words.split_first() else { return 0 };
    let ended = std::thread::scope(|scope| {
        let (done, ended) = channel();
        if args.keyed.keep {
            scope.spawn(move || renew(knocker, &ended));
        }
        let status = command::run(program, arguments, args.keyed.close);
        drop(done);
        status
    });
    match ended {
        Ok(status) => command::code(status),
        Err(error) => {
            note!("xknock: cannot run `{program}`: {error}");
            command::code_of(&error)
        }
    }
}

/// Knocks again whenever it is time to, until the other end of `ended` has gone.
pub(crate) fn renew(knocker: &mut Knocker, ended: &Receiver<()>) {
    while ended.recv_timeout(knocker.renewal()) == Err(RecvTimeoutError::Timeout) {
        if let Err(error) = knocker.knock() {
            note!("xknock: {error}");
        }
    }
}

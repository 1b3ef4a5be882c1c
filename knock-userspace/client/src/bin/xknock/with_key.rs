//! Knocking with a key, and what happens while the door is open.

use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Result, anyhow};
use knock_client::{Host, Knocker, OpenError, Target, Wishes};
use knock_keys::{KeyDoor, KeyMethod};
use knock_output::note;

use crate::{KnockArgs, PATIENCE, command};

/// A rolling sequence whose slot was used before waits for the next one.
const ROLLING_PATIENCE: Duration = Duration::from_secs(45);

/// How long `door` may take to open, unless the user says otherwise.
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
    // Another address is let in: whether it can connect cannot be seen from here.
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

/// Runs the command to its end, knocking meanwhile if the user wants that; its exit status,
/// as a shell has it.
fn run(knocker: &mut Knocker, args: &KnockArgs) -> u8 {
    // A dash in front of the command says nothing here.
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

/// Knocks again whenever it is time to, until the other end of `ended` is
/// gone.
pub(crate) fn renew(knocker: &mut Knocker, ended: &Receiver<()>) {
    while ended.recv_timeout(knocker.renewal()) == Err(RecvTimeoutError::Timeout) {
        if let Err(error) = knocker.knock() {
            note!("xknock: {error}");
        }
    }
}

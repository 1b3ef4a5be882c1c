//! The policy of a command: from a config or built in, amended by the command line.

use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow};
use knock_common::sequence::Protocol;
use knock_policy::compile::{Compiled, Served, compile, draw_sequence};
use knock_policy::config::{self, ConfigError, Draft};
use knock_policy::{Door, Mode, Policy, Service};

use crate::{ConfigArgs, PolicyArgs};

pub(crate) const DEFAULT: &str = "/etc/xknock/xknockd.toml";

/// Returns the path of the config, if there is one.
pub(crate) fn path(args: &ConfigArgs) -> Option<PathBuf> {
    let default = Path::new(DEFAULT);
    args.config.clone().or_else(|| default.exists().then(|| default.to_owned()))
}

/// Returns the policy, and whether it came from a config.
pub(crate) fn load(args: &PolicyArgs) -> Result<(Policy, bool)> {
    let path = path(&args.config);
    let mut policy = match &path {
        Some(path) => read(path)?,
        None => built_in(),
    };
    amend(&mut policy, args);
    Ok((policy, path.is_some()))
}

/// Returns the policy with its compiled form for a host that serves `served`. Mistakes of the config
/// and of its doors' sequences are shown together.
pub(crate) fn load_compiled(args: &PolicyArgs, served: &Served) -> Result<(Policy, Compiled)> {
    let (mut policy, compiled) = match path(&args.config) {
        Some(path) => Draft::load(&path)
            .and_then(|draft| draft.compile(served, rand::random()))
            .map_err(shown)?,
        None => {
            let policy = built_in();
            let compiled = compile(&policy, served, rand::random())?;
            (policy, compiled)
        }
    };
    amend(&mut policy, args);
    Ok((policy, compiled))
}

/// Reads the policy in the config at `path`.
pub(crate) fn read(path: &Path) -> Result<Policy> {
    config::load(path).map_err(shown)
}

/// Returns the error with the lines of the config that it is about.
fn shown(error: ConfigError) -> Error {
    anyhow!("{:?}", miette::Report::new(error))
}

/// Amends the policy by the options of the command line.
pub(crate) fn amend(policy: &mut Policy, args: &PolicyArgs) {
    if !args.interfaces.is_empty() {
        policy.interfaces.clone_from(&args.interfaces);
    }
    if args.observe {
        policy.mode = Mode::Observe;
    }
    if args.enforce {
        policy.mode = Mode::Enforce;
    }
}

/// Returns a policy that observes, with one door on SSH and a random sequence.
pub(crate) fn built_in() -> Policy {
    const STEPS: usize = 4;
    let door = Door::new(
        "ssh",
        vec![Service::new(Protocol::Tcp, 22)],
        draw_sequence(&mut rand::rng(), STEPS),
    );
    Policy { doors: vec![door], ..Policy::default() }
}

//! Which policy a command works with: a config, or the built-in one, and what the
//! command line says on top.

use std::path::Path;

use anyhow::{Result, anyhow};
use knock_common::sequence::Protocol;
use knock_userspace::compile::draw_sequence;
use knock_userspace::config;
use knock_userspace::policy::{Door, Mode, Policy, Service};

use crate::PolicyArgs;

const DEFAULT: &str = "/etc/xknock/xknockd.toml";

/// The policy, and whether it came from a config.
pub(crate) fn load(args: &PolicyArgs) -> Result<(Policy, bool)> {
    let default = Path::new(DEFAULT);
    let path = args.config.as_deref().or_else(|| default.exists().then_some(default));
    let mut policy = match path {
        Some(path) => {
            config::load(path).map_err(|error| anyhow!("{:?}", miette::Report::new(error)))?
        }
        None => built_in(),
    };
    if !args.interfaces.is_empty() {
        policy.interfaces.clone_from(&args.interfaces);
    }
    if args.observe {
        policy.mode = Mode::Observe;
    }
    if args.enforce {
        policy.mode = Mode::Enforce;
    }
    Ok((policy, path.is_some()))
}

/// One door on SSH, whose sequence nobody knows yet. It observes.
fn built_in() -> Policy {
    const STEPS: usize = 4;
    let door = Door::new(
        "ssh",
        vec![Service::new(Protocol::Tcp, 22)],
        draw_sequence(&mut rand::rng(), STEPS),
    );
    Policy { doors: vec![door], ..Policy::default() }
}

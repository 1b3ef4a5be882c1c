//! `cargo xtask run`.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::command::{as_root, cargo, exec, run as run_command, target_directory};
use crate::setup::{self, Group};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The interface to listen on; may be given more than once.
    #[arg(long, required = true)]
    iface: Vec<String>,
    /// The config; else /etc/xknock/xknockd.toml if that is there, else one random door.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Only report what is missing, and stop if anything is.
    #[arg(long)]
    no_install: bool,
    /// Further arguments for `xknockd run`.
    #[arg(last = true)]
    extra: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // Builds happen at the workspace's root; the path was meant from here.
    let config = arguments.config.as_ref().map(|path| {
        path.canonicalize().with_context(|| format!("no configuration at {}", path.display()))
    });
    let config = config.transpose()?;
    setup::ensure(Group::Build, !arguments.no_install)?;
    run_command(&mut cargo([
        "build",
        "--release",
        "--package",
        "knock-userspace",
        "--bin",
        "xknockd",
    ]))?;

    let mut agent = as_root(target_directory().join("release/xknockd"));
    agent.arg("run");
    for interface in &arguments.iface {
        agent.args(["--interface", interface]);
    }
    if let Some(config) = config {
        agent.arg("--config").arg(config);
    }
    Err(exec(agent.args(&arguments.extra)))
}

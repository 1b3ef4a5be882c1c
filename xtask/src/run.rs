//! `cargo xtask run`.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::command::{as_root, cargo, exec, run as run_command, target_directory};
use crate::setup::{self, Group};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Watch this interface. May be repeated.
    #[arg(long, required = true)]
    iface: Vec<String>,
    /// Use this config. The default is /etc/xknock/xknockd.toml if that exists, else one door with a
    /// random sequence.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Report what is missing, and install nothing.
    #[arg(long)]
    no_install: bool,
    /// Further arguments for `xknockd run`.
    #[arg(last = true)]
    extra: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // Builds run at the workspace's root, and the path is relative to this folder.
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

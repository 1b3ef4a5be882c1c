//! `cargo xtask soak`.

use crate::command::{as_root, build_programs, cargo, exec, run, target_directory};
use crate::setup::{self, Group};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run for this many minutes.
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Choose the steps by this seed. Without it, a seed is drawn and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Take only steps whose names contain this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

pub(crate) fn soak(arguments: &Arguments) -> anyhow::Result<()> {
    setup::ensure(Group::Test, true)?;
    run(build_programs().arg("--release"))?;
    run(&mut cargo(["build", "--release", "--package", "knock-soak"]))?;
    let mut soak = as_root(target_directory().join("release/soak"));
    soak.args(["--minutes", &arguments.minutes.to_string()]);
    if let Some(seed) = arguments.seed {
        soak.args(["--seed", &seed.to_string()]);
    }
    if let Some(only) = &arguments.only {
        soak.args(["--only", only]);
    }
    Err(exec(&mut soak))
}

//! `cargo xtask build`.

use crate::command::{build_programs, run};
use crate::setup::{self, Group};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Build with optimisations.
    #[arg(long)]
    release: bool,
}

pub(crate) fn build(arguments: &Arguments) -> anyhow::Result<()> {
    setup::ensure(Group::Build, true)?;
    let mut command = build_programs();
    command.args(arguments.release.then_some("--release"));
    run(&mut command)
}

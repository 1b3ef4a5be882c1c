//! `cargo xtask bench`.

use std::path::{Path, PathBuf};

use crate::command::{as_root, build_programs, cargo, exec, run, target_directory};
use crate::setup::{self, Group};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run fewer rounds of the most important cases, in under two minutes.
    #[arg(long)]
    quick: bool,
    /// Compare with this earlier result, and fail if a figure is worse by more than a tenth.
    #[arg(long, value_name = "BASE.json")]
    compare: Option<PathBuf>,
    /// Run only sections whose names contain this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

pub(crate) fn bench(arguments: &Arguments) -> anyhow::Result<()> {
    setup::ensure(Group::Demo, true)?;
    setup::offer_peers();
    // Builds run at the workspace's root, and the path is relative to this folder.
    let absolute = |path: &Path| std::path::absolute(path);
    let compare = arguments.compare.as_deref().map(absolute).transpose()?;
    run(build_programs().arg("--release"))?;
    run(&mut cargo(["build", "--release", "--package", "knock-bench"]))?;
    let mut bench = as_root(target_directory().join("release/bench"));
    bench.arg("--out").arg(target_directory().join("bench"));
    if arguments.quick {
        bench.arg("--quick");
    }
    if let Some(compare) = compare {
        bench.arg("--compare").arg(compare);
    }
    if let Some(only) = &arguments.only {
        bench.arg("--only").arg(only);
    }
    Err(exec(&mut bench))
}

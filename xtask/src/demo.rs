//! `cargo xtask demo`.

use crate::command::{as_root, build_programs, cargo, exec, run, target_directory};
use crate::setup::{self, Group};

pub(crate) fn demo() -> anyhow::Result<()> {
    setup::ensure(Group::Demo, true)?;
    // Built as the caller, so that root owns nothing in the target directory.
    run(build_programs().arg("--release"))?;
    run(&mut cargo(["build", "--release", "--package", "knock-lab", "--bin", "demo"]))?;
    Err(exec(&mut as_root(target_directory().join("release/demo"))))
}

//! `cargo xtask demo`.

use crate::{
    command::{as_root, cargo, exec, run, target_directory},
    setup::{self, Group},
};

pub(crate) fn demo() -> anyhow::Result<()> {
    setup::ensure(Group::Demo, true)?;
    // Built as whoever calls, so that root owns nothing in the target directory.
    run(&mut cargo(["build", "--release", "--package", "knock-userspace", "--bins"]))?;
    run(&mut cargo(["build", "--release", "--package", "knock-tests", "--bin", "demo"]))?;
    Err(exec(&mut as_root(target_directory().join("release/demo"))))
}

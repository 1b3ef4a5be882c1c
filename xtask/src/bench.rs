//! `cargo xtask bench`.

use crate::{
    command::{as_root, cargo, exec, run, target_directory},
    setup::{self, Group},
};

pub(crate) fn bench() -> anyhow::Result<()> {
    setup::ensure(Group::Demo, true)?;
    run(&mut cargo(["build", "--release", "--package", "knock-userspace", "--bins"]))?;
    run(&mut cargo(["build", "--release", "--package", "knock-tests", "--bin", "bench"]))?;
    Err(exec(&mut as_root(target_directory().join("release/bench"))))
}

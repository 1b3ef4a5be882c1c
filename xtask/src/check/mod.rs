//! Checks that a build of the whole workspace with one compiler does not make.

pub(crate) mod features;
pub(crate) mod minimum;

use crate::setup::{self, Group};

/// `cargo xtask check-features`.
pub(crate) fn features() -> anyhow::Result<()> {
    setup::ensure(Group::Build, true)?;
    features::check()
}

/// `cargo xtask check-minimum`.
pub(crate) fn minimum() -> anyhow::Result<()> {
    setup::ensure(Group::Build, true)?;
    match minimum::check()? {
        None => Ok(()),
        Some(why) => anyhow::bail!(why),
    }
}

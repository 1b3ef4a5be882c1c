//! From a TOML file to a [`Policy`].
//!
//! `raw` reads the file as it is written, every value with its place. `check` and `method` turn
//! it into a policy, `clashes` compares the doors, and all of them collect mistakes instead of
//! stopping at one. [`Draft`] is the result, and can be compiled in spite of mistakes, so that
//! those of the compiler are shown beside the others. `error` shows them with file, line and
//! column.

mod check;
mod clashes;
mod draft;
mod error;
mod method;
mod raw;
mod values;

use std::path::Path;

pub use draft::Draft;
pub use error::{ConfigError, Mistake};
pub use values::{Wrong, duration, length_of_time, within};

use crate::policy::Policy;

/// Reads a policy from the file at `path`.
///
/// # Errors
///
/// If the file cannot be read, is too large or not UTF-8, or what [`parse`] refuses.
pub fn load(path: &Path) -> Result<Policy, ConfigError> {
    Draft::load(path)?.into_policy()
}

/// Reads a policy from `text`; `name` stands for the file in errors.
///
/// # Errors
///
/// Every mistake that can be found without compiling, each with its place and what would be
/// right.
pub fn parse(name: &str, text: &str) -> Result<Policy, ConfigError> {
    Draft::parse(name, text).into_policy()
}

#[cfg(test)]
mod tests;

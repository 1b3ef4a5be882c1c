//! The reader of the config: from a TOML file to a [`Policy`], or to all mistakes in it.
//!
//! `raw` reads the file as it is written, every value with its place. `check` and `method` turn it
//! into a policy, and `clashes` compares its doors. None of them stops at a mistake. The result is
//! a [`Draft`], which can be compiled in spite of mistakes, so that the reasons of the compiler
//! are shown beside them. `error` shows mistakes with file, line and column.

mod check;
mod clashes;
mod draft;
mod error;
mod field;
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

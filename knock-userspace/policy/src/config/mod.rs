//! From a TOML file to a [`Policy`].
//!
//! `raw` is the file as it is written, every value with its place; `check` and `method` turn it
//! into a policy and collects mistakes; `error` shows them with file, line and column.

mod check;
mod error;
mod method;
mod raw;
mod values;

use std::fs;
use std::io::Read as _;
use std::path::Path;

pub use error::{ConfigError, Mistake};
pub use values::{Wrong, duration, length_of_time, within};

use crate::policy::Policy;

/// The largest config that is read, in bytes. Ten thousand doors take about 2 MB.
const MAX_SIZE: u64 = 64 << 20;

/// Reads a policy from the file at `path`.
///
/// # Errors
///
/// If the file cannot be read, is too large or not UTF-8, or what [`parse`] refuses.
pub fn load(path: &Path) -> Result<Policy, ConfigError> {
    let name = path.display().to_string();
    let unreadable = |why| ConfigError::Unreadable { file: name.clone(), why };
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut text = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(ConfigError::TooLarge { file: name, limit_mib: MAX_SIZE >> 20 });
    }
    match String::from_utf8(text) {
        Ok(text) => parse(&name, &text),
        Err(error) => {
            Err(ConfigError::NotText { file: name, offset: error.utf8_error().valid_up_to() })
        }
    }
}

/// Reads a policy from `text`; `name` stands for the file in errors.
///
/// # Errors
///
/// Every mistake that can be found in one go, each with its place and what would be
/// right.
pub fn parse(name: &str, text: &str) -> Result<Policy, ConfigError> {
    let raw = toml::from_str(text)
        .map_err(|error| ConfigError::mistakes(name, text, vec![raw::mistake(&error, text)]))?;
    check::policy(raw).map_err(|mistakes| ConfigError::mistakes(name, text, mistakes))
}

#[cfg(test)]
mod tests;

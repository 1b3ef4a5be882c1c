//! The state between a file and a policy: everything that could be read, and every mistake.

use std::collections::HashSet;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use toml::de::DeTable;

use super::clashes::Placed;
use super::error::{MOST, Mistakes};
use super::{ConfigError, Mistake, check, raw};
use crate::compile::{Compiled, Problem, Served, compile};
use crate::policy::Policy;

/// The largest config that is read, in bytes. Ten thousand doors take about 2 MB.
const MAX_SIZE: u64 = 64 << 20;
/// The largest text in which more than the first syntax error is looked for, in bytes. Every other
/// byte may be one, and each takes some 200 bytes of memory.
const MAX_RECOVERED: usize = 256 << 10;

/// A config as far as it could be read, with all mistakes in it.
#[derive(Debug)]
pub struct Draft {
    file: String,
    text: String,
    policy: Policy,
    /// The doors of the policy in the same order, with their places.
    doors: Vec<Placed>,
    mistakes: Vec<Mistake>,
    /// Whether the text is TOML.
    is_toml: bool,
}

impl Draft {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is too large or not UTF-8.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let unreadable = |why| ConfigError::Unreadable { file: name.clone(), why };
        let file = fs::File::open(path).map_err(unreadable)?;
        let mut text = Vec::new();
        file.take(MAX_SIZE + 1).read_to_end(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_SIZE {
            return Err(ConfigError::TooLarge { file: name, limit_mib: MAX_SIZE >> 20 });
        }
        match String::from_utf8(text) {
            Ok(text) => Ok(Self::parse(&name, &text)),
            Err(error) => {
                Err(ConfigError::NotText { file: name, offset: error.utf8_error().valid_up_to() })
            }
        }
    }

    /// Reads `text`; `name` stands for the file in errors.
    pub fn parse(name: &str, text: &str) -> Self {
        let (table, syntax) = parse_toml(text);
        let mut mistakes = Mistakes::default();
        let raw = raw::Config::read(table, &mut mistakes);
        let (mut policy, doors) = check::policy(raw, &mut mistakes);
        policy.doors = doors.iter().map(|placed| placed.door.clone()).collect();
        let (mut mistakes, is_toml) = (mistakes.into_inner(), syntax.is_empty());
        if !is_toml {
            mistakes = beside(syntax, mistakes, text);
        }
        Self { file: name.to_owned(), text: text.to_owned(), policy, doors, mistakes, is_toml }
    }

    /// Returns the policy.
    ///
    /// # Errors
    ///
    /// Every mistake that was found without compiling.
    pub fn into_policy(self) -> Result<Policy, ConfigError> {
        if self.mistakes.is_empty() {
            return Ok(self.policy);
        }
        Err(ConfigError::mistakes(&self.file, &self.text, self.mistakes))
    }

    /// Returns the policy together with its compiled form.
    ///
    /// # Errors
    ///
    /// Every mistake that was found, and every reason why the doors that could be read cannot be
    /// compiled.
    pub fn compile(
        mut self,
        served: &Served,
        seed: [u8; 32],
    ) -> Result<(Policy, Compiled), ConfigError> {
        // In a text that is not TOML, what looks like a door may be part of something else.
        if self.is_toml {
            match compile(&self.policy, served, seed) {
                Ok(compiled) if self.mistakes.is_empty() => return Ok((self.policy, compiled)),
                Ok(_) => {}
                Err(error) => {
                    let problems = error.problems.into_iter();
                    let placed = problems.filter_map(|problem| problem_at(&self.doors, &problem));
                    self.mistakes.extend(placed);
                }
            }
        }
        Err(ConfigError::mistakes(&self.file, &self.text, self.mistakes))
    }
}

/// Returns a mistake at the sequence of the door, or `None` if the sequence has other mistakes.
fn problem_at(doors: &[Placed], problem: &Problem) -> Option<Mistake> {
    let placed = doors.get(problem.door?).filter(|placed| placed.whole)?;
    Some(Mistake::new(placed.knock.clone(), problem.reason.to_string(), problem.reason.help()))
}

/// Returns the text as far as it is TOML, and the syntax errors.
fn parse_toml(text: &str) -> (DeTable<'_>, Vec<Mistake>) {
    let (table, errors) = match DeTable::parse(text) {
        Ok(table) => (table.into_inner(), Vec::new()),
        Err(first) if text.len() > MAX_RECOVERED => (DeTable::new(), vec![first]),
        Err(_) => {
            let (table, errors) = DeTable::parse_recoverable(text);
            (table.into_inner(), errors)
        }
    };
    let mistake = |error: toml::de::Error| {
        let what = error.message().lines().next().unwrap_or("this is not TOML");
        Mistake::new(error.span().unwrap_or(0..0), what, "")
    };
    (table, errors.into_iter().map(mistake).collect())
}

/// Returns the mistakes of a text that is not TOML: the syntax errors, and of the other mistakes
/// the wrong values on other lines. The rest may be consequences of the syntax errors.
fn beside(mut syntax: Vec<Mistake>, others: Vec<Mistake>, text: &str) -> Vec<Mistake> {
    // No other mistake would be shown after so many, and comparing them would take long.
    if syntax.len() > MOST {
        return syntax;
    }
    let line = |mistake: &Mistake| {
        let offset = mistake.offset().min(text.len());
        text.as_bytes()[..offset].iter().rposition(|&byte| byte == b'\n')
    };
    let broken: HashSet<_> = syntax.iter().map(line).collect();
    let others = others.into_iter().filter(Mistake::is_of_value);
    syntax.extend(others.filter(|mistake| !broken.contains(&line(mistake))));
    syntax
}

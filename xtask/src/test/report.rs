//! The sum of the result lines of `cargo test`.

use std::fmt;

use anyhow::bail;

/// How many tests passed and failed, over all test programs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Totals {
    /// Counts `line` if it is the result line of a test program.
    pub(crate) fn add(&mut self, line: &str) {
        let Some((_, counts)) =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split(';') {
            match count.trim().split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                Some((number, "ignored")) => self.skip(number.parse().unwrap_or(0)),
                _ => {}
            }
        }
    }

    /// Counts tests that could not run.
    pub(crate) fn skip(&mut self, tests: u64) {
        self.skipped += tests;
    }

    /// Fails if no test has a name that contains one of `words`: with a mistyped word, nothing has
    /// passed.
    pub(crate) fn something_ran(&self, words: &[String]) -> anyhow::Result<()> {
        let Self { passed, failed, skipped } = self;
        if passed + failed + skipped == 0 {
            bail!("no test has a name that contains {}", words.join(" or "));
        }
        Ok(())
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        match self.skipped {
            0 => Ok(()),
            skipped => write!(f, ", {skipped} skipped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_added_up() {
        let mut totals = Totals::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 4 filtered out; \
             finished in 0.01s",
            "test result: FAILED. 5 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; \
             finished in 1.20s",
            "9 passed; 9 failed",
        ] {
            totals.add(line);
        }
        assert_eq!(totals, Totals { passed: 8, failed: 2, skipped: 1 });
        assert_eq!(totals.to_string(), "8 passed, 2 failed, 1 skipped");
        assert_eq!(Totals::default().to_string(), "0 passed, 0 failed");
        totals.something_ran(&[]).unwrap();
    }

    #[test]
    fn a_word_that_names_no_test_is_an_error() {
        let said = Totals::default().something_ran(&["kock".into(), "flod".into()]).unwrap_err();
        assert!(said.to_string().contains("kock or flod"), "{said}");
    }
}

//! The output of a guest: markers of its init, and between them the unchanged output of cargo's
//! test programs.

use std::collections::BTreeMap;

/// A line from the guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// The guest's userland runs, on this release.
    Booted(&'a str),
    /// A part of the plan begins.
    Begin(&'a str),
    /// A part was left out, and why.
    Skip(&'a str, &'a str),
    /// A part ended with this status.
    End(&'a str, i32),
    /// The plan is done.
    Done,
    /// Output of what runs.
    Output(&'a str),
}

impl<'a> Line<'a> {
    pub(super) fn parse(line: &'a str) -> Self {
        let (marker, rest) = line.split_once(' ').unwrap_or((line, ""));
        match marker {
            "@booted" => Self::Booted(rest),
            "@begin" => Self::Begin(rest),
            "@skip" => {
                let (name, why) = rest.split_once('\t').unwrap_or((rest, "it did not say why"));
                Self::Skip(name, why.trim())
            }
            "@end" => match rest.rsplit_once(' ').map(|(name, status)| (name, status.parse())) {
                Some((name, Ok(status))) => Self::End(name, status),
                _ => Self::Output(line),
            },
            "@done" => Self::Done,
            _ => Self::Output(line),
        }
    }
}

/// How the parts of a plan ended.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Status of each part that ended.
    ended: BTreeMap<String, i32>,
    /// Why parts were left out.
    skipped: BTreeMap<String, String>,
    done: bool,
}

impl Outcome {
    pub(super) fn note(&mut self, line: &Line<'_>) {
        match line {
            Line::End(name, status) => {
                self.ended.insert((*name).to_owned(), *status);
            }
            Line::Skip(name, why) => {
                self.skipped.insert((*name).to_owned(), (*why).to_owned());
            }
            Line::Done => self.done = true,
            Line::Booted(_) | Line::Begin(_) | Line::Output(_) => {}
        }
    }

    /// Returns whether the guest came to the end of its plan.
    pub(super) const fn done(&self) -> bool {
        self.done
    }

    /// Returns why a part was left out, if it was.
    pub(super) fn skipped(&self, name: &str) -> Option<&str> {
        self.skipped.get(name).map(String::as_str)
    }

    /// Returns the parts that failed. A part that was left out has not failed.
    pub(super) fn failed<'a>(&self, parts: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        parts
            .filter(|name| !self.skipped.contains_key(*name) && self.ended.get(*name) != Some(&0))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(lines: &[&str]) -> Outcome {
        let mut outcome = Outcome::default();
        lines.iter().for_each(|line| outcome.note(&Line::parse(line)));
        outcome
    }

    #[test]
    fn only_what_ended_with_zero_is_well() {
        let outcome = outcome(&[
            "@booted 6.1.0",
            "@begin a",
            "test x ... ok",
            "@end a 0",
            "@end b 101",
            "@skip d\tthis kernel lacks the module veth ",
        ]);
        assert!(!outcome.done());
        assert_eq!(outcome.failed(["a", "b", "c", "d"].into_iter()), ["b", "c"]);
        assert_eq!(outcome.skipped("d"), Some("this kernel lacks the module veth"));
        assert_eq!(outcome.skipped("a"), None);
    }

    #[test]
    fn output_that_looks_like_a_marker_is_output() {
        assert_eq!(Line::parse("@end a"), Line::Output("@end a"));
        assert_eq!(Line::parse("@endless"), Line::Output("@endless"));
        assert_eq!(Line::parse("@done"), Line::Done);
    }
}

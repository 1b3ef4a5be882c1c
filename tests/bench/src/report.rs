//! The figures of a run, written as Markdown for people and as JSON for `--compare`.

use std::fmt::{self, Write as _};

use knock_output::note;
use serde_json::{Value as Json, json};

/// One measurement with its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Value {
    pub number: f64,
    pub unit: Unit,
}

/// Units, each with the direction that is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Nanoseconds,
    Milliseconds,
    MegaPacketsPerSecond,
    Percent,
    PerSecond,
    Mebibytes,
    Count,
}

impl Unit {
    const ALL: [Self; 7] = [
        Self::Nanoseconds,
        Self::Milliseconds,
        Self::MegaPacketsPerSecond,
        Self::Percent,
        Self::PerSecond,
        Self::Mebibytes,
        Self::Count,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Milliseconds => "ms",
            Self::MegaPacketsPerSecond => "Mpps",
            Self::Percent => "%",
            Self::PerSecond => "/s",
            Self::Mebibytes => "MiB",
            Self::Count => "",
        }
    }

    const fn more_is_better(self) -> bool {
        matches!(self, Self::MegaPacketsPerSecond | Self::Percent | Self::PerSecond)
    }

    const fn digits(self) -> usize {
        match self {
            Self::Milliseconds | Self::MegaPacketsPerSecond => 3,
            Self::Nanoseconds | Self::Percent | Self::Mebibytes => 1,
            Self::PerSecond | Self::Count => 0,
        }
    }
}

impl Value {
    pub(crate) const fn new(number: f64, unit: Unit) -> Self {
        Self { number, unit }
    }

    pub(crate) const fn ns(number: f64) -> Self {
        Self::new(number, Unit::Nanoseconds)
    }

    fn text(self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.*} {}", self.unit.digits(), self.number, self.unit.name());
        f.write_str(text.trim_end())
    }
}

/// One cell of a table.
#[derive(Clone, Debug)]
struct Figure {
    section: String,
    case: String,
    subject: String,
    value: Value,
}

/// A goal, and whether it was reached.
#[derive(Clone, Debug)]
struct Goal {
    what: String,
    wanted: String,
    reached: String,
    met: bool,
}

/// All figures of one run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Titles, each with a description.
    sections: Vec<(String, String)>,
    figures: Vec<Figure>,
    skipped: Vec<(String, String, String)>,
    goals: Vec<Goal>,
}

impl Report {
    pub(crate) fn section(&mut self, title: &str, about: &str) {
        note!("{title} ...");
        self.sections.push((title.to_owned(), about.to_owned()));
    }

    pub(crate) fn add(&mut self, section: &str, case: &str, subject: &str, value: Value) {
        note!("  {case} | {subject} | {}", value.text());
        let (section, case, subject) = (section.into(), case.into(), subject.into());
        self.figures.push(Figure { section, case, subject, value });
    }

    /// Notes that a subject cannot be measured on this machine.
    pub(crate) fn skip(&mut self, section: &str, subject: &str, reason: &str) {
        note!("  {subject} | skipped: {reason}");
        self.skipped.push((section.into(), subject.into(), reason.into()));
    }

    pub(crate) fn get(&self, section: &str, case: &str, subject: &str) -> Option<f64> {
        let found = self.figures.iter().find(|figure| {
            figure.section == section && figure.case == case && figure.subject == subject
        });
        found.map(|figure| figure.value.number)
    }

    /// Notes whether a goal was reached.
    pub(crate) fn goal(&mut self, what: &str, wanted: &str, reached: Value, met: bool) {
        let (what, wanted, reached) = (what.into(), wanted.into(), reached.text());
        self.goals.push(Goal { what, wanted, reached, met });
    }

    /// Returns every series of a section whose cases are numbers, for a plot: subject and points.
    pub(crate) fn series(&self, section: &str, x: impl Fn(&str) -> Option<f64>) -> Vec<Series> {
        let mut all: Vec<Series> = Vec::new();
        for figure in self.figures.iter().filter(|figure| figure.section == section) {
            let Some(x) = x(&figure.case) else { continue };
            let point = (x, figure.value.number);
            match all.iter_mut().find(|(subject, _)| *subject == figure.subject) {
                Some((_, points)) => points.push(point),
                None => all.push((figure.subject.clone(), vec![point])),
            }
        }
        all
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        if !self.goals.is_empty() {
            text.push_str("## Goals\n\n| | goal | here | |\n|---|---|---|---|\n");
            for Goal { what, wanted, reached, met } in &self.goals {
                let met = if *met { "met" } else { "**missed**" };
                let _ = writeln!(text, "| {what} | {wanted} | {reached} | {met} |");
            }
            text.push('\n');
        }
        for (title, about) in &self.sections {
            let _ = write!(text, "## {title}\n\n{about}\n\n{}\n", self.table(title));
            for (section, subject, reason) in &self.skipped {
                if section == title {
                    let _ = writeln!(text, "Skipped: {subject}: {reason}.\n");
                }
            }
        }
        text
    }

    fn table(&self, section: &str) -> String {
        let figures = || self.figures.iter().filter(|figure| figure.section == section);
        let subjects = unique(figures().map(|figure| figure.subject.as_str()));
        let mut text = format!("| | {} |\n", subjects.join(" | "));
        let _ = writeln!(text, "|---|{}", "---|".repeat(subjects.len()));
        for case in unique(figures().map(|figure| figure.case.as_str())) {
            let _ = write!(text, "| {case} |");
            for subject in &subjects {
                let cell = figures().find(|one| one.case == case && one.subject == *subject);
                let _ = write!(text, " {} |", cell.map_or("".into(), |one| one.value.text()));
            }
            text.push('\n');
        }
        text
    }

    pub(crate) fn json(&self) -> Json {
        let figures: Vec<_> = self
            .figures
            .iter()
            .map(|Figure { section, case, subject, value }| {
                json!({
                    "section": section, "case": case, "subject": subject,
                    "value": value.number, "unit": value.unit.name(),
                })
            })
            .collect();
        let skipped: Vec<_> = self
            .skipped
            .iter()
            .map(|(section, subject, reason)| {
                json!({ "section": section, "subject": subject, "reason": reason })
            })
            .collect();
        json!({ "figures": figures, "skipped": skipped })
    }

    /// Reads the text that [`Report::json`] has written.
    pub(crate) fn from_json(json: &Json) -> Result<Self, String> {
        let figures = json["figures"].as_array().ok_or("it holds no `figures`")?;
        let figures = figures.iter().map(|figure| {
            let text = |key: &str| figure[key].as_str().map(str::to_owned);
            let unit = Unit::ALL.into_iter().find(|unit| figure["unit"] == unit.name())?;
            Some(Figure {
                section: text("section")?,
                case: text("case")?,
                subject: text("subject")?,
                value: Value::new(figure["value"].as_f64()?, unit),
            })
        });
        let figures = figures.collect::<Option<_>>().ok_or("a figure of it is incomplete")?;
        Ok(Self { figures, ..Self::default() })
    }

    /// Returns a line for each figure that is worse than in `base` by more than a tenth.
    pub(crate) fn worse_than(&self, base: &Self) -> Vec<String> {
        const TOLERANCE: f64 = 1.1;
        /// Below this, nanoseconds are noise.
        const LEAST_NS: f64 = 1.0;
        let mut lines = Vec::new();
        for Figure { section, case, subject, value } in &self.figures {
            let Some(before) = base.get(section, case, subject) else { continue };
            let now = value.number;
            let worse = match value.unit {
                unit if unit.more_is_better() => now * TOLERANCE < before,
                Unit::Nanoseconds => now > before * TOLERANCE && now - before > LEAST_NS,
                _ => now > before * TOLERANCE,
            };
            if worse {
                let before = Value::new(before, value.unit).text();
                let now = value.text();
                lines.push(format!("{section}: {case}: {subject}: {before} -> {now}"));
            }
        }
        lines
    }
}

/// Name and points of a curve.
pub(crate) type Series = (String, Vec<(f64, f64)>);

fn unique<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for one in all {
        if !seen.contains(&one) {
            seen.push(one);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(ns: f64, share: f64) -> Report {
        let mut report = Report::default();
        report.section("Cost", "about");
        report.add("Cost", "UDP", "xknock", Value::ns(ns));
        report.add("Cost", "share", "xknock", Value::new(share, Unit::Percent));
        report
    }

    #[test]
    fn figures_that_got_worse_are_listed_in_either_direction() {
        let base = Report::from_json(&report(10.0, 99.0).json()).unwrap();
        assert!(report(10.5, 95.0).worse_than(&base).is_empty());
        assert_eq!(
            report(13.0, 50.0).worse_than(&base),
            ["Cost: UDP: xknock: 10.0 ns -> 13.0 ns", "Cost: share: xknock: 99.0 % -> 50.0 %"],
        );
        assert!(report(1.0, 100.0).worse_than(&base).is_empty());
    }

    #[test]
    fn a_file_that_is_not_a_report_is_refused() {
        assert!(Report::from_json(&json!({})).is_err());
        assert!(Report::from_json(&json!({ "figures": [{ "unit": "ns" }] })).is_err());
    }

    #[test]
    fn a_table_has_a_row_for_each_case_and_says_what_was_skipped() {
        let mut report = report(10.0, 99.0);
        report.skip("Cost", "knockd", "not installed");
        let text = report.markdown();
        assert!(text.contains("| UDP | 10.0 ns |"), "{text}");
        assert!(text.contains("Skipped: knockd: not installed."), "{text}");
    }
}

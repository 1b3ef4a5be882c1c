//! A parser for libFuzzer's output (<https://llvm.org/docs/LibFuzzer.html#output>).

use std::fmt;

/// The result of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) passed: bool,
    /// Inputs tried.
    runs: u64,
    runs_per_second: u64,
    /// Inputs that each reach something the others do not, and their size.
    corpus: String,
    /// Edges of the program that were taken.
    coverage: u64,
    /// Path of the input that made it fail.
    pub(super) reproducer: Option<String>,
}

impl Report {
    pub(super) const HEADING: &str =
        "target     result        runs   runs/s    edges  corpus (inputs/size)";

    /// Reads the whole output of a target.
    pub(super) fn read(log: &str, passed: bool) -> Self {
        let words =
            |line: &'_ str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
        // `#4096 pulse cov: 379 ft: 1922 corp: 505/62Kb lim: 531 exec/s: 5797 rss: 29Mb`
        let status =
            log.lines().rev().find(|line| line.starts_with('#') && line.contains(" cov: "));
        let status = words(status.unwrap_or_default());
        let after = |name: &str| {
            let at = status.iter().position(|word| word == name)?;
            status.get(at + 1)
        };
        let number = |name: &str| after(name).and_then(|word| word.parse().ok()).unwrap_or(0);
        let tried = status.first().and_then(|word| word.strip_prefix('#')?.parse().ok());
        // `Done 233165 runs in 41 second(s)`, which a target that failed does not say.
        let done = log.lines().rev().find_map(|line| line.strip_prefix("Done "));
        let done: Vec<u64> =
            words(done.unwrap_or_default()).iter().filter_map(|word| word.parse().ok()).collect();
        let (runs, runs_per_second) = match done.as_slice() {
            [runs, seconds] => (*runs, runs / (*seconds).max(1)),
            _ => (tried.unwrap_or(0), number("exec/s:")),
        };
        let written = log.lines().find_map(|line| line.split_once("Test unit written to "));
        Self {
            passed,
            runs,
            runs_per_second,
            corpus: after("corp:").cloned().unwrap_or_default(),
            coverage: number("cov:"),
            reproducer: written.map(|(_, path)| path.trim().to_owned()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, runs, runs_per_second, corpus, coverage, reproducer: _ } = self;
        let result = if *passed { "ok" } else { "FAILED" };
        write!(f, "{result:<6} {runs:>11} {runs_per_second:>8} {coverage:>8}  {corpus}")
    }
}

/// Returns the lines that say why a target failed: its panic, and the summary.
pub(super) fn cause(log: &str) -> String {
    const MOST: usize = 20;
    let tells = |line: &&str| !line.starts_with('#') && !line.starts_with("INFO:");
    let first = |line: &str| line.contains("panicked at") || line.starts_with("==");
    let lines: Vec<_> = log.lines().skip_while(|line| !first(line)).filter(tells).collect();
    let end = log.lines().rev().take(MOST).collect::<Vec<_>>().into_iter().rev();
    let shown: Vec<_> =
        if lines.is_empty() { end.collect() } else { lines.into_iter().take(MOST).collect() };
    shown.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "\
INFO: Running with entropic power schedule (0xFF, 100).
#67\tINITED cov: 360 ft: 1400 corp: 60/5000b exec/s: 0 rss: 27Mb
#231914\tREDUCE cov: 379 ft: 1922 corp: 505/62Kb lim: 531 exec/s: 5797 rss: 29Mb L: 66/512 MS: 1
#233165\tDONE   cov: 379 ft: 1923 corp: 506/62Kb lim: 531 exec/s: 5686 rss: 29Mb
Done 233165 runs in 41 second(s)
";
    const CRASH: &str = "\
#1024\tpulse  cov: 300 ft: 400 corp: 20/900b lim: 531 exec/s: 512 rss: 29Mb
thread '<unnamed>' (4237) panicked at fuzz/src/packet.rs:35:13:
a packet was refused: BadChecksum
==4237== ERROR: libFuzzer: deadly signal
artifact_prefix='target/fuzz/artifacts/packet/'; Test unit written to target/fuzz/crash-563c
";

    #[test]
    fn a_clean_run_is_read() {
        let report = Report::read(CLEAN, true);
        let expected = Report {
            passed: true,
            runs: 233_165,
            runs_per_second: 5686,
            corpus: "506/62Kb".to_owned(),
            coverage: 379,
            reproducer: None,
        };
        assert_eq!(report, expected);
    }

    #[test]
    fn a_crash_names_its_input_and_its_cause() {
        let report = Report::read(CRASH, false);
        assert_eq!(report.reproducer.as_deref(), Some("target/fuzz/crash-563c"));
        assert_eq!((report.runs, report.runs_per_second), (1024, 512));
        assert!(cause(CRASH).starts_with("thread '<unnamed>' (4237) panicked"));
        assert!(!cause(CRASH).contains("pulse"));
    }

    #[test]
    fn what_says_nothing_is_no_success() {
        let report = Report::read("", false);
        assert_eq!((report.passed, report.runs, report.reproducer), (false, 0, None));
        assert_eq!(cause("one\ntwo"), "one\ntwo");
    }
}

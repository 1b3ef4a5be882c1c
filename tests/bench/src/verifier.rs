//! The instructions that the kernel's verifier reads, and the size of the program. These figures
//! are the same on every run.

use knock_detector::VerifierStats;

use crate::cost;
use crate::report::{Report, Unit, Value};

pub(crate) const SECTION: &str = "Verifier";
/// The row with a goal.
pub(crate) const READ: &str = "instructions read";

pub(crate) fn measure(report: &mut Report) {
    report.section(
        SECTION,
        &format!(
            "What the running kernel says of the loaded program. It reads {} instructions at most; \
             other kernels read more or fewer.",
            VerifierStats::LIMIT
        ),
    );
    for (subject, trace) in [("xknock", false), ("xknock, --trace-kernel", true)] {
        let figures =
            cost::one_door(trace).verifier_stats().expect("the kernel describes a program");
        let rows = [
            (READ, figures.verified),
            ("bytes of the program", Some(figures.translated)),
            ("bytes of machine code", Some(figures.machine_code)),
        ];
        for (case, number) in rows {
            let Some(number) = number else {
                report.skip(SECTION, case, "this kernel does not say");
                continue;
            };
            report.add(SECTION, case, subject, Value::new(number.into(), Unit::Count));
        }
    }
}

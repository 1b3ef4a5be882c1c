//! The kernels that can be tested, and where they come from.

/// The result expected of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// Every test passes.
    Green,
    /// The agent says what the kernel lacks and leaves nothing behind.
    Refusal,
}

/// A kernel that can be booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kernel {
    /// Major and minor version: its name here.
    pub(super) version: &'static str,
    /// The distribution's suites that have it, or had it when this was written.
    pub(super) suites: &'static [&'static str],
    /// Who runs it.
    pub(super) of: &'static str,
    pub(super) expect: Expect,
}

/// Oldest first.
const KERNELS: [Kernel; 4] = [
    Kernel {
        version: "5.10",
        suites: &["bullseye"],
        of: "Debian 11, too old",
        expect: Expect::Refusal,
    },
    Kernel { version: "6.1", suites: &["bookworm"], of: "Debian 12", expect: Expect::Green },
    Kernel {
        version: "6.12",
        suites: &["trixie", "bookworm-backports"],
        of: "Debian 13",
        expect: Expect::Green,
    },
    Kernel {
        version: "7.2",
        suites: &["testing", "sid"],
        of: "Debian testing",
        expect: Expect::Green,
    },
];

/// Returns the kernels that `name` stands for: one of them, or all.
pub(super) fn find(name: &str) -> Result<&'static [Kernel], String> {
    static ALL: [Kernel; 4] = KERNELS;
    if name == "all" {
        return Ok(&ALL);
    }
    let found = ALL.iter().position(|kernel| kernel.version == name);
    found.map(|at| &ALL[at..=at]).ok_or_else(|| {
        let known: Vec<_> =
            ALL.iter().map(|kernel| format!("{} ({})", kernel.version, kernel.of)).collect();
        format!("there is no kernel {name:?} here; known are {}, and `all`", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_kernel_or_all() {
        assert_eq!(find("6.12").unwrap()[0].suites[0], "trixie");
        assert_eq!(find("all").unwrap().len(), KERNELS.len());
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let said = find("6.2").unwrap_err();
        for kernel in &KERNELS {
            assert!(said.contains(kernel.version), "{said}");
        }
    }
}

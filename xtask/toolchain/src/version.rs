//! Compiler releases.

use std::fmt;
use std::process::Command;

/// The oldest release that compiles this workspace, as in `rust-version` of its manifest.
pub const MINIMUM: MinimumVersion = MinimumVersion { major: 1, minor: 95 };

/// The oldest acceptable release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MinimumVersion {
    /// The first number of the release.
    pub major: u32,
    /// The second number of the release.
    pub minor: u32,
}

impl fmt::Display for MinimumVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The release of a compiler and of the LLVM in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RustcVersion {
    /// The first number of the release.
    pub major: u32,
    /// The second number of the release.
    pub minor: u32,
    /// LLVM's major release. `bpf-linker` must be linked with one that is no older.
    pub llvm: u32,
}

impl RustcVersion {
    /// Asks a `rustc` for its release; `None` if it does not run or does not say.
    #[must_use]
    pub fn of(mut rustc: Command) -> Option<Self> {
        Self::parse(&super::stdout_of(rustc.arg("-vV"))?)
    }

    /// Whether this compiler is recent enough for the workspace.
    #[must_use]
    pub fn is_recent_enough(&self) -> bool {
        (self.major, self.minor) >= (MINIMUM.major, MINIMUM.minor)
    }

    fn parse(verbose: &str) -> Option<Self> {
        let field = |name| verbose.lines().find_map(|line| line.strip_prefix(name));
        let mut release = field("release: ")?.split('.').map(str::parse);
        let mut llvm = field("LLVM version: ")?.split('.').map(str::parse);
        Some(Self {
            major: release.next()?.ok()?,
            minor: release.next()?.ok()?,
            llvm: llvm.next()?.ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        let debian = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
                      binary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let version = RustcVersion::parse(debian).expect("a version");
        assert_eq!(version, RustcVersion { major: 1, minor: 96, llvm: 22 });
        assert!(version.is_recent_enough());

        let nightly = "release: 1.97.0-nightly\nLLVM version: 23.0.0\n";
        assert!(RustcVersion::parse(nightly).expect("a version").is_recent_enough());

        let old = "release: 1.85.0\nLLVM version: 19.1\n";
        assert!(!RustcVersion::parse(old).expect("a version").is_recent_enough());

        assert_eq!(RustcVersion::parse("rustc 1.96.0\n"), None);
    }

    #[test]
    fn the_minimum_is_the_manifests() {
        let manifest = include_str!("../../../Cargo.toml");
        assert!(manifest.contains(&format!("rust-version = \"{MINIMUM}\"")));
    }
}

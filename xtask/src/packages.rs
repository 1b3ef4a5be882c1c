//! Debian packages: those that are needed, installed and available.

use std::collections::BTreeSet;
use std::process::Command;

use xknock_toolchain::MINIMUM;

use crate::command::output;

/// Packages for linking the agent.
pub(crate) const BUILD: &[&str] = &["gcc", "libc6-dev", "libmnl-dev", "libnftnl-dev", "pkg-config"];

/// Packages that the end-to-end tests drive or compare with, besides [`DEMO`], and that build
/// libFuzzer.
pub(crate) const TEST: &[&str] = &[
    "bpftool",
    "curl",
    "ethtool",
    "faketime",
    "g++",
    "hping3",
    "iputils-ping",
    "knockd",
    "netcat-openbsd",
    "nmap",
    "openssh-client",
    "openssh-server",
    "python3-scapy",
    "strace",
    "systemd",
    "tcpdump",
];

/// Packages that unpack and boot other kernels.
pub(crate) const KERNEL: &[&str] = &["kmod", "qemu-system-x86"];

/// Packages that the benchmark compares with.
pub(crate) const PEERS: &[&str] = &["knockd", "xdp-tools"];

/// Packages that the demo drives.
pub(crate) const DEMO: &[&str] = &["iproute2", "nftables"];

/// A distribution's compiler, its compiled `core` for BPF, and its clippy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// The compiler and `core`.
    pub(crate) build: [&'static str; 2],
    /// Clippy, which must come from the same release as `core`, and the cargo that starts it.
    pub(crate) lint: [&'static str; 2],
}

/// The compilers that distributions offer. Debian stable keeps its own `rustc` and updates
/// `rustc-web` for its browsers.
pub(crate) const COMPILERS: [Compiler; 2] = [
    Compiler {
        build: ["rustc-web", "libstd-rust-web-dev-bpf"],
        lint: ["rust-web-clippy", "cargo-web"],
    },
    Compiler { build: ["rustc", "libstd-rust-dev-bpf"], lint: ["rust-clippy", "cargo"] },
];

/// The packages that `bpf-linker` is linked with.
pub(crate) fn linker(llvm: u32) -> Vec<String> {
    vec![
        "g++".to_owned(),
        format!("llvm-{llvm}-dev"),
        format!("libpolly-{llvm}-dev"),
        "libzstd-dev".to_owned(),
        "zlib1g-dev".to_owned(),
    ]
}

/// Returns those of `wanted` that are not installed.
pub(crate) fn not_installed<'a>(wanted: &[&'a str]) -> anyhow::Result<Vec<&'a str>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let format = "${db:Status-Abbrev} ${Package}\n";
    // It fails if dpkg does not know a package, and still lists the others.
    let known = output(Command::new("dpkg-query").args(["-W", "-f", format]).args(wanted))?;
    let installed = installed(&known);
    Ok(wanted.iter().copied().filter(|package| !installed.contains(package)).collect())
}

fn installed(dpkg_query: &str) -> BTreeSet<&str> {
    let lines = dpkg_query.lines().map(|line| line.split_whitespace());
    let pairs = lines.filter_map(|mut words| Some((words.next()?, words.next()?)));
    pairs.filter(|(status, _)| status.ends_with('i')).map(|(_, package)| package).collect()
}

/// Returns the output of `apt-cache policy` for packages, in the language that this module reads.
pub(crate) fn policy(packages: &[&str]) -> anyhow::Result<String> {
    output(Command::new("apt-cache").env("LC_ALL", "C").arg("policy").args(packages))
}

/// Returns the version of `package` that apt would install.
pub(crate) fn candidate<'a>(policy: &'a str, package: &str) -> Option<&'a str> {
    let mut lines = policy.lines().skip_while(|line| line.strip_suffix(':') != Some(package));
    lines.next()?;
    let mut own = lines.take_while(|line| line.starts_with(' '));
    let version = own.find_map(|line| line.trim_start().strip_prefix("Candidate: "))?;
    (version != "(none)").then_some(version)
}

/// Returns the first compiler that apt has in a release that is recent enough.
pub(crate) fn choose_compiler(policy: &str) -> Option<Compiler> {
    COMPILERS.into_iter().find(|compiler| {
        let candidates = compiler.build.map(|package| candidate(policy, package));
        candidates.into_iter().all(|version| version.is_some_and(is_recent_enough))
    })
}

fn is_recent_enough(debian_version: &str) -> bool {
    let upstream = debian_version.split_once(':').map_or(debian_version, |(_epoch, rest)| rest);
    let mut numbers = upstream.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (MINIMUM.major, MINIMUM.minor),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOKWORM: &str = "\
rustc-web:
  Installed: (none)
  Candidate: 1.96.0+dfsg1-1~deb12u2
  Version table:
     1.96.0+dfsg1-1~deb12u2 500
libstd-rust-web-dev-bpf:
  Installed: (none)
  Candidate: 1.96.0+dfsg1-1~deb12u2
rustc:
  Installed: (none)
  Candidate: 1.63.0+dfsg1-2
libstd-rust-dev-bpf:
  Installed: (none)
  Candidate: (none)
";

    #[test]
    fn only_installed_packages_count() {
        let known = "ii  gcc\nrc  nmap\nun  knockd\nhi  pkg-config\n";
        assert_eq!(installed(known), BTreeSet::from(["gcc", "pkg-config"]));
        assert!(installed("").is_empty());
    }

    #[test]
    fn candidates_are_read_from_their_own_paragraph() {
        assert_eq!(candidate(BOOKWORM, "rustc"), Some("1.63.0+dfsg1-2"));
        assert_eq!(candidate(BOOKWORM, "libstd-rust-dev-bpf"), None);
        assert_eq!(candidate(BOOKWORM, "libstd"), None);
    }

    #[test]
    fn the_recent_compiler_is_chosen() {
        assert_eq!(choose_compiler(BOOKWORM), Some(COMPILERS[0]));

        let newer = "rustc:\n  Candidate: 1.97.0+dfsg1-1\n\
                     libstd-rust-dev-bpf:\n  Candidate: 1.97.0+dfsg1-1\n";
        assert_eq!(choose_compiler(newer), Some(COMPILERS[1]));

        let old = newer.replace("1.97", "1.85");
        assert_eq!(choose_compiler(&old), None);
        assert_eq!(choose_compiler(""), None);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_recent_enough("1.100.0"));
        assert!(is_recent_enough("2:1.95.0-1"));
        assert!(!is_recent_enough("1.9.0"));
        assert!(!is_recent_enough("unknown"));
    }
}

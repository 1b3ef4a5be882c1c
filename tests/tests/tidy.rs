//! Rules that can be checked in the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns every Rust file below `folder`, with its text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                files.push((path, text));
            }
        }
    }
    assert!(!files.is_empty(), "{folder} has sources");
    files
}

/// Returns the files below `folder` in which a line of code has `word`, except in `rooms`.
fn offenders(folder: &str, word: &str, rooms: &[&str]) -> Vec<PathBuf> {
    sources(folder)
        .into_iter()
        .filter(|(path, _)| !rooms.iter().any(|room| path.to_string_lossy().contains(room)))
        .filter(|(_, text)| {
            let code = |line: &&str| !line.trim_start().starts_with("//");
            text.lines().filter(code).any(|line| line.contains(word))
        })
        .map(|(path, _)| path)
        .collect()
}

/// Returns the packages whose manifest has a dependency that begins with `name`, apart from the
/// workspace's.
fn depending_on(name: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = ["knock-common", "knock-ebpf", "knock-userspace", "tests", "fuzz", "xtask"];
    let nested = folders.iter().flat_map(|folder| {
        let below = fs::read_dir(root.join(folder)).expect("a folder of the workspace");
        below.map(|entry| entry.expect("an entry").path())
    });
    let packages = nested.chain(folders.iter().map(|folder| root.join(folder)));
    let depends = |package: &PathBuf| {
        let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap_or_default();
        manifest.lines().any(|line| line.starts_with(name))
    };
    packages.filter(depends).collect()
}

#[test]
fn only_the_detector_depends_on_aya_and_only_the_firewall_on_nftables() {
    let ends = |name: &str, package: &str| {
        let found = depending_on(name);
        assert!(!found.is_empty(), "{name} is a dependency");
        found.iter().all(|path| path.ends_with(package))
    };
    assert!(ends("aya-log =", "knock-userspace/detector"));
    assert!(ends("aya-build =", "knock-userspace/detector"));
    // knock-common only marks its map types for aya.
    assert!(depending_on("aya =").iter().all(|path| {
        path.ends_with("knock-userspace/detector") || path.ends_with("knock-common")
    }));
    assert!(ends("nftnl =", "knock-userspace/firewall"));
}

#[test]
fn only_one_file_speaks_route_netlink() {
    let found = offenders("knock-userspace", "rtnetlink::", &["/interfaces.rs"]);
    assert_eq!(found, [] as [PathBuf; 0]);
}

#[test]
fn crates_away_from_the_kernel_forbid_unsafe_code() {
    for package in ["client", "control", "keys", "output", "policy", "."] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../knock-userspace");
        let library = fs::read_to_string(root.join(package).join("src/lib.rs")).expect("a library");
        assert!(library.contains("#![forbid(unsafe_code)]"), "{package}");
    }
}

#[test]
fn the_agent_starts_no_process() {
    // The client runs what its user asks for.
    let found = offenders("knock-userspace", "process::Command", &["/client/", "/tests/"]);
    assert_eq!(found, [] as [PathBuf; 0]);
}

#[test]
fn no_file_has_more_than_500_lines() {
    const LINES: usize = 500;
    for folder in ["fuzz", "knock-common", "knock-ebpf", "knock-userspace", "tests", "xtask"] {
        for (path, text) in sources(folder) {
            assert!(text.lines().count() <= LINES, "{} is over {LINES} lines", path.display());
        }
    }
}

#[test]
fn lints_are_expected_with_a_reason_never_allowed() {
    for folder in ["fuzz", "knock-common", "knock-ebpf", "knock-userspace", "tests", "xtask"] {
        let found = offenders(folder, concat!("#", "[allow("), &[]);
        assert_eq!(found, [] as [PathBuf; 0]);
    }
}

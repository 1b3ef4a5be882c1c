//! What ARCHITECTURE.md promises and the sources show.

use std::fs;
use std::path::{Path, PathBuf};

/// Every Rust file below `folder`, with its text.
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

/// The files below `folder` in which a line of code has `word`, except in `rooms`.
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

#[test]
fn only_the_kernel_room_knows_aya() {
    assert_eq!(offenders("knock-userspace/src", "aya::", &["/kernel/"]), [] as [PathBuf; 0]);
    assert_eq!(offenders("knock-userspace/src", "aya_log::", &["/kernel/"]), [] as [PathBuf; 0]);
}

#[test]
fn only_the_firewall_room_speaks_nftables() {
    for word in ["nftnl::", "nftnl_sys", "mnl::"] {
        assert_eq!(offenders("knock-userspace/src", word, &["/firewall/"]), [] as [PathBuf; 0]);
    }
}

#[test]
fn only_one_file_speaks_route_netlink() {
    let found = offenders("knock-userspace/src", "rtnetlink::", &["/interfaces.rs"]);
    assert_eq!(found, [] as [PathBuf; 0]);
}

#[test]
fn the_pure_rooms_have_no_unsafe_code() {
    let unsafe_rooms = ["/kernel/", "/firewall/"];
    assert_eq!(offenders("knock-userspace/src", "unsafe ", &unsafe_rooms), [] as [PathBuf; 0]);
}

#[test]
fn the_agent_starts_no_process() {
    // The client runs what its user asks for.
    let found = offenders("knock-userspace/src", "process::Command", &["/bin/xknock/"]);
    assert_eq!(found, [] as [PathBuf; 0]);
}

#[test]
fn no_file_outgrows_one_reading() {
    const LINES: usize = 500;
    for folder in ["fuzz", "knock-common", "knock-ebpf", "knock-userspace/src", "tests", "xtask"] {
        for (path, text) in sources(folder) {
            assert!(text.lines().count() <= LINES, "{} is over {LINES} lines", path.display());
        }
    }
}

#[test]
fn lints_are_expected_with_a_reason_never_allowed() {
    for folder in ["fuzz", "knock-common", "knock-ebpf", "knock-userspace/src", "xtask"] {
        let found = offenders(folder, concat!("#", "[allow("), &[]);
        assert_eq!(found, [] as [PathBuf; 0]);
    }
}

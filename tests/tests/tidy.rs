//! Rules of ARCHITECTURE.md and CONTRIBUTING.md that can be checked in the files.

use std::fs;
use std::path::{Path, PathBuf};

/// The folders of the workspace that have Rust files.
const FOLDERS: [&str; 6] =
    ["fuzz", "knock-common", "knock-ebpf", "knock-userspace", "tests", "xtask"];

/// Returns every Rust file below `folder`, with its text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    files(folder, "rs")
}

/// Returns every file below `folder` whose name ends in `.kind`, with its text.
fn files(folder: &str, kind: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == kind) {
                let text = fs::read_to_string(&path).expect("UTF-8");
                files.push((path, text));
            }
        }
    }
    assert!(!files.is_empty(), "{folder} has .{kind} files");
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

/// Returns the packages whose manifest depends on `name`, apart from the
/// workspace's.
fn depending_on(name: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let nested = FOLDERS.iter().flat_map(|folder| {
        let below = fs::read_dir(root.join(folder)).expect("a folder of the workspace");
        below.map(|entry| entry.expect("an entry").path())
    });
    let packages = nested.chain(FOLDERS.iter().map(|folder| root.join(folder)));
    let depends = |package: &PathBuf| {
        let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap_or_default();
        manifest.lines().any(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '.', '=']))
                || line == format!("[dependencies.{name}]")
        })
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
    assert!(ends("aya-log", "knock-userspace/detector"));
    assert!(ends("aya-build", "knock-userspace/detector"));
    // knock-common only marks its map types for aya.
    assert!(depending_on("aya").iter().all(|path| {
        path.ends_with("knock-userspace/detector") || path.ends_with("knock-common")
    }));
    assert!(ends("nftnl", "knock-userspace/firewall"));
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
    for folder in FOLDERS {
        for (path, text) in sources(folder) {
            assert!(text.lines().count() <= LINES, "{} is over {LINES} lines", path.display());
        }
    }
}

#[test]
fn lints_are_expected_with_a_reason_never_allowed() {
    for folder in FOLDERS {
        let found = offenders(folder, concat!("[al", "low("), &[]);
        assert_eq!(found, [] as [PathBuf; 0]);
    }
}

#[test]
fn module_heads_are_not_clauses_without_a_subject() {
    for (path, text) in FOLDERS.into_iter().flat_map(sources) {
        let head = text.lines().next().unwrap_or_default();
        for word in ["How", "What", "Where", "Whether", "Which", "Who", "Why"] {
            let headless = head.starts_with(&format!("//! {word} "));
            assert!(!headless, "{}: {head}", path.display());
        }
    }
}

#[test]
fn programs_are_not_spoken_of_as_people() {
    let person = concat!("who", "ever");
    // The changelog keeps what it said of earlier versions.
    let documents =
        files(".", "md").into_iter().filter(|(path, _)| !path.ends_with("CHANGELOG.md"));
    for (path, text) in FOLDERS.into_iter().flat_map(sources).chain(documents) {
        let text = text.to_lowercase();
        let words: Vec<_> =
            text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).collect();
        assert!(!words.contains(&person), "{}: {person}", path.display());
        let endless = words.windows(2).any(|pair| pair == ["for", concat!("ev", "er")]);
        assert!(!endless, "{}: say `without end`", path.display());
    }
}

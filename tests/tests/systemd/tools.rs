//! The files for systemd as systemd's own tools judge them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use knock_lab::agent::program;
use knock_lab::leftovers;
use knock_lab::netns::run;
use knock_lab::unit;
use tempfile::TempDir;

/// Returns the unit, changed, with the program that was built in place of an installed one.
fn unit(change: impl FnOnce(String) -> String) -> (TempDir, PathBuf) {
    let text = fs::read_to_string(unit::path()).expect("the unit");
    let built = format!("ExecStart={}", program("xknockd").display());
    let folder = leftovers::folder();
    let path = folder.path().join("xknockd.service");
    fs::write(&path, change(text.replace("ExecStart=xknockd", &built))).expect("a file");
    (folder, path)
}

fn analyze(arguments: &[&str], path: &Path) -> (Output, String) {
    let output = Command::new("systemd-analyze").args(arguments).arg(path).output();
    let output = output.expect("systemd-analyze runs");
    let said = [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy).concat();
    (output, said)
}

#[test]
fn systemd_understands_the_unit() {
    let (_folder, path) = unit(|text| text);
    let (output, said) = analyze(&["verify"], &path);
    assert!(output.status.success(), "{said}");
    // Before 253 systemd does not know `notify-reload`, for which the unit sets the key twice.
    let unexpected: Vec<_> = said.lines().filter(|line| !line.contains("notify-reload")).collect();
    assert_eq!(unexpected, [""; 0]);
}

#[test]
fn the_exposure_of_the_unit_is_at_most_two() {
    let exposure = |path: &Path| -> f32 {
        let (_, said) = analyze(&["security", "--offline=true", "--no-pager"], path);
        let line = said.lines().find(|line| line.contains("Overall exposure level"));
        let words = line.and_then(|line| line.rsplit(": ").next()).expect("a level");
        words.split(' ').next().expect("a number").parse().expect("a number")
    };
    let (_folder, path) = unit(|text| text);
    let level = exposure(&path);
    println!("exposure {level}");
    assert!(level <= 2.0, "{level}");
    let (_folder, weaker) = unit(|text| text.replace("CapabilityBoundingSet", "X-Not"));
    assert!(exposure(&weaker) > level, "what is measured is this unit");
}

#[test]
fn the_config_is_for_root_to_write_and_for_the_agent_to_read() {
    let root = leftovers::folder();
    let folder = root.path().join("etc/xknock");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("xknockd.toml"), "").expect("a config that all users may read");
    let rooted = format!("--root={}", root.path().display());
    let packaging = unit::path().with_file_name("..");
    for (tool, file) in [
        (&["systemd-sysusers"][..], "sysusers.d/xknock.conf"),
        (&["systemd-tmpfiles", "--create"], "tmpfiles.d/xknock.conf"),
    ] {
        let file = packaging.join(file).canonicalize().expect("a file");
        run(Command::new(tool[0]).args(&tool[1..]).arg(&rooted).arg(file));
    }
    let groups = fs::read_to_string(root.path().join("etc/group")).expect("groups");
    let group = groups.lines().find(|line| line.starts_with("xknockd:")).expect("the group");
    let group: u32 = group.split(':').nth(2).expect("a number").parse().expect("digits");
    for (path, mode) in [(folder.clone(), 0o750), (folder.join("xknockd.toml"), 0o640)] {
        let found = fs::metadata(&path).expect("it is there");
        assert_eq!(
            (found.mode() & 0o7777, found.uid(), found.gid()),
            (mode, 0, group),
            "{}",
            path.display()
        );
    }
}

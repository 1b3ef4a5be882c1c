//! `xknockd check`, as it is run.

use std::fs;
use std::process::Command;

/// The status and all that `xknockd check` prints about a config.
fn check(config: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("xknockd.toml");
    fs::write(&path, config).expect("a config");
    let output = Command::new(env!("CARGO_BIN_EXE_xknockd"))
        .args(["check", "--config"])
        .arg(&path)
        .output()
        .expect("xknockd");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

#[test]
fn mistakes_of_values_and_of_the_compiler_are_shown_at_once() {
    let (status, said) = check(
        "strayz = 3\n\n[[door]]\nname = \"ssh\"\nopens = [\"tcp/22\"]\n\
         sequence = [\"tcp/7000\", \"tcp/7001\", \"tcp/7002\"]\nopen_for = \"0s\"\n\n\
         [[door]]\nopens = [\"tcp/80\"]\nsequence = [\"udp/902\", \"udp/901\", \"udp/900\"]\n",
    );
    assert_eq!(status, Some(1), "{said}");
    for place in ["1:1", "6:12", "7:12", "9:1", "11:12"] {
        assert!(said.contains(&format!("xknockd.toml:{place}]")), "no {place} in {said}");
    }
    assert!(said.contains("has 5 mistakes"), "{said}");
}

#[test]
fn a_config_without_mistakes_is_summed_up() {
    let (status, said) = check(include_str!("../xknockd.toml"));
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("3 doors") && said.contains("UDP decoys"), "{said}");
}

//! The workspace, compiled with the oldest Rust that it declares.

use std::process::Command;

use xknock_toolchain::{MINIMUM, RustcVersion};

use crate::command::{cargo, output, root, run};
use crate::test::{ALL_TARGETS, HOST};

/// Checks the workspace with the declared minimum. Returns why not if no such compiler is here.
pub(crate) fn check() -> anyhow::Result<Option<String>> {
    let rustc = RustcVersion::of(Command::new("rustc"));
    let mut check = match rustc {
        Some(here) if is_minimum(here) => cargo(["check"]),
        _ => match installed() {
            Some(name) => through_rustup(&name),
            None => {
                let here = rustc.map_or("another".to_owned(), |version| {
                    format!("{}.{}", version.major, version.minor)
                });
                let why = format!(
                    "not built with the minimum, Rust {MINIMUM}, because only {here} is here: \
                     `rustup toolchain install {MINIMUM} --profile minimal` brings it"
                );
                return Ok(Some(why));
            }
        },
    };
    run(check.args(HOST).args(ALL_TARGETS))?;
    Ok(None)
}

fn is_minimum(version: RustcVersion) -> bool {
    (version.major, version.minor) == (MINIMUM.major, MINIMUM.minor)
}

/// Finds a toolchain of that version among those that rustup has.
fn installed() -> Option<String> {
    let list = output(Command::new("rustup").args(["toolchain", "list"])).ok()?;
    choose(&list).map(str::to_owned)
}

/// The first toolchain in the output of `rustup toolchain list` that is named after the minimum.
fn choose(list: &str) -> Option<&str> {
    let minimum = MINIMUM.to_string();
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    let is_meant =
        |name: &&str| name.strip_prefix(&minimum).is_some_and(|rest| rest.starts_with(['.', '-']));
    names.into_iter().find(is_meant)
}

fn through_rustup(toolchain: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, "cargo", "check"]).current_dir(root());
    // Cargo hands these to what it runs; they would bring back its own compiler.
    for key in ["RUSTC", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN", "CARGO"] {
        command.env_remove(key);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::features::packages;

    #[test]
    fn a_toolchain_is_chosen_by_its_release() {
        let list = format!(
            "stable-x86_64-unknown-linux-gnu (active, default)\n\
             {MINIMUM}0.1-x86_64-unknown-linux-gnu\n\
             {MINIMUM}.0-x86_64-unknown-linux-gnu\n{MINIMUM}-x86_64-unknown-linux-gnu\n"
        );
        assert_eq!(choose(&list), Some(&*format!("{MINIMUM}.0-x86_64-unknown-linux-gnu")));
        assert_eq!(choose("stable-x86_64-unknown-linux-gnu (active, default)\n"), None);
    }

    #[test]
    fn every_package_declares_the_minimum() {
        for package in packages().unwrap() {
            assert_eq!(package.rust_version, Some(MINIMUM.to_string()), "{}", package.name);
        }
    }
}

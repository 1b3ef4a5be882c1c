//! Each crate alone, without features and with each of them.
//!
//! A build of the whole workspace hides what a crate lacks by itself, because cargo then gives a
//! dependency the features that any of the crates asks for.

use anyhow::{Context as _, bail, ensure};
use knock_output::out;
use serde_json::Value;

use crate::command::{cargo, output, run};

/// Built for a BPF target only, with the features that its build script chooses.
const NOT_FOR_THE_HOST: &str = "knock-ebpf";

/// A package of the workspace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: String,
    features: Vec<String>,
    pub(super) rust_version: Option<String>,
}

pub(crate) fn check() -> anyhow::Result<()> {
    let packages = packages()?;
    let mut checks = 0;
    for package in packages.iter().filter(|package| package.name != NOT_FOR_THE_HOST) {
        for feature in std::iter::once(None).chain(package.features.iter().map(Some)) {
            // Clippy compiles what `cargo check` does, and fails on warnings without compiling
            // all dependencies anew.
            let mut clippy = cargo(["clippy", "--quiet", "--package", &package.name]);
            clippy.arg("--no-default-features");
            if let Some(feature) = feature {
                clippy.args(["--features", feature]);
            }
            run(clippy.args(["--", "--deny", "warnings"]))?;
            checks += 1;
        }
    }
    out!("{checks} combinations of {} crates compile.", packages.len() - 1)?;
    Ok(())
}

/// Asks cargo for the packages of the workspace.
pub(super) fn packages() -> anyhow::Result<Vec<Package>> {
    let metadata = output(&mut cargo(["metadata", "--no-deps", "--format-version", "1"]))?;
    let packages = parse(&metadata)?;
    let for_bpf = packages.iter().find(|package| package.name == NOT_FOR_THE_HOST);
    let for_bpf = for_bpf.context("the workspace has no package for the kernel")?;
    ensure!(for_bpf.features.is_empty(), "{NOT_FOR_THE_HOST} has features that nothing checks");
    Ok(packages)
}

fn parse(metadata: &str) -> anyhow::Result<Vec<Package>> {
    let metadata: Value =
        serde_json::from_str(metadata).context("cargo metadata prints no JSON")?;
    let Some(packages) = metadata["packages"].as_array() else {
        bail!("cargo metadata names no packages");
    };
    let package = |package: &Value| {
        Some(Package {
            name: package["name"].as_str()?.to_owned(),
            features: package["features"].as_object()?.keys().cloned().collect(),
            rust_version: package["rust_version"].as_str().map(str::to_owned),
        })
    };
    let packages: Option<_> = packages.iter().map(package).collect();
    packages.context("cargo metadata describes a package otherwise than expected")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_and_features_are_read_off_cargos_metadata() {
        let metadata = r#"{"packages": [
            {"name": "one", "features": {"default": ["x"], "x": []}, "rust_version": "1.95"},
            {"name": "two", "features": {}, "rust_version": null}
        ], "workspace_root": "/"}"#;
        let one = Package {
            name: "one".to_owned(),
            features: vec!["default".to_owned(), "x".to_owned()],
            rust_version: Some("1.95".to_owned()),
        };
        let two = Package { name: "two".to_owned(), features: Vec::new(), rust_version: None };
        assert_eq!(parse(metadata).unwrap(), [one, two]);
        assert!(parse("{}").is_err());
        assert!(parse(r#"{"packages": [{"name": "one"}]}"#).is_err());
    }

    #[test]
    fn the_workspace_has_features_to_check() {
        let packages = packages().unwrap();
        let common = packages.iter().find(|package| package.name == "knock-common").unwrap();
        assert!(common.features.contains(&"aya".to_owned()), "{common:?}");
    }
}

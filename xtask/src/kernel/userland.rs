//! The programs that tests drive, with everything they depend on according to dpkg.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::command::output;
use crate::packages;

/// What init and the tests' shell lines use besides the packages that the tests name.
const BASE: [&str; 13] = [
    "base-files",
    // Root's shell. Without it, sshd refuses every login.
    "bash",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "grep",
    "kmod",
    "libc-bin",
    "mount",
    "procps",
    "sed",
    "util-linux",
];

/// Documentation and the like, which nothing in a guest reads.
const UNREAD: [&str; 9] = [
    "/usr/share/bash-completion",
    "/usr/share/bug",
    "/usr/share/doc",
    "/usr/share/doc-base",
    "/usr/share/info",
    "/usr/share/lintian",
    "/usr/share/locale",
    "/usr/share/man",
    "/usr/share/zoneinfo",
];

/// Files that no package lists by name.
const GENERATED: [&str; 4] =
    ["/etc/group", "/etc/passwd", "/etc/nsswitch.conf", "/etc/alternatives"];

/// Returns every file of the host that a guest needs, with the libraries that `programs` link.
pub(super) fn files(programs: &[PathBuf]) -> anyhow::Result<BTreeSet<PathBuf>> {
    let format = "${db:Status-Abbrev}\t${Package}\t${Provides}\t${Pre-Depends}, ${Depends}\n";
    let known = output(Command::new("dpkg-query").args(["-W", "-f", format]))?;
    let installed = Installed::parse(&known);
    let roots = packages::DEMO.iter().chain(packages::TEST).chain(&BASE).copied();
    let closure = installed.closure(roots)?;
    let mut list = Command::new("dpkg-query");
    let listed = output(list.arg("--listfiles").args(&closure))?;
    let mut files: BTreeSet<_> = listed.lines().filter_map(wanted).collect();
    files.extend(GENERATED.map(PathBuf::from));
    let libraries_here = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    for folder in ["/etc/alternatives", "/usr/bin", "/usr/sbin", "/bin", "/sbin", &libraries_here] {
        files.extend(chosen(Path::new(folder))?);
    }
    for program in programs {
        files.extend(libraries(&output(Command::new("ldd").arg(program))?));
    }
    Ok(files)
}

fn wanted(line: &str) -> Option<PathBuf> {
    let path = line.strip_prefix('/').filter(|rest| *rest != ".").map(|_| Path::new(line))?;
    (!UNREAD.iter().any(|unread| path.starts_with(unread))).then(|| path.to_owned())
}

/// Returns links in `folder` into /etc/alternatives, which no package lists: `nc` is one.
fn chosen(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut links = Vec::new();
    for entry in folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let Ok(target) = path.read_link() else { continue };
        if target.starts_with("/etc/alternatives") || folder == Path::new("/etc/alternatives") {
            links.push(path);
        }
    }
    Ok(links)
}

/// Returns the libraries in the output of ldd(1).
fn libraries(ldd: &str) -> impl Iterator<Item = PathBuf> {
    let words = ldd.lines().flat_map(str::split_whitespace);
    words.filter(|word| word.starts_with('/')).map(PathBuf::from)
}

/// The packages that are installed, with what each needs.
#[derive(Debug, Default)]
struct Installed<'a> {
    needs: BTreeMap<&'a str, &'a str>,
    providers: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Installed<'a> {
    fn parse(dpkg_query: &'a str) -> Self {
        let mut installed = Self::default();
        for line in dpkg_query.lines() {
            let mut fields = line.split('\t');
            let (Some(status), Some(name), Some(provides), Some(needs)) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if !status.starts_with("ii") {
                continue;
            }
            installed.needs.insert(name, needs);
            for provided in provides.split(',').filter_map(package) {
                installed.providers.entry(provided).or_default().push(name);
            }
        }
        installed
    }

    /// Returns `roots` and everything that they depend on, directly or not.
    fn closure(&self, roots: impl Iterator<Item = &'static str>) -> anyhow::Result<BTreeSet<&str>> {
        let mut found = BTreeSet::new();
        let mut open = Vec::new();
        for root in roots {
            if !self.needs.contains_key(root) {
                bail!("the package {root} is not installed: run `cargo xtask setup`");
            }
            open.push(root);
        }
        while let Some(name) = open.pop() {
            // If no installed package fulfils a dependency, leave it out: the host works without
            // it, too.
            if let Some((&name, needs)) = self.needs.get_key_value(name)
                && found.insert(name)
            {
                open.extend(needs.split([',', '|']).filter_map(package));
            }
            for provider in self.providers.get(name).into_iter().flatten() {
                if !found.contains(provider) {
                    open.push(provider);
                }
            }
        }
        Ok(found)
    }
}

/// The name in `libc6 (>= 2.36)` or `python3:any`.
fn package(dependency: &str) -> Option<&str> {
    let name = dependency.split_whitespace().next()?;
    name.split(':').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DPKG: &str = "ii \tnmap\t\tlibc6 (>= 2.34), nmap-common | nmap-lite, python3:any\n\
                        ii \tnmap-common\t\t, \n\
                        ii \tlibc6\t\tlibgcc-s1\n\
                        rc \tnmap-lite\t\t\n\
                        ii \tpython3.11\tpython3 (= 3.11)\tlibc6\n\
                        ii \tvim\t\tlibc6\n";

    #[test]
    fn a_closure_follows_dependencies_alternatives_and_providers() {
        let installed = Installed::parse(DPKG);
        let closure = installed.closure(["nmap"].into_iter()).unwrap();
        assert_eq!(closure, BTreeSet::from(["libc6", "nmap", "nmap-common", "python3.11"]));
    }

    #[test]
    fn a_package_that_is_not_there_is_named() {
        let said = Installed::parse(DPKG).closure(["nmap-lite"].into_iter()).unwrap_err();
        assert!(said.to_string().contains("nmap-lite"), "{said}");
    }

    #[test]
    fn libraries_are_read_off_ldd() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibmnl.so.0 => /lib/libmnl.so.0 (0x00007f)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibgone.so => not found\n";
        let found: Vec<_> = libraries(ldd).collect();
        assert_eq!(found, ["/lib/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from));
    }

    #[test]
    fn documentation_stays_outside() {
        assert_eq!(wanted("/usr/share/doc/nmap/copyright"), None);
        assert_eq!(wanted("/."), None);
        assert_eq!(wanted("/usr/bin/nmap"), Some("/usr/bin/nmap".into()));
    }
}

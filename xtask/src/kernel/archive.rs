//! Kernels of a Debian archive, unpacked into a folder. Nothing is installed.
//!
//! apt fetches and verifies, with lists and a cache of its own below the target directory, so that
//! the host's lists and dpkg's database do not change. The archive is the one that the host's own
//! apt uses.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};

use super::known::Kernel;
use crate::command::{output, run};

/// Signs every suite of Debian's archive; part of every Debian.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The package that depends on the newest kernel of a suite.
const NEWEST: &str = "linux-image-cloud-amd64";
/// Room on the disk for a kernel while it is fetched, with its packages and lists, in MiB.
const MEBIBYTES: u64 = 700;

/// An unpacked kernel.
#[derive(Debug, Clone)]
pub(super) struct Unpacked {
    /// As `uname -r` will say.
    pub(super) release: String,
    /// The packages' version.
    pub(super) package: String,
    /// What a boot loader starts.
    pub(super) image: PathBuf,
    /// The folder `RELEASE` of modules.
    pub(super) modules: PathBuf,
}

/// Returns the kernel in `folder`, and fetches it first if it is not there. It stays there until
/// the folder is removed.
pub(super) fn fetch(kernel: &Kernel, folder: &Path) -> anyhow::Result<Unpacked> {
    let parent = folder.parent().context("a folder below the target directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    // Wait for another run that fetches the same kernel.
    let lock = parent.join(format!("{}.lock", kernel.version));
    let lock = File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
    let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno);
    let _lock = lock.context("the folder of kernels cannot be locked")?;
    if let Ok(found) = found(folder) {
        return Ok(found);
    }
    let begun = parent.join(format!("{}.new", kernel.version));
    for left in [&begun, folder] {
        let _ = fs::remove_dir_all(left);
    }
    room(parent, MEBIBYTES)?;
    fetch_into(kernel, &begun)?;
    // The folder has its name only when it is complete.
    fs::rename(&begun, folder)?;
    found(folder)
}

/// Returns the kernel that an earlier run has fetched.
fn found(folder: &Path) -> anyhow::Result<Unpacked> {
    let noted = fs::read_to_string(folder.join("ready")).context("no kernel was fetched")?;
    let (release, package) = noted.trim().split_once(' ').context("a note of two words")?;
    unpacked(folder, release, package)
}

fn fetch_into(kernel: &Kernel, folder: &Path) -> anyhow::Result<()> {
    let mirror = mirror()?;
    let mut seen = Vec::new();
    for suite in kernel.suites {
        let apt = Apt::new(folder, &mirror, suite)?;
        apt.update()?;
        let Some(image) = image(&apt.cache("show", NEWEST)?) else {
            seen.push(format!("{suite} has none"));
            continue;
        };
        let Some(release) = release_of(&image, kernel.version) else {
            seen.push(format!("{suite} has {image}"));
            continue;
        };
        let parts = parts(&apt.cache("depends", &image)?, release);
        apt.unpack([image.clone()].into_iter().chain(parts), &folder.join("root"))?;
        let package = version(&apt.cache("show", &image)?).unwrap_or_default();
        let unpacked = unpacked(folder, release, &package)?;
        let base = unpacked.modules.ancestors().nth(3).context("modules lie in lib/modules")?;
        // A package has no module dependencies: its installation would compute them. The paths of
        // users other than root lack this folder.
        run(Command::new("/usr/sbin/depmod").arg("--basedir").arg(base).arg(release))?;
        fs::write(folder.join("ready"), format!("{release} {package}\n"))?;
        return Ok(());
    }
    bail!(
        "the archive has no kernel {} any more: {}; see `xtask/src/kernel/known.rs`",
        kernel.version,
        seen.join(", ")
    )
}

/// Fails early and with a figure, instead of in the middle of an archive.
pub(super) fn room(folder: &Path, mebibytes: u64) -> anyhow::Result<()> {
    let disk = nix::sys::statvfs::statvfs(folder)?;
    let free = (disk.blocks_available() * disk.fragment_size()) >> 20;
    if free < mebibytes {
        bail!(
            "no room for a kernel: {mebibytes} MiB are needed at {}, and {free} MiB are free",
            folder.display()
        );
    }
    Ok(())
}

/// Returns the mirror from which the host's apt gets Debian's packages.
fn mirror() -> anyhow::Result<String> {
    if !Path::new(KEYRING).exists() {
        bail!(
            "kernels come from Debian's archive, whose keys this host lacks: {KEYRING} is of the package debian-archive-keyring"
        );
    }
    let format = "$(COMPONENT) $(CODENAME) $(REPO_URI)";
    let mut targets = Command::new("apt-get");
    let known = output(targets.args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    let own = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = own.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let found = codename.and_then(|codename| choose_mirror(&known, codename));
    found.map(str::to_owned).context(
        "kernels come from Debian's archive, and apt on this host knows no such archive: it needs \
         an entry for this release's `main`",
    )
}

fn choose_mirror<'a>(targets: &'a str, codename: &str) -> Option<&'a str> {
    let lines = targets.lines().map(|line| line.split_whitespace());
    let mut entries =
        lines.filter_map(|mut words| Some((words.next()?, words.next()?, words.next()?)));
    let own = |(component, of, _): &(&str, &str, &str)| *component == "main" && *of == codename;
    entries.find(own).map(|(_, _, uri)| uri)
}

/// Returns the kernel package that the suite's package for its newest kernel depends on.
fn image(show: &str) -> Option<String> {
    let depends = show.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let mut names = depends.split(',').filter_map(|one| one.split_whitespace().next());
    names.find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

/// Returns the release of a kernel package, if it is of this version.
fn release_of<'a>(image: &'a str, version: &str) -> Option<&'a str> {
    let release = image.strip_prefix("linux-image-")?;
    release.strip_prefix(version)?.starts_with('.').then_some(release)
}

/// The packages that newer kernels are split into.
fn parts(depends: &str, release: &str) -> Vec<String> {
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let own = |name: &&str| name.starts_with("linux-") && name.ends_with(&format!("-{release}"));
    names.filter(own).map(str::to_owned).collect()
}

fn version(show: &str) -> Option<String> {
    show.lines().find_map(|line| line.strip_prefix("Version: ")).map(str::to_owned)
}

/// Finds what a boot needs. Packages differ in where they put it.
fn unpacked(folder: &Path, release: &str, package: &str) -> anyhow::Result<Unpacked> {
    let root = folder.join("root");
    let modules = ["usr/lib/modules", "lib/modules"].map(|lib| root.join(lib).join(release));
    let modules = modules.into_iter().find(|path| path.is_dir());
    let modules = modules.with_context(|| format!("no modules in {}", root.display()))?;
    let images = [root.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
    let image = images.into_iter().find(|path| path.is_file());
    let image = image.with_context(|| format!("no kernel in {}", root.display()))?;
    Ok(Unpacked { release: release.to_owned(), package: package.to_owned(), image, modules })
}

/// apt with lists and a cache of its own.
struct Apt {
    folder: PathBuf,
    config: PathBuf,
}

impl Apt {
    fn new(folder: &Path, mirror: &str, suite: &str) -> anyhow::Result<Self> {
        let own = folder.join("apt");
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(own.join(part))?;
        }
        fs::write(own.join("status"), "")?;
        let options = format!("arch=amd64 lang=none target=Packages signed-by={KEYRING}");
        fs::write(own.join("sources.list"), format!("deb [{options}] {mirror} {suite} main\n"))?;
        let at = own.display();
        // Read after the host's own settings, so that a proxy still counts. The hooks would
        // clean the host's cache. Downloads are checked against the signed list, and `_apt`
        // may not write below the target directory anyway.
        let config = format!(
            "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\nAPT::Update::Error-Mode \"any\";\n\
             APT::Sandbox::User \"root\";\nAcquire::Retries \"2\";\n\
             Dir::State \"{at}/state\";\nDir::State::status \"{at}/status\";\n\
             Dir::Cache \"{at}/cache\";\nDir::Etc::sourcelist \"{at}/sources.list\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\nDir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\n"
        );
        let path = own.join("apt.conf");
        fs::write(&path, config)?;
        Ok(Self { folder: own, config: path })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").arg("--config-file").arg(&self.config);
        command
    }

    fn update(&self) -> anyhow::Result<()> {
        run(self.command("apt-get").args(["--quiet=2", "update"])).context(
            "the package archive cannot be reached, or its signature is not good; the lines above \
             are apt's",
        )
    }

    fn cache(&self, what: &str, package: &str) -> anyhow::Result<String> {
        output(self.command("apt-cache").args([what, package]))
    }

    /// Fetches packages, verified, and unpacks them below `root`.
    fn unpack(&self, names: impl Iterator<Item = String>, root: &Path) -> anyhow::Result<()> {
        let packages = self.folder.join("packages");
        fs::create_dir_all(&packages)?;
        let mut download = self.command("apt-get");
        download.args(["--quiet", "download"]).args(names).current_dir(&packages);
        run(&mut download).context("the kernel's packages cannot be fetched")?;
        for entry in fs::read_dir(&packages)? {
            run(Command::new("dpkg-deb").arg("--extract").arg(entry?.path()).arg(root))?;
        }
        // From here on only the unpacked files are used.
        fs::remove_dir_all(packages)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_the_hosts_own_release() {
        let targets = "main bookworm-updates http://one.example/debian/\n\
                       contrib bookworm http://two.example/debian/\n\
                       main bookworm http://three.example/debian/\n";
        assert_eq!(choose_mirror(targets, "bookworm"), Some("http://three.example/debian/"));
        assert_eq!(choose_mirror(targets, "noble"), None);
    }

    #[test]
    fn the_newest_kernel_of_a_suite_is_read_off_its_dependencies() {
        let show = "Package: linux-image-cloud-amd64\nVersion: 7.2.13-1\n\
                    Depends: linux-base-cloud-amd64 (= 7.2.13-1), linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)\n";
        let image = image(show).unwrap();
        assert_eq!(release_of(&image, "7.2"), Some("7.2.13+deb14-cloud-amd64"));
        assert_eq!(release_of(&image, "7"), Some("7.2.13+deb14-cloud-amd64"));
        assert_eq!(release_of("linux-image-6.12.1-cloud-amd64", "6.1"), None);
        assert_eq!(version(show).as_deref(), Some("7.2.13-1"));
    }

    #[test]
    fn only_the_kernels_own_parts_are_fetched() {
        let depends = "linux-image-7.2.13-cloud-amd64\n  PreDepends: linux-base\n  Depends: kmod\n\
                       \x20|Depends: dracut\n  Depends: linux-modules-7.2.13-cloud-amd64\n";
        assert_eq!(parts(depends, "7.2.13-cloud-amd64"), ["linux-modules-7.2.13-cloud-amd64"]);
    }
}

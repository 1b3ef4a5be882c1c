//! Traces of labs whose process is gone, and their removal.
//!
//! Whatever a lab makes that could outlive its process has a name that begins with the [`label`] of
//! that process. A lab removes its own traces when it is dropped, in a panic too. The traces of a
//! process that was killed are removed by the next process that builds a lab: [`sweep`] takes those
//! of dead processes only, because several runs share one host.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Once};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

/// The variable that gives labs the number of the run that they belong to, so that the run can ask
/// for its own traces at its end.
pub const RUN: &str = "XKNOCK_TEST_RUN";

/// Begins every name.
const PREFIX: &str = "xk";
/// Where iproute2 keeps named network namespaces.
pub(crate) const NAMESPACES: &str = "/run/netns";
/// The time that a killed process has to end.
const END: Duration = Duration::from_secs(10);

/// Returns what the names of this process begin with: `xk`, its identifier, and `rRUN` if it
/// belongs to a run.
pub fn label() -> &'static str {
    static LABEL: LazyLock<String> = LazyLock::new(|| {
        let run = std::env::var(RUN).ok().and_then(|run| run.parse().ok());
        Owner { process: std::process::id(), run }.to_string()
    });
    &LABEL
}

/// Makes a temporary folder that is removed when it is dropped, or by the next [`sweep`].
///
/// # Panics
///
/// If it cannot be made.
pub fn folder() -> TempDir {
    let prefix = format!("{}-", label());
    tempfile::Builder::new().prefix(&prefix).tempdir().expect("a temporary folder")
}

/// The process that a name belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its process identifier.
    pub process: u32,
    /// Its run, if it belongs to one.
    pub run: Option<u32>,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.process)?;
        self.run.map_or(Ok(()), |run| write!(f, "r{run}"))
    }
}

impl Owner {
    /// Reads the owner off a name such as `xk123-0-server` or `xk123r45-0-server`.
    fn of(name: &str) -> Option<Self> {
        let (label, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
        let (process, run) = match label.split_once('r') {
            Some((process, run)) => (process, Some(run.parse().ok()?)),
            None => (label, None),
        };
        Some(Self { process: process.parse().ok()?, run })
    }

    /// Whether neither the process nor its run goes on.
    fn is_forgotten(self) -> bool {
        !lives(self.process) && !self.run.is_some_and(lives)
    }
}

/// Whether a process runs. A zombie does not. If the kernel does not tell, it counts as running.
pub fn lives(process: u32) -> bool {
    match fs::read_to_string(format!("/proc/{process}/stat")) {
        // proc_pid_stat(5): the state follows the name, which is in brackets.
        Ok(stat) => !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")),
        Err(error) => {
            error.kind() != io::ErrorKind::NotFound
                && error.raw_os_error() != Some(Errno::ESRCH as i32)
        }
    }
}

/// One trace of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The process that made it.
    pub owner: Owner,
    kind: Kind,
    path: PathBuf,
}

/// Kinds of traces, in the order in which they are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// With it go the processes inside, which may hold all others.
    Namespace,
    /// Pins, or files of an agent, or a temporary folder.
    Folder,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

/// Lists the traces of all processes, dead or alive.
fn all() -> Vec<Trace> {
    let temporary = std::env::temp_dir();
    let places: [(&Path, &str, Kind); 5] = [
        (Path::new(NAMESPACES), "", Kind::Namespace),
        (Path::new("/sys/fs/bpf"), "xknock-", Kind::Folder),
        (Path::new("/run"), "xknockd-", Kind::Folder),
        (Path::new("/var/lib"), "xknock-", Kind::Folder),
        (&temporary, "", Kind::Folder),
    ];
    let found = places.into_iter().flat_map(|(folder, prefix, kind)| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(move |entry| {
            let name = entry.file_name();
            let owner = Owner::of(name.to_str()?.strip_prefix(prefix)?)?;
            // Another user may give any name to a folder in a place that is open to all.
            let own = entry.metadata().is_ok_and(|found| found.uid() == geteuid().as_raw());
            (own || kind == Kind::Namespace).then_some(())?;
            Some(Trace { owner, kind, path: entry.path() })
        })
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(|trace| trace.kind);
    found
}

/// Returns the traces of one process, whether or not it runs.
pub fn of_process(id: u32) -> Vec<Trace> {
    let mut traces = all();
    traces.retain(|trace| trace.owner.process == id);
    traces
}

/// Removes the traces of processes that are gone, and returns what it found. Those of a run that
/// goes on are left to its end, where [`sweep_run`] looks for them.
pub fn sweep() -> Vec<Trace> {
    remove(Owner::is_forgotten)
}

/// Removes the traces of all processes of a run, and returns what it found.
pub fn sweep_run(run: u32) -> Vec<Trace> {
    remove(|owner| owner.run == Some(run))
}

fn remove(wanted: impl Fn(Owner) -> bool) -> Vec<Trace> {
    let mut traces = all();
    traces.retain(|trace| wanted(trace.owner));
    traces.iter().for_each(Trace::remove);
    let mut owners: Vec<_> = traces.iter().map(|trace| trace.owner).collect();
    owners.sort_unstable_by_key(|owner| (owner.process, owner.run));
    owners.dedup();
    if !owners.is_empty() {
        remove_groups(&owners);
    }
    traces
}

/// Sweeps at the first call of this process only.
pub(crate) fn sweep_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(sweep()));
}

impl Trace {
    /// Removes it. Another process may do so at the same time, and what resists is found again by
    /// the next sweep.
    fn remove(&self) {
        match self.kind {
            Kind::Namespace => {
                let name = self.path.file_name().unwrap_or_default();
                end_processes(&self.path);
                let _ = Command::new("ip").args(["netns", "del"]).arg(name).output();
            }
            Kind::Folder => remove_folder(&self.path),
        }
    }
}

/// Removes a folder, and what is mounted on it or below.
pub(crate) fn remove_folder(path: &Path) {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // proc_pid_mountinfo(5): the fifth field is the place.
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let below: Vec<_> = places.filter(|place| Path::new(place).starts_with(&path)).collect();
    let unmounted = below.into_iter().rev().map(|place| umount2(place, MntFlags::MNT_DETACH));
    // What is still mounted must not lose its content.
    if unmounted.filter(Result::is_err).count() == 0 {
        let _ = fs::remove_dir_all(path);
    }
}

/// Kills all processes whose network namespace is `namespace`, unless this one's is, and waits until
/// they are gone: until then they hold locks, pins and interfaces.
pub(crate) fn end_processes(namespace: &Path) {
    // Two names of one namespace have the same numbers (namespaces(7)).
    let numbers = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let of_process = |id: &str| numbers(Path::new(&format!("/proc/{id}/ns/net")));
    let wanted = numbers(namespace);
    if wanted.is_none() || wanted == of_process("self") {
        return;
    }
    let inside = || {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = processes.filter_map(|entry| entry.file_name().into_string().ok());
        let found = ids.filter(|id| of_process(id) == wanted).filter_map(|id| id.parse().ok());
        found.map(Pid::from_raw).collect::<Vec<_>>()
    };
    let deadline = Instant::now() + END;
    loop {
        let left = inside();
        if left.is_empty() || Instant::now() > deadline {
            return;
        }
        left.into_iter().for_each(|id| _ = kill(id, Signal::SIGKILL));
        // No event announces the end of a process that is not this one's child.
        thread::sleep(Duration::from_millis(1));
    }
}

/// Removes the control groups of the guests of these owners. The host may not have mounted the file
/// system of groups, so a process of its own mounts it for itself.
fn remove_groups(owners: &[Owner]) {
    let mount = folder();
    let script = "mount -t cgroup2 none \"$0\" && cd \"$0\" && \
        for owner; do find . -depth -type d -path \"./$owner-*\" -exec rmdir {} +; done";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(mount.path());
    let _ = command.args(owners.iter().map(Owner::to_string)).output();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_of_a_run_that_goes_on_are_left_to_its_end() {
        // No process has this identifier: it is above the highest limit (proc_sys_kernel(5)).
        const GONE: u32 = (1 << 22) + 1;
        let this = std::process::id();
        let rows = [
            (GONE, None, true),
            (GONE, Some(GONE), true),
            (GONE, Some(this), false),
            (this, None, false),
            (this, Some(GONE), false),
        ];
        for (process, run, forgotten) in rows {
            assert_eq!(Owner { process, run }.is_forgotten(), forgotten, "{process} {run:?}");
        }
    }

    #[test]
    fn owners_are_read_off_names_of_labs_only() {
        let owner = |process, run| Some(Owner { process, run });
        assert_eq!(Owner::of("xk123-0-server"), owner(123, None));
        assert_eq!(Owner::of("xk123r45-0-side"), owner(123, Some(45)));
        let own = Owner::of(&format!("{}-0-server", label())).expect("a name of this process");
        assert!(
            own.process == std::process::id() && lives(own.process) && own.to_string() == label()
        );
        for foreign in ["xk-1", "xk12", "xkr4-0", "xk1r-0", "other-0", "xk1x-0"] {
            assert_eq!(Owner::of(foreign), None, "{foreign}");
        }
    }
}

//! The sandbox that a running agent enters, so that an attacker who takes it over gains little.

use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};
use knock_detector::needed_capabilities;
use knock_policy::Policy;
use landlock::{
    ABI, Access as _, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _,
};

use super::{AgentError, Options};
use crate::instance_paths::InstancePaths;
use crate::syscalls;

/// Enters the sandbox. The agent keeps the capabilities to load programs and to change tables, its
/// own folders, read access to the config, `/proc` and `/sys`, and the system calls that it makes.
/// Threads that are started later inherit the sandbox.
///
/// # Errors
///
/// If the kernel refuses. A kernel without Landlock is accepted, and leaves the files accessible.
pub(super) fn enter(options: &Options, policy: &Policy) -> Result<(), AgentError> {
    // Not sooner: without core dumps, an agent with a user of its own cannot read `/proc/self`,
    // which its start needs.
    knock_keys::no_core_dumps();
    // Before the rest: processes that are not root need it for Landlock and seccomp.
    nix::sys::prctl::set_no_new_privs().map_err(failed)?;
    let config = options.config.iter().filter_map(|path| path.parent());
    let read = config.chain([policy.keys.as_path()]);
    let InstancePaths { run, pins, state } = &options.paths;
    restrict_files(read, &[pins, run, state]).map_err(failed)?;
    drop_capabilities().map_err(failed)?;
    syscalls::restrict().map_err(failed)
}

fn failed(error: impl ToString) -> AgentError {
    AgentError::Confine(error.to_string())
}

fn restrict_files<'a>(
    config: impl Iterator<Item = &'a Path>,
    own: &[&Path],
) -> Result<(), landlock::RulesetError> {
    // The first version that restricts truncation (Linux 6.2). Older kernels restrict the rest.
    const VERSION: ABI = ABI::V3;
    let kernel = ["/proc", "/sys"].into_iter().map(Path::new);
    let read = config.chain(kernel).filter_map(|path| {
        let folder = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        Some(PathBeneath::new(PathFd::new(folder).ok()?, AccessFs::from_read(VERSION)))
    });
    let write = own.iter().filter_map(|path| {
        Some(PathBeneath::new(PathFd::new(path).ok()?, AccessFs::from_all(VERSION)))
    });
    // Removing an own folder takes a right to its parent.
    let above = own.iter().filter_map(|path| {
        Some(PathBeneath::new(PathFd::new(path.parent()?).ok()?, AccessFs::RemoveDir))
    });
    Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))?
        .create()?
        .add_rules(read.chain(write).chain(above).map(Ok::<_, landlock::RulesetError>))?
        .restrict_self()?;
    Ok(())
}

fn drop_capabilities() -> Result<(), caps::errors::CapsError> {
    let held = caps::read(None, CapSet::Permitted)?;
    let keep: CapsHashSet = needed_capabilities(&held).into_iter().collect();
    // Shrinking the bounding set takes CAP_SETPCAP. A process without it cannot regain anything
    // from the bounding set either, because it gets no new privileges.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::all() {
            if !keep.contains(&capability) && caps::has_cap(None, CapSet::Bounding, capability)? {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)
}

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
use crate::places::Places;
use crate::syscalls;

/// Gives up all capabilities but those that loading programs and changing tables takes, the
/// file system but for its own folders, the config and what the kernel shows, and most system
/// calls. Threads that are started later inherit the sandbox.
///
/// # Errors
///
/// If the kernel refuses. That a kernel has no Landlock is no error.
pub(super) fn enter(options: &Options, policy: &Policy) -> Result<(), AgentError> {
    // Not sooner: what it may not dump, an agent with a user of its own may not look at in
    // `/proc/self` either, and its start needs that.
    knock_keys::no_core_dumps();
    // Also a precondition of the other two for processes that are not root.
    nix::sys::prctl::set_no_new_privs().map_err(failed)?;
    let config = options.config.iter().filter_map(|path| path.parent());
    let read = config.chain([policy.keys.as_path()]);
    let Places { run, pins, state } = &options.places;
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
    // The first version that knows truncation (Linux 6.2). Older kernels do what they can.
    const VERSION: ABI = ABI::V3;
    let kernel = ["/proc", "/sys"].into_iter().map(Path::new);
    let read = config.chain(kernel).filter_map(|path| {
        let folder = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        Some(PathBeneath::new(PathFd::new(folder).ok()?, AccessFs::from_read(VERSION)))
    });
    let write = own.iter().filter_map(|path| {
        Some(PathBeneath::new(PathFd::new(path).ok()?, AccessFs::from_all(VERSION)))
    });
    // To remove an own folder takes a right to the one above it.
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
    // To shrink the bounding set takes a capability that may not be there; then nothing can be
    // regained from it either, for want of new privileges.
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

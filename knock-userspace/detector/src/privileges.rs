//! The capabilities that the agent needs.

use std::collections::HashSet;

use caps::CapSet;
pub use caps::Capability;

/// The needed capabilities, each with its reason.
const NEEDED: [(Capability, &str); 3] = [
    (Capability::CAP_BPF, "to load the detector"),
    (Capability::CAP_PERFMON, "to load the detector"),
    (Capability::CAP_NET_ADMIN, "to attach it and to change nftables"),
];

/// Returns the needed capabilities that this thread does not have, each with its reason.
/// `CAP_SYS_ADMIN` stands for the first two, as in the kernel (capabilities(7)).
///
/// # Errors
///
/// If the kernel does not tell.
pub fn missing_capabilities() -> Result<Vec<(Capability, &'static str)>, caps::errors::CapsError> {
    let held = caps::read(None, CapSet::Effective)?;
    let stood_for = held.contains(&Capability::CAP_SYS_ADMIN);
    let has = |capability: &Capability| {
        held.contains(capability) || (stood_for && *capability != Capability::CAP_NET_ADMIN)
    };
    Ok(NEEDED.into_iter().filter(|(capability, _)| !has(capability)).collect())
}

/// Returns the capabilities of `held` that the agent goes on needing, without those that another
/// stands for.
pub fn needed_capabilities(held: &HashSet<Capability>) -> Vec<Capability> {
    let needed = NEEDED.iter().map(|(capability, _)| *capability);
    let (mut keep, missing): (Vec<_>, Vec<_>) =
        needed.partition(|capability| held.contains(capability));
    if !missing.is_empty() && held.contains(&Capability::CAP_SYS_ADMIN) {
        keep.push(Capability::CAP_SYS_ADMIN);
    }
    keep
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cap_sys_admin_is_kept_only_where_a_smaller_one_is_lacking() {
        let all = HashSet::from(NEEDED.map(|(capability, _)| capability));
        let mut more = all;
        more.extend([Capability::CAP_SYS_ADMIN, Capability::CAP_DAC_OVERRIDE]);
        assert_eq!(needed_capabilities(&more).len(), NEEDED.len());
        let old = HashSet::from([Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN]);
        let kept = needed_capabilities(&old);
        assert_eq!(kept, [Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN]);
    }
}

//! Which capabilities the agent needs.

use caps::CapSet;
pub use caps::Capability;

/// What is needed, and what for.
const NEEDED: [(Capability, &str); 3] = [
    (Capability::CAP_BPF, "to load the detector"),
    (Capability::CAP_PERFMON, "to load the detector"),
    (Capability::CAP_NET_ADMIN, "to attach it and to change nftables"),
];

/// Those of the needed capabilities that this thread does not have, with the reason
/// why each is needed. `CAP_SYS_ADMIN` stands for the first two, as in the kernel
/// (capabilities(7)).
///
/// # Errors
///
/// If the kernel does not tell.
pub fn missing_capabilities() -> Result<Vec<(Capability, &'static str)>, caps::errors::CapsError> {
    let held = caps::read(None, CapSet::Effective)?;
    let has = |capability| {
        held.contains(&capability)
            || (capability != Capability::CAP_NET_ADMIN
                && held.contains(&Capability::CAP_SYS_ADMIN))
    };
    Ok(NEEDED.into_iter().filter(|(capability, _)| !has(*capability)).collect())
}

//! Protection of a process that holds keys.

/// Keeps the memory of this process out of core dumps, as far as the system allows.
pub fn no_core_dumps() {
    // Each call can only fail where the system lacks it, and such a system makes no dumps.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_dumpable(false);
    #[cfg(all(unix, not(target_os = "linux")))]
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
}

//! What a process that holds keys does for them.

/// Keeps the memory of this process out of core dumps, as far as the system lets it.
pub fn no_core_dumps() {
    // Both can only fail where there is nothing of that kind, and then there is no dump.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_dumpable(false);
    #[cfg(all(unix, not(target_os = "linux")))]
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
}

//! The user's SSH session, as the command line sees it.

use knock_policy::lockout::Session;
use procfs::process::Process;

/// Returns the SSH session that this process belongs to, if any.
///
/// `sudo` and `su` do not pass `SSH_CONNECTION` on. So the environments of this process's
/// ancestors are read too, as far as it may read them.
pub fn session() -> Option<Session> {
    /// More than any nesting of shells.
    const ANCESTORS: usize = 64;
    let own = std::env::var("SSH_CONNECTION").ok();
    let mut process = Process::myself().ok();
    let ancestors = std::iter::from_fn(|| {
        let this = process.take()?;
        let parent = this.stat().ok()?.ppid;
        process = (parent > 0).then(|| Process::new(parent).ok()).flatten();
        Some(this)
    });
    let inherited = ancestors.take(ANCESTORS).filter_map(|ancestor| {
        let environment = ancestor.environ().ok()?;
        environment.get(std::ffi::OsStr::new("SSH_CONNECTION"))?.to_str().map(str::to_owned)
    });
    own.into_iter().chain(inherited).find_map(|text| Session::parse(&text))
}

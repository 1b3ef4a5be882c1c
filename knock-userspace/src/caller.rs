//! Who runs the command line.

use knock_policy::lockout::Session;
use procfs::process::Process;

/// The SSH session that this process belongs to, if any. Not from its own environment alone:
/// `sudo` and `su` do not hand that on, so its ancestors are asked too, as far as they may be.
pub fn session() -> Option<Session> {
    /// Nobody nests shells deeper.
    const ANCESTORS: usize = 64;
    let own = std::env::var("SSH_CONNECTION").ok();
    let mut process = Process::myself().ok();
    let ancestors = std::iter::from_fn(|| {
        let this = process.take()?;
        let parent = this.stat().ok()?.ppid;
        process = (parent > 0).then(|| Process::new(parent).ok()).flatten();
        Some(this)
    });
    let theirs = ancestors.take(ANCESTORS).filter_map(|ancestor| {
        let environment = ancestor.environ().ok()?;
        environment.get(std::ffi::OsStr::new("SSH_CONNECTION"))?.to_str().map(str::to_owned)
    });
    own.into_iter().chain(theirs).find_map(|text| Session::parse(&text))
}

//! Where one agent keeps what it leaves on the host.

use std::path::PathBuf;

/// The folders of one agent. A host needs more than one only if it runs an agent in each of
/// several network namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Holds the lock and the control socket.
    pub run: PathBuf,
    /// In the BPF file system; holds maps and links.
    pub pins: PathBuf,
    /// Holds what must be known even after the host was started anew.
    pub state: PathBuf,
}

impl Places {
    /// The places of the agent called `instance`; the empty name is the usual one.
    pub fn of(instance: &str) -> Self {
        let suffix = if instance.is_empty() { String::new() } else { format!("-{instance}") };
        Self {
            run: format!("/run/xknockd{suffix}").into(),
            pins: format!("/sys/fs/bpf/xknock{suffix}").into(),
            state: format!("/var/lib/xknock{suffix}").into(),
        }
    }

    /// A name that can be part of a path, and of no other path than its own.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn check_instance(name: &str) -> Result<String, String> {
        const LONGEST: usize = 64;
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.len() <= LONGEST && name.chars().all(legal) {
            return Ok(name.to_owned());
        }
        Err(format!("use up to {LONGEST} letters, digits, `-` and `_`"))
    }

    /// Held by the agent that runs.
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// The newest knocks that were made with keys.
    pub fn newest(&self) -> PathBuf {
        self.state.join("newest")
    }

    /// Where the agent takes requests.
    pub fn socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_keep_apart() {
        assert_eq!(Places::of("").socket().to_str(), Some("/run/xknockd/control.sock"));
        assert_eq!(Places::of("lan").pins.to_str(), Some("/sys/fs/bpf/xknock-lan"));
        for bad in ["../x", "a b", "a/b", &"x".repeat(65)] {
            assert!(Places::check_instance(bad).is_err(), "{bad}");
        }
    }
}

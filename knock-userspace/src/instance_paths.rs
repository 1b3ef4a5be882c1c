//! The paths of an agent's lock, socket, pins and state.

use std::path::PathBuf;

/// The folders of one agent. Only a host that runs agents in several network namespaces has more
/// than one set of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstancePaths {
    /// Holds the lock and the control socket.
    pub run: PathBuf,
    /// Holds the pinned maps and links. It lies in the BPF file system.
    pub pins: PathBuf,
    /// Holds what must outlive a reboot.
    pub state: PathBuf,
}

impl InstancePaths {
    /// Returns the folders of the agent called `instance`. The empty name is the default.
    pub fn of(instance: &str) -> Self {
        let suffix = if instance.is_empty() { String::new() } else { format!("-{instance}") };
        Self {
            run: format!("/run/xknockd{suffix}").into(),
            pins: format!("/sys/fs/bpf/xknock{suffix}").into(),
            state: format!("/var/lib/xknock{suffix}").into(),
        }
    }

    /// Checks the name of an instance: it becomes part of a path, and must not lead out of it.
    ///
    /// # Errors
    ///
    /// Says what a name may consist of.
    pub fn check_instance(name: &str) -> Result<String, String> {
        const LONGEST: usize = 64;
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.len() <= LONGEST && name.chars().all(legal) {
            return Ok(name.to_owned());
        }
        Err(format!("use up to {LONGEST} letters, digits, `-` and `_`"))
    }

    /// Returns the file that the running agent locks.
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// Returns the file of the newest time or slot of each key.
    pub fn newest(&self) -> PathBuf {
        self.state.join("newest")
    }

    /// Returns the control socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_keep_apart() {
        assert_eq!(InstancePaths::of("").socket().to_str(), Some("/run/xknockd/control.sock"));
        assert_eq!(InstancePaths::of("lan").pins.to_str(), Some("/sys/fs/bpf/xknock-lan"));
        for bad in ["../x", "a b", "a/b", &"x".repeat(65)] {
            assert!(InstancePaths::check_instance(bad).is_err(), "{bad}");
        }
    }
}

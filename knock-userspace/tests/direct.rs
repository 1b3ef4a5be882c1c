//! Verbs that change the table themselves where no agent runs.

use std::fs;
use std::process::Command;

use knock_userspace::instance_paths::InstancePaths;
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

const CONFIG: &str = r#"
[[door]]
name = "ssh"
opens = ["tcp/22"]
sequence = ["tcp/7000", "udp/8000", "tcp/4500"]

[[door]]
name = "web"
opens = ["tcp/443"]
sequence = ["tcp/7001", "udp/8001", "tcp/4501"]
"#;

#[test]
fn without_an_agent_a_door_opens_within_the_same_limits() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace, as root");
    let folder = TempDir::new().expect("a folder");
    let config = folder.path().join("xknockd.toml");
    fs::write(&config, CONFIG).expect("a config");
    let name = folder.path().file_name().expect("a name").to_string_lossy().replace('.', "");
    // So that the sweep of the lab finds what a killed test leaves.
    let instance = format!("xk{}-direct{name}", std::process::id());
    for (arguments, expected) in [
        (&["db", "192.0.2.1"][..], "there is no door `db`; there are: ssh, web"),
        (&["ssh", "192.0.2.1", "--for", "31d"], "out of range; give from 1s to"),
        (&["ssh", "192.0.2.1", "--for", "0s"], "no time at all would never open"),
        (&["ssh", "224.0.0.1"], "no packet comes from 224.0.0.1"),
        // Only this is wrong with a request that an agent would fulfil.
        (&["ssh", "192.0.2.1", "--for", "30d"], "nothing is closed that could be opened"),
    ] {
        let mut open = Command::new(env!("CARGO_BIN_EXE_xknockd"));
        open.args(["--instance", &instance, "open"]).args(arguments).arg("--config").arg(&config);
        let output = open.output().expect("xknockd runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    let _ = fs::remove_dir_all(InstancePaths::of(&instance).run);
}

//! End-to-end tests: agent, table and XDP program with real clients, in throwaway networks.

mod clients;
mod connections;
mod control;
mod deadlines;
mod floods;
mod grants;
mod hazards_wire;
mod keys;
mod lasting;
mod lockout;
mod modes;
mod mtu;
mod privileges;
mod reload;
mod scans;
mod startup;
mod stop;
mod supervisor;
mod wire;
mod world;

use knock_lab::agent::xknockd_output;
use knock_lab::clients::xknock_steps;
use knock_lab::{Agent, ConfigText, Host, Lab};
use knock_userspace::instance_paths::InstancePaths;

/// A config that is wrong in line 8, column 12.
const NO_TIME: &str = "
interfaces = [\"eth0\"]
mode = \"enforce\"
[[door]]
name = \"ssh\"
opens = [\"tcp/22\"]
sequence = [\"tcp/7000\", \"udp/8000\", \"tcp/9000\"]
open_for = \"0s\"
";

/// Asserts that nothing of any agent is left on `host`: no table, no program, no file.
fn assert_no_trace(host: &Host) {
    assert_eq!(host.sh("nft list tables"), "");
    let links = host.ip("-d link show");
    assert!(!links.contains("xdp"), "{links}");
    let InstancePaths { run, pins, state } = InstancePaths::of(host.name());
    for folder in [run, pins, state] {
        assert!(!folder.exists(), "{}", folder.display());
    }
}

/// Runs a verb of the agent on `host`, which must succeed, and returns what it printed.
fn verb(host: &Host, arguments: &[&str]) -> String {
    let output = xknockd_output(host, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a verb of the agent on `host`, which must fail, and returns its error as one line: where a
/// long path wraps it is not what a test is about.
fn refused(host: &Host, arguments: &[&str]) -> String {
    let output = xknockd_output(host, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    said.replace("\n  │ ", " ")
}

/// Starts an agent and opens its door `ssh` for the client for ten minutes.
fn granted(lab: &Lab) -> Agent {
    let mut agent = Agent::start(&lab.server, ConfigText::ssh().open_for("10m"));
    xknock_steps(&lab.client, lab.server.v4, STEPS);
    agent.await_opened(lab.client.v4, SSH);
    agent
}

/// The steps of that door, as `xknock` takes them.
const STEPS: &str = ConfigText::STEPS;
/// The same steps as `knock` takes them.
const CLASSIC: &str = "7000:tcp 8000:udp 9000:tcp";
/// The service that the door opens.
const SSH: &str = "tcp/22";

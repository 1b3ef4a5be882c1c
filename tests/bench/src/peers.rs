//! The programs that xknock is measured beside.

use knock_lab::leftovers;
use knock_lab::netns::Netns;
use knock_lab::process::Process;
use knock_lab::services::eventually;
use knock_lab::{Agent, ConfigText, Lab};
use tempfile::TempDir;

use crate::clients::{KNOCKS, SERVICE};

/// xdp-filter of xdp-tools with all its features, on an interface of its own.
pub(crate) struct XdpFilter {
    program: u32,
    _netns: Netns,
}

impl XdpFilter {
    /// Attaches it in native mode, or returns why that cannot be.
    pub(crate) fn attach() -> Result<Self, String> {
        let netns = Netns::new("filter");
        netns.ip("link add eth0 type veth peer name eth1");
        netns.ip("link set eth0 up");
        netns.ip("link set eth1 up");
        let program = attach_filter(&netns, "eth0")?;
        Ok(Self { program, _netns: netns })
    }

    /// Returns the identifier of the program that the kernel runs for a packet.
    pub(crate) fn program(&self) -> u32 {
        self.program
    }
}

/// Attaches xdp-filter to `interface` and returns the identifier of the program.
pub(crate) fn attach_filter(netns: &Netns, interface: &str) -> Result<u32, String> {
    // It needs a BPF file system. In a mount namespace of its own, no pin stays behind.
    let line = format!(
        "unshare --mount sh -c 'mount -t bpf bpf /sys/fs/bpf && \
         xdp-filter load --mode native {interface}' 2>&1"
    );
    let output = netns.shell(&line);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        let said = said.lines().next().unwrap_or("").trim();
        return Err(format!("xdp-filter (Debian package xdp-tools) does not run: {said}"));
    }
    let json = netns.sh(&format!("ip -json link show dev {interface}"));
    let links: serde_json::Value =
        serde_json::from_str(&json).map_err(|error| error.to_string())?;
    let id = links[0]["xdp"]["prog"]["id"].as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| format!("`ip link` does not say which program xdp-filter attached: {json}"))
}

/// The programs that take knocks: each closes the service and opens it for three UDP steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Knocker {
    Xknock,
    Knockd,
    Nft,
}

/// Such a program, running on the server of a lab.
pub(crate) enum Running {
    Xknock { _agent: Agent },
    Knockd { _process: Process, _config: TempDir },
    Nft,
}

impl Knocker {
    pub(crate) const ALL: [Self; 3] = [Self::Xknock, Self::Knockd, Self::Nft];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Xknock => "xknock",
            Self::Knockd => "knockd",
            Self::Nft => "nft sets",
        }
    }

    /// Starts it, or returns why that cannot be.
    pub(crate) fn start(self, lab: &Lab) -> Result<Running, String> {
        let [first, second, third] = KNOCKS;
        match self {
            Self::Xknock => {
                let agent = Agent::start(&lab.server, xknock_config(65_536));
                Ok(Running::Xknock { _agent: agent })
            }
            Self::Knockd => {
                // knockd runs a command for each opened door. This one is about the fastest.
                load_rules(
                    lab,
                    &format!(
                        "table inet knock {{ set open {{ type ipv4_addr; flags timeout; timeout 30s; }}\n\
                     chain input {{ type filter hook input priority 0;\n\
                     udp dport {SERVICE} ip saddr @open accept\nudp dport {SERVICE} drop\n}}\n}}"
                    ),
                )?;
                let config = leftovers::folder();
                let path = config.path().join("knockd.conf");
                let text = format!(
                    "[options]\n\tinterface = eth0\n[door]\n\
                     \tsequence = {first}:udp,{second}:udp,{third}:udp\n\tseq_timeout = 10\n\
                     \tcommand = nft add element inet knock open {{ %IP% }}\n"
                );
                std::fs::write(&path, text).map_err(|error| error.to_string())?;
                if !lab.server.shell("command -v knockd").status.success() {
                    return Err("knockd is not installed (Debian package knockd)".to_owned());
                }
                let mut command = lab.server.command("knockd");
                command.arg("--config").arg(&path).stdout(std::process::Stdio::null());
                let process = Process::start(&mut command);
                // It sees no packet before it has a packet socket: a line below the head.
                let captures = || lab.server.sh("cat /proc/net/packet").lines().count() > 1;
                eventually("knockd's capture", captures);
                Ok(Running::Knockd { _process: process, _config: config })
            }
            Self::Nft => {
                let set = |name: &str| {
                    format!(
                        "set {name} {{ type ipv4_addr; size 65536; flags dynamic,timeout; timeout 10s; }}\n"
                    )
                };
                load_rules(
                    lab,
                    &format!(
                        "table inet knock {{ {}{}{}\
                     chain input {{ type filter hook input priority -10;\n\
                     udp dport {first} add @one {{ ip saddr }}\n\
                     udp dport {second} ip saddr @one add @two {{ ip saddr }}\n\
                     udp dport {third} ip saddr @two add @open {{ ip saddr timeout 30s }}\n\
                     udp dport {SERVICE} ip saddr @open accept\nudp dport {SERVICE} drop\n}}\n}}",
                        set("one"),
                        set("two"),
                        set("open"),
                    ),
                )?;
                Ok(Running::Nft)
            }
        }
    }
}

/// Returns the config of the agent for knocking clients.
pub(crate) fn xknock_config(max_sources: u32) -> ConfigText {
    let text = ConfigText::new().top("knocks", "drop").top("max_sources", max_sources);
    let text = text.door("door", [&format!("udp/{SERVICE}")]).open_for("10m");
    let steps = KNOCKS.map(|port| format!("udp/{port}")).join(",");
    text.sequence(&steps).in_door("max_grants", 10_000_000)
}

fn load_rules(lab: &Lab, rules: &str) -> Result<(), String> {
    let folder = leftovers::folder();
    let path = folder.path().join("rules");
    std::fs::write(&path, rules).map_err(|error| error.to_string())?;
    let output = lab.server.command("nft").arg("-f").arg(&path).output();
    let output = output.map_err(|error| format!("nft (Debian package nftables): {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("nft: {}", String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("")))
}

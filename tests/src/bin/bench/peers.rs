//! The programs that xknock is measured beside.

use knock_tests::netns::Netns;

/// xdp-filter of xdp-tools with all its features, on an interface of its own.
pub(crate) struct XdpFilter {
    program: u32,
    _netns: Netns,
}

impl XdpFilter {
    /// Attaches it in native mode; why not, if that cannot be.
    pub(crate) fn attach() -> Result<Self, String> {
        let netns = Netns::new("filter");
        netns.ip("link add eth0 type veth peer name eth1");
        netns.ip("link set eth0 up");
        netns.ip("link set eth1 up");
        let program = attach_filter(&netns, "eth0")?;
        Ok(Self { program, _netns: netns })
    }

    /// Identifier of the program that the kernel runs for a packet.
    pub(crate) fn program(&self) -> u32 {
        self.program
    }
}

/// Attaches xdp-filter to `interface`; the identifier of the program.
pub(crate) fn attach_filter(netns: &Netns, interface: &str) -> Result<u32, String> {
    let line = format!("xdp-filter load --mode native {interface} 2>&1");
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

//! Hosts on one switch.

use std::net::IpAddr;
use std::ops::Deref;

use knock_common::sequence::{Protocol, Step};
use knock_common::traffic::{FRAME, Pattern};
use knock_detector::Traffic;
use knock_userspace::instance_paths::InstancePaths;

use crate::leftovers;
use crate::netns::Netns;
use crate::packet::Packet;

/// A server, a client and a stranger on one switch, which can see and spoof each other.
#[derive(Debug)]
pub struct Lab {
    /// The host that runs the agent.
    pub server: Host,
    /// A host that knows the sequence.
    pub client: Host,
    /// A host that does not know it.
    pub stranger: Host,
    /// The namespace of the bridge. It is dropped last.
    switch: Netns,
}

/// A host: a namespace with one interface `eth0`.
#[derive(Debug)]
pub struct Host {
    netns: Netns,
    /// Its IPv4 address.
    pub v4: IpAddr,
    /// Its IPv6 address.
    pub v6: IpAddr,
}

impl Deref for Host {
    type Target = Netns;

    fn deref(&self) -> &Netns {
        &self.netns
    }
}

impl Lab {
    /// Builds a lab with the networks 10.77.0.0/24 and fd77::/64. The server has number 1 in both,
    /// the client 2 and the stranger 3.
    pub fn new() -> Self {
        Self::with_queues(1)
    }

    /// Builds a lab with this many receive queues at each interface.
    pub fn with_queues(queues: u32) -> Self {
        let switch = Netns::new("switch");
        switch.ip("link add br0 type bridge mcast_snooping 0 forward_delay 0");
        switch.ip("link set br0 up");
        let host = |role, number| Host::new(&switch, role, number, queues);
        Self {
            server: host("server", 1),
            client: host("client", 2),
            stranger: host("stranger", 3),
            switch,
        }
    }

    /// Puts `count` generated frames on the server's wire, right at its interface, which
    /// must run an XDP program: without one the kernel drops such frames.
    ///
    /// # Panics
    ///
    /// If the kernel does not take them.
    pub fn generate(&self, pattern: Pattern, count: u32) {
        let frame = template(self.server.mac());
        self.switch.run(move || {
            let mut traffic = Traffic::load().expect("the generator loads");
            traffic.set_pattern(pattern).expect("a pattern");
            let port = nix::net::if_::if_nametoindex(SERVER_PORT).expect("the server's port");
            traffic.send(port, &frame, count).expect("the kernel takes the frames");
        });
    }

    /// Returns the namespace of the switch, where [`SERVER_PORT`] is the other end of the server's
    /// interface.
    pub const fn switch(&self) -> &Netns {
        &self.switch
    }
}

/// The switch's port to the server.
pub const SERVER_PORT: &str = "port1";

/// Returns the frame that the traffic generator varies, to the server's IPv4 address and to the
/// hardware address `mac`.
///
/// # Panics
///
/// Never.
pub fn template(mac: [u8; 6]) -> [u8; FRAME] {
    let packet = Packet::between([198, 51, 100, 7].into(), [10, 77, 0, 1].into()).mac(mac);
    let frame = packet.of_length(FRAME).knock(Step::new(Protocol::Udp, 9));
    frame.try_into().expect("64 bytes")
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // First, because an agent that still runs would write its files again.
        self.netns.end_processes();
        let InstancePaths { run, pins, state } = InstancePaths::of(self.netns.name());
        for folder in [pins, run, state] {
            leftovers::remove_folder(&folder);
        }
    }
}

impl Host {
    fn new(switch: &Netns, role: &str, number: u8, queues: u32) -> Self {
        let netns = Netns::new(role);
        let port = format!("port{number}");
        let queues = format!("numrxqueues {queues} numtxqueues {queues}");
        switch.ip(&format!(
            "link add {port} {queues} type veth peer name eth0 {queues} netns {}",
            netns.name()
        ));
        switch.ip(&format!("link set {port} master br0 up"));
        // Duplicate address detection would keep IPv6 silent for a second.
        netns.sh("echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad");
        netns.ip(&format!("address add 10.77.0.{number}/24 dev eth0"));
        netns.ip(&format!("address add fd77::{number}/64 dev eth0 nodad"));
        netns.ip("link set eth0 up");
        Self {
            netns,
            v4: [10, 77, 0, number].into(),
            v6: [0xfd77, 0, 0, 0, 0, 0, 0, number.into()].into(),
        }
    }

    /// Returns the hardware address of `eth0`.
    pub fn mac(&self) -> [u8; 6] {
        // Not from sysfs, which shows the interfaces of the namespace that mounted it.
        let text = self.ip("-br link show eth0");
        let word = text.split_whitespace().find(|word| word.matches(':').count() == 5);
        let bytes = word.expect("an address").split(':').map(|byte| u8::from_str_radix(byte, 16));
        bytes.collect::<Result<Vec<_>, _>>().expect("hex").try_into().expect("six bytes")
    }
}

//! The listening sockets and other port use of this host, from procfs.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use knock_common::sequence::{Protocol, Step};
use knock_policy::compile::Served;
use procfs::ProcResult;
use procfs::net::{TcpState, UdpState};
use procfs::process::FDTarget;

/// A socket that waits for strangers: a TCP listener, or a UDP socket without a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its protocol.
    pub protocol: Protocol,
    /// Address and port that it is bound to.
    pub address: SocketAddr,
    inode: u64,
}

/// Returns every listener of this network namespace.
///
/// # Errors
///
/// If procfs cannot be read.
pub fn listeners() -> ProcResult<Vec<Listener>> {
    let tcp = procfs::net::tcp()?.into_iter().chain(procfs::net::tcp6().unwrap_or_default());
    let tcp = tcp.filter(|entry| entry.state == TcpState::Listen).map(|entry| Listener {
        protocol: Protocol::Tcp,
        address: entry.local_address,
        inode: entry.inode,
    });
    let udp = procfs::net::udp()?.into_iter().chain(procfs::net::udp6().unwrap_or_default());
    let udp = udp.filter(|entry| entry.state == UdpState::Close).map(|entry| Listener {
        protocol: Protocol::Udp,
        address: entry.local_address,
        inode: entry.inode,
    });
    Ok(tcp.chain(udp).collect())
}

/// Returns the name of a program that holds each of `listeners`, in their order. The name is `None`
/// where this process may not see it.
pub fn programs(listeners: &[Listener]) -> Vec<Option<String>> {
    let wanted: HashSet<u64> = listeners.iter().map(|listener| listener.inode).collect();
    let mut names = HashMap::new();
    for process in procfs::process::all_processes().into_iter().flatten().flatten() {
        for descriptor in process.fd().into_iter().flatten().flatten() {
            if let FDTarget::Socket(inode) = descriptor.target
                && wanted.contains(&inode)
                && let Ok(stat) = process.stat()
            {
                names.entry(inode).or_insert(stat.comm);
            }
        }
    }
    listeners.iter().map(|listener| names.get(&listener.inode).cloned()).collect()
}

/// Returns the ports that the host uses, so that they are not made decoys.
///
/// # Errors
///
/// If procfs cannot be read.
pub fn served() -> ProcResult<Served> {
    let listening = listeners()?
        .into_iter()
        .filter(|listener| !listener.address.ip().is_loopback())
        .map(|listener| Step::new(listener.protocol, listener.address.port()))
        .collect();
    Ok(Served { listening, ephemeral: ephemeral_ports() })
}

/// Returns the inode of this network namespace, which identifies it among all others
/// (network_namespaces(7)).
///
/// # Errors
///
/// If procfs cannot be read.
pub fn network_namespace() -> ProcResult<u64> {
    let process = procfs::process::Process::myself()?;
    let namespaces = process.namespaces()?;
    let net = namespaces.0.get(std::ffi::OsStr::new("net"));
    net.map(|namespace| namespace.identifier).ok_or_else(|| "no network namespaces".into())
}

/// Returns `net.ipv4.ip_local_port_range`, which holds for both address families (ip(7)).
fn ephemeral_ports() -> Option<std::ops::RangeInclusive<u16>> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut bounds = range.split_whitespace().map(str::parse);
    Some(bounds.next()?.ok()?..=bounds.next()?.ok()?)
}

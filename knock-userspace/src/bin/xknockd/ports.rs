//! `xknockd ports`.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use knock_firewall::Firewall;
use knock_output::out;
use knock_policy::Service;
use knock_userspace::{ports, sockets};

pub(crate) fn ports(from: Option<IpAddr>, json: bool) -> Result<()> {
    let status = Firewall::open()?.status()?;
    let mut listeners = sockets::listeners().context("cannot read which ports listen")?;
    listeners.retain(|listener| !listener.address.ip().is_loopback());
    let programs = sockets::programs(&listeners);
    let listening: Vec<_> = listeners
        .iter()
        .map(|listener| Service::new(listener.protocol, listener.address.port()))
        .zip(programs)
        .collect();
    let ports = ports::ports(status.as_ref(), &listening, from);
    if json {
        out!("{}", serde_json::to_string_pretty(&ports)?)?;
    } else {
        knock_output::write(format_args!("{}", ports::table(&ports, from)))?;
    }
    Ok(())
}

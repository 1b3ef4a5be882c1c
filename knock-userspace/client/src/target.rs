//! The address to knock on: a name resolved to one address with a route.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _, UdpSocket};

/// The address family to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// The family of the first address with a route.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// One address, with its scope if it is link-local. All steps and the connection after them go
/// there, because a grant is for the family that knocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    address: SocketAddr,
    /// Whether the host has addresses of the other family too, and the user left the choice open.
    has_both: bool,
}

/// The reason why a host cannot be knocked on.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The name has no address.
    #[error("cannot find the host `{name}`: {why}")]
    Unknown {
        /// The name.
        name: String,
        /// The error of the resolver.
        why: io::Error,
    },
    /// The host has no address of the wanted family.
    #[error("the host `{name}` has no {family} address")]
    WrongFamily {
        /// The name.
        name: String,
        /// The wanted family.
        family: &'static str,
    },
    /// No address of the host has a route.
    #[error("no route to `{name}`: {why}")]
    NoRoute {
        /// The name.
        name: String,
        /// The error of the system for the last address.
        why: io::Error,
    },
}

impl Target {
    /// Resolves `name` once, to the first address of `family` that has a route.
    ///
    /// # Errors
    ///
    /// See [`TargetError`].
    pub fn resolve(name: &str, family: Family) -> Result<Self, TargetError> {
        let unknown = |why| TargetError::Unknown { name: name.to_owned(), why };
        // Only the address is used, so any port will do.
        let literal = name.trim_start_matches('[').trim_end_matches(']');
        let addresses: Vec<_> = (literal, 9).to_socket_addrs().map_err(unknown)?.collect();
        let has_both =
            addresses.iter().any(SocketAddr::is_ipv4) && addresses.iter().any(SocketAddr::is_ipv6);
        let mut last_error = None;
        for address in addresses {
            let wanted = match family {
                Family::Any => true,
                Family::V4 => address.is_ipv4(),
                Family::V6 => address.is_ipv6(),
            };
            if !wanted {
                continue;
            }
            match route(address) {
                Ok(()) => return Ok(Self { address, has_both: has_both && family == Family::Any }),
                Err(error) => last_error = Some(error),
            }
        }
        let name = name.to_owned();
        Err(match (last_error, family) {
            (Some(why), _) => TargetError::NoRoute { name, why },
            (None, Family::V4) => TargetError::WrongFamily { name, family: "IPv4" },
            (None, _) => TargetError::WrongFamily { name, family: "IPv6" },
        })
    }

    /// Returns the address with this port.
    pub fn with_port(self, port: u16) -> SocketAddr {
        let mut address = self.address;
        address.set_port(port);
        address
    }

    /// Returns the option that makes the client use the other family, if the host has addresses of
    /// both and the user left the choice open.
    pub(super) const fn other_family(self) -> Option<&'static str> {
        match (self.has_both, self.address) {
            (false, _) => None,
            (true, SocketAddr::V4(_)) => Some("-6"),
            (true, SocketAddr::V6(_)) => Some("-4"),
        }
    }

    /// Returns the same target for a host with addresses of both families.
    #[cfg(test)]
    pub(super) const fn beside_another_family(self) -> Self {
        Self { has_both: true, ..self }
    }

    /// Returns the address to which a socket that sends there is bound.
    pub(super) fn any(self) -> SocketAddr {
        any(self.address)
    }
}

/// Returns the unspecified address of the family of `address`.
pub(super) fn any(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0; 16], 0).into(),
    }
}

/// Asks the system for a route. Connecting a datagram socket sends nothing.
fn route(address: SocketAddr) -> io::Result<()> {
    UdpSocket::bind(any(address))?.connect(address)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.ip().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_of_both_families_resolve_to_themselves() {
        assert_eq!(Target::resolve("127.0.0.1", Family::Any).unwrap().to_string(), "127.0.0.1");
        assert_eq!(Target::resolve("[::1]", Family::V6).unwrap().to_string(), "::1");
    }

    #[test]
    fn a_family_that_the_host_lacks_is_named() {
        let error = Target::resolve("127.0.0.1", Family::V6).unwrap_err();
        assert_eq!(error.to_string(), "the host `127.0.0.1` has no IPv6 address");
    }
}

//! What the host says of its network interfaces, over route netlink.

use std::net::IpAddr;

use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp};

/// One interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its addresses, those for the whole world first.
    pub addresses: Vec<IpAddr>,
    /// Identifier of the XDP program that is attached to it.
    pub xdp_program: Option<u32>,
}

/// Why an interface could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// There is none of that name.
    #[error("there is no interface `{name}`; this host has {}", present.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        present: Vec<String>,
    },
    /// The socket could not be opened.
    #[error("cannot open a route netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// The kernel did not answer.
    #[error("cannot list interfaces: {0}")]
    Netlink(#[source] Box<rtnetlink::Error>),
}

impl From<rtnetlink::Error> for InterfaceError {
    fn from(error: rtnetlink::Error) -> Self {
        // It holds a whole netlink message.
        Self::Netlink(Box::new(error))
    }
}

/// Looks at the interfaces called `names`, in that order.
///
/// # Errors
///
/// See [`InterfaceError`]; the first name that is unknown.
pub async fn inspect(names: &[String]) -> Result<Vec<Interface>, InterfaceError> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let result = inspect_with(&handle, names).await;
    connection.abort();
    result
}

async fn inspect_with(
    handle: &rtnetlink::Handle,
    names: &[String],
) -> Result<Vec<Interface>, InterfaceError> {
    use futures_util::TryStreamExt as _;

    let links: Vec<_> = handle.link().get().execute().try_collect().await?;
    let mut all: Vec<Interface> = links
        .iter()
        .filter_map(|link| {
            let name = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            })?;
            let xdp_program = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Xdp(xdp) => xdp.iter().find_map(program_id),
                _ => None,
            });
            Some(Interface { name, index: link.header.index, addresses: Vec::new(), xdp_program })
        })
        .collect();
    let addresses: Vec<_> = handle.address().get().execute().try_collect().await?;
    for message in addresses {
        let Some(interface) = all.iter_mut().find(|one| one.index == message.header.index) else {
            continue;
        };
        for attribute in message.attributes {
            if let AddressAttribute::Address(address) = attribute {
                interface.addresses.push(address);
            }
        }
    }
    names
        .iter()
        .map(|name| {
            let found = all.iter().find(|interface| interface.name == *name).cloned();
            let mut interface = found.ok_or_else(|| InterfaceError::Unknown {
                name: name.clone(),
                present: all.iter().map(|interface| interface.name.clone()).collect(),
            })?;
            interface.addresses.sort_by_key(|address| is_link_local(*address));
            Ok(interface)
        })
        .collect()
}

/// The program in whichever mode it is attached.
fn program_id(xdp: &LinkXdp) -> Option<u32> {
    match *xdp {
        LinkXdp::ProgId(id)
        | LinkXdp::DrvProgId(id)
        | LinkXdp::SkbProgId(id)
        | LinkXdp::HwProgId(id) => Some(id).filter(|&id| id != 0),
        _ => None,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

//! The host's network interfaces and notice of their changes, over route netlink.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use rtnetlink::{Handle, MulticastGroup};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// One interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its addresses. Link-local ones come last.
    pub addresses: Vec<IpAddr>,
    /// The XDP program that is attached to it.
    pub xdp: Option<Xdp>,
}

/// An attached XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xdp {
    /// Its identifier.
    pub program: u32,
    /// Whether it runs in the network stack instead of the driver.
    pub generic: bool,
}

/// Why interfaces could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// The socket could not be opened.
    #[error("cannot open a route netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// The kernel did not answer.
    #[error("cannot list interfaces: {0}")]
    Netlink(#[source] Box<rtnetlink::Error>),
    /// The connection to the kernel ended.
    #[error("the route netlink connection ended")]
    Ended,
}

impl From<rtnetlink::Error> for InterfaceError {
    fn from(error: rtnetlink::Error) -> Self {
        // The error holds a whole netlink message.
        Self::Netlink(Box::new(error))
    }
}

/// Lists all interfaces, and notices when they change.
pub struct Interfaces {
    handle: Handle,
    /// One item for each message of the kernel.
    messages: BoxStream<'static, ()>,
    connection: JoinHandle<()>,
    /// When [`Interfaces::changed`] returns, once a message has come.
    return_at: Option<Instant>,
}

impl Interfaces {
    /// Opens a connection in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the socket.
    pub fn open() -> Result<Self, InterfaceError> {
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link])?;
        let messages = messages.map(|_| ()).boxed();
        Ok(Self { handle, messages, connection: tokio::spawn(connection), return_at: None })
    }

    /// Returns all interfaces as they are now.
    ///
    /// # Errors
    ///
    /// If the kernel does not answer.
    pub async fn list(&self) -> Result<Vec<Interface>, InterfaceError> {
        let links: Vec<_> = self.handle.link().get().execute().try_collect().await?;
        let mut all: Vec<_> = links.iter().filter_map(interface).collect();
        let addresses: Vec<_> = self.handle.address().get().execute().try_collect().await?;
        for message in addresses {
            let index = message.header.index;
            let Some(interface) = all.iter_mut().find(|interface| interface.index == index) else {
                continue;
            };
            for attribute in message.attributes {
                if let AddressAttribute::Address(address) = attribute {
                    interface.addresses.push(address);
                }
            }
        }
        for interface in &mut all {
            interface.addresses.sort_by_key(|address| is_link_local(*address));
        }
        Ok(all)
    }

    /// Waits until an interface may have changed, and a little longer for those that change
    /// together with it.
    ///
    /// The messages themselves are dropped, because the caller lists all interfaces again. So
    /// nothing is lost if the kernel had to leave messages out. Cancel safe.
    ///
    /// # Errors
    ///
    /// If the connection has ended.
    pub async fn changed(&mut self) -> Result<(), InterfaceError> {
        /// A host that starts a container changes several interfaces at once.
        const TOGETHER: Duration = Duration::from_millis(5);
        let return_at = match self.return_at {
            Some(return_at) => return_at,
            None => {
                self.messages.next().await.ok_or(InterfaceError::Ended)?;
                *self.return_at.insert(Instant::now() + TOGETHER)
            }
        };
        tokio::time::sleep_until(return_at).await;
        while let Some(message) = self.messages.next().now_or_never() {
            message.ok_or(InterfaceError::Ended)?;
        }
        self.return_at = None;
        Ok(())
    }
}

impl Drop for Interfaces {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn interface(link: &LinkMessage) -> Option<Interface> {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let xdp = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => program(xdp),
        _ => None,
    });
    Some(Interface { name, index: link.header.index, addresses: Vec::new(), xdp })
}

/// Returns the attached program, in whichever mode it runs.
fn program(xdp: &[LinkXdp]) -> Option<Xdp> {
    let id = |attribute: &LinkXdp| match *attribute {
        LinkXdp::ProgId(id)
        | LinkXdp::DrvProgId(id)
        | LinkXdp::SkbProgId(id)
        | LinkXdp::HwProgId(id) => Some(id).filter(|&id| id != 0),
        _ => None,
    };
    let generic = xdp.iter().any(|attribute| matches!(attribute, LinkXdp::SkbProgId(1..)));
    xdp.iter().find_map(id).map(|program| Xdp { program, generic })
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

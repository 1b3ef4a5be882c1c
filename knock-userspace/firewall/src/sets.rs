//! The named sets of the table: their types, and the encoding of their elements.
//!
//! A concatenated key has each field padded to 4 bytes, in network byte order.

use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use knock_common::sequence::Protocol;
use knock_policy::{Grant, Service};

use super::message::Message;
use super::uapi::*;
use super::wire::{self, Attributes};
use super::{FAMILY, TABLE_NAME};

/// Data types as `nft` numbers them (`enum datatypes` in its `datatype.h`). The kernel only stores
/// the number, with which `nft list` prints the elements.
const IPV4_ADDR: u32 = 7;
const IPV6_ADDR: u32 = 8;
const INET_PROTO: u32 = 12;
const INET_SERVICE: u32 = 13;
const IFNAME: u32 = 41;
/// The bits that each type of a concatenation takes in the number of the whole.
const TYPE_BITS: u32 = 6;
const SERVICE: u32 = INET_PROTO << TYPE_BITS | INET_SERVICE;

/// The number of elements in a message. An attribute holds 64 KiB, and the longest element takes 48
/// bytes.
const PER_MESSAGE: usize = 1000;
/// The shortest timeout. A shorter one could round to 0, which means no timeout to the kernel.
const SHORTEST: Duration = Duration::from_millis(20);
/// The longest timeout, about a century. The kernel refuses one that does not fit its clock.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The address family of the grants in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// A named set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Set {
    pub(super) name: &'static CStr,
    pub(super) family: Option<Family>,
    /// Whether elements have timeouts.
    timed: bool,
    id: u32,
    key_type: u32,
    key_bytes: u32,
}

pub(super) const INTERFACES: Set = Set::new(c"interfaces", 1, IFNAME, 16, None);
pub(super) const GUARDED: Set = Set::new(c"guarded", 2, SERVICE, 8, None);
pub(super) const CUT: Set = Set::new(c"cut", 3, SERVICE, 8, None);
pub(super) const OPEN4: Set =
    Set::new(c"open4", 4, IPV4_ADDR << (2 * TYPE_BITS) | SERVICE, 12, Some(Family::V4));
pub(super) const OPEN6: Set =
    Set::new(c"open6", 5, IPV6_ADDR << (2 * TYPE_BITS) | SERVICE, 24, Some(Family::V6));
/// The services that are closed for the time of a trial.
pub(super) const TRIAL: Set = Set { timed: true, ..Set::new(c"trial", 6, SERVICE, 8, None) };
/// The element that is in [`TRIAL`] during every trial.
pub(super) const ANY_TRIAL: [u8; 8] = [0; 8];
/// All sets of the table.
pub(super) const ALL: [Set; 6] = [INTERFACES, GUARDED, CUT, OPEN4, OPEN6, TRIAL];

/// One element: its key, and the time that it lasts in a set with timeouts.
#[derive(Clone, Debug)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    pub(super) lasts: Option<Duration>,
}

impl Set {
    const fn new(
        name: &'static CStr,
        id: u32,
        key_type: u32,
        key_bytes: u32,
        family: Option<Family>,
    ) -> Self {
        Self { name, family, timed: family.is_some(), id, key_type, key_bytes }
    }

    pub(super) fn text(&self) -> &'static str {
        self.name.to_str().expect("set names are ASCII")
    }

    /// Returns the set that holds the grants of this source.
    pub(super) const fn of(source: IpAddr) -> Self {
        match source {
            IpAddr::V4(_) => OPEN4,
            IpAddr::V6(_) => OPEN6,
        }
    }

    /// Returns the message that creates the set unless it exists.
    pub(super) fn create(&self) -> Message {
        // A note that nft reads, about the byte order of the key (NFTNL_UDATA_SET_KEYBYTEORDER):
        // one attribute of type 0 and 4 bytes, 1 for host order, 2 for network order.
        let order: u32 = if self.key_type == IFNAME { 1 } else { 2 };
        let note = [&[0, 4], order.to_ne_bytes().as_slice()].concat();
        let flags = if self.timed { libc::NFT_SET_TIMEOUT } else { 0 };
        let attributes = Attributes::new()
            .text(NFTA_SET_TABLE, TABLE_NAME)
            .text(NFTA_SET_NAME, self.text())
            .u32(NFTA_SET_FLAGS, flags as u32)
            .u32(NFTA_SET_KEY_TYPE, self.key_type)
            .u32(NFTA_SET_KEY_LEN, self.key_bytes)
            .u32(NFTA_SET_ID, self.id)
            .bytes(NFTA_SET_USERDATA, &note);
        Message::new(libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE | libc::NLM_F_ACK, FAMILY, attributes)
    }

    fn about(&self) -> Attributes {
        Attributes::new()
            .text(NFTA_SET_ELEM_LIST_TABLE, TABLE_NAME)
            .text(NFTA_SET_ELEM_LIST_SET, self.text())
    }

    /// Returns the message that removes all elements.
    pub(super) fn flush(&self) -> Message {
        Message::new(libc::NFT_MSG_DELSETELEM, libc::NLM_F_ACK, FAMILY, self.about())
    }

    /// Returns the message that asks for all elements.
    pub(super) fn dump(&self) -> Message {
        Message::new(libc::NFT_MSG_GETSETELEM, libc::NLM_F_DUMP, FAMILY, self.about())
    }

    /// Returns the messages that add elements. An element that exists is not an error, and since
    /// Linux 6.12 its timeout changes.
    pub(super) fn add(&self, elements: &[Element]) -> Vec<Message> {
        self.change(libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE | libc::NLM_F_ACK, elements)
    }

    /// Returns the messages that delete elements, all of which must exist.
    pub(super) fn delete(&self, elements: &[Element]) -> Vec<Message> {
        self.change(libc::NFT_MSG_DELSETELEM, libc::NLM_F_ACK, elements)
    }

    fn change(&self, kind: i32, flags: i32, elements: &[Element]) -> Vec<Message> {
        let message = |chunk: &[Element]| {
            let mut list = Attributes::new();
            chunk
                .iter()
                .for_each(|element| list.push_nested(NFTA_LIST_ELEM, &element.attributes()));
            Message::new(
                kind,
                flags,
                FAMILY,
                self.about().nested(NFTA_SET_ELEM_LIST_ELEMENTS, list),
            )
        };
        elements.chunks(PER_MESSAGE).map(message).collect()
    }
}

impl Element {
    /// Makes an element without a timeout.
    pub(super) fn lasting(key: Vec<u8>) -> Self {
        Self { key, lasts: None }
    }

    /// Makes an element that ends after this time.
    pub(super) fn passing(key: [u8; 8], lasts: Duration) -> Self {
        Self { key: key.to_vec(), lasts: Some(lasts.clamp(SHORTEST, LONGEST)) }
    }

    /// Makes the element for a grant.
    pub(super) fn granting(grant: &Grant, lasts: Duration) -> Self {
        let mut key = match grant.source {
            IpAddr::V4(source) => source.octets().to_vec(),
            IpAddr::V6(source) => source.octets().to_vec(),
        };
        key.extend(service_key(grant.service));
        Self { key, lasts: Some(lasts.clamp(SHORTEST, LONGEST)) }
    }

    fn attributes(&self) -> Attributes {
        let key = Attributes::new().bytes(NFTA_DATA_VALUE, &self.key);
        let element = Attributes::new().nested(NFTA_SET_ELEM_KEY, key);
        match self.lasts {
            Some(lasts) => element.u64(NFTA_SET_ELEM_TIMEOUT, lasts.as_millis() as u64),
            None => element,
        }
    }

    /// Returns the elements in one message of a dump. Their `lasts` is the time that remains.
    pub(super) fn parse(message: &[u8]) -> impl Iterator<Item = Self> {
        let list = wire::find(message, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
        wire::attributes(list).filter_map(|(_, element)| {
            let key = wire::find(wire::find(element, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE)?;
            let remains = wire::find(element, NFTA_SET_ELEM_EXPIRATION).and_then(wire::as_u64);
            Some(Self { key: key.to_vec(), lasts: remains.map(Duration::from_millis) })
        })
    }
}

/// `inet_proto . inet_service`.
pub(super) fn service_key(service: Service) -> [u8; 8] {
    let [high, low] = service.port.to_be_bytes();
    [service.protocol.number(), 0, 0, 0, high, low, 0, 0]
}

/// Returns the service that a key names.
pub(super) fn service_of(key: &[u8]) -> Option<Service> {
    let &[number, _, _, _, high, low, _, _] = key else { return None };
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == number)?;
    Some(Service::new(protocol, u16::from_be_bytes([high, low])))
}

/// Returns the grant that a key of `open4` or `open6` names.
pub(super) fn grant_of(key: &[u8]) -> Option<Grant> {
    let (source, service) = key.split_at_checked(key.len().checked_sub(8)?)?;
    let source = match source.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(source).ok()?).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(source).ok()?).into(),
    };
    Some(Grant { source, service: service_of(service)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_grant_survives_the_round_trip(source: IpAddr, port: u16, tcp: bool) {
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            let grant = Grant { source, service: Service::new(protocol, port) };
            let element = Element::granting(&grant, Duration::ZERO);
            prop_assert_eq!(grant_of(&element.key), Some(grant));
            prop_assert_eq!(element.key.len(), Set::of(source).key_bytes as usize);
            prop_assert_eq!(element.lasts, Some(SHORTEST));
        }
    }
}

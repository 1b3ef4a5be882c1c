//! The content of the table, read back from the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use knock_policy::{Mode, Service};

use super::error::FirewallError;
use super::message::Message;
use super::socket::Socket;
use super::uapi::*;
use super::wire::{self, Attributes};
use super::{FAMILY, TABLE_NAME, TimedGrant, rules, sets, since_boot};

const DOING: &str = "read the firewall back";

/// The table `inet xknock` as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether the guard drops now.
    pub mode: Mode,
    /// The time when a trial ends, as [`super::since_boot`] counts, if the guard drops on trial only.
    pub trial_until: Option<Duration>,
    /// The guarded services, in order.
    pub guarded: Vec<Service>,
    /// Names of the guarded interfaces, in order.
    pub interfaces: Vec<String>,
    /// The sources that never need a grant, as they were installed.
    pub always_allow: Vec<IpNet>,
    /// The running grants, in order.
    pub grants: Vec<TimedGrant>,
    /// The number of packets without a grant: dropped, or in observe mode only counted.
    pub refused_packets: u64,
    /// The number of bytes of those packets.
    pub refused_bytes: u64,
}

/// Reads the table, which must exist.
pub(super) fn read(socket: &mut Socket) -> Result<Status, FirewallError> {
    let mut interfaces: Vec<_> = elements(socket, &sets::INTERFACES)?
        .iter()
        .filter_map(|element| wire::as_text(&element.key).map(str::to_owned))
        .collect();
    interfaces.sort_unstable();
    let mut guarded: Vec<_> = elements(socket, &sets::GUARDED)?
        .iter()
        .filter_map(|element| sets::service_of(&element.key))
        .collect();
    guarded.sort_unstable();
    let mut grants = Vec::new();
    for set in [sets::OPEN4, sets::OPEN6] {
        let elements = elements(socket, &set)?;
        // Read after the answer, so that no grant seems to end before it does.
        let now = since_boot();
        grants.extend(elements.iter().filter_map(|element| {
            // An element without a timeout was added by another tool, and never ends.
            let until = now.saturating_add(element.lasts.unwrap_or(Duration::MAX));
            Some(TimedGrant { grant: sets::grant_of(&element.key)?, until })
        }));
    }
    grants.sort_unstable_by_key(|timed| timed.grant);

    let check = rules::CHECK.to_str().expect("chain names are ASCII");
    let question = Attributes::new().text(NFTA_RULE_TABLE, TABLE_NAME).text(NFTA_RULE_CHAIN, check);
    let found = socket
        .ask(DOING, &Message::new(libc::NFT_MSG_GETRULE, libc::NLM_F_DUMP, FAMILY, question))?;
    let tried = |rule: &&Vec<u8>| expressions(rule, "lookup").next().is_some();
    let (on_trial, always): (Vec<_>, Vec<_>) =
        found.iter().filter(|rule| has_drop(rule)).partition(tried);
    // Read before the question, so that an agent that goes on with a trial does not extend it.
    let now = since_boot();
    let left = elements(socket, &sets::TRIAL)?.iter().filter_map(|element| element.lasts).max();
    let trial = left.filter(|_| always.is_empty() && !on_trial.is_empty());
    let trial_until = trial.map(|left| now.saturating_add(left));
    let always_allow = found.iter().filter_map(|rule| prefix(rule)).collect();

    let (refused_packets, refused_bytes) = refused(socket)?;
    let drops = !always.is_empty() || trial_until.is_some();
    let mode = if drops { Mode::Enforce } else { Mode::Observe };
    Ok(Status {
        mode,
        trial_until,
        guarded,
        interfaces,
        always_allow,
        grants,
        refused_packets,
        refused_bytes,
    })
}

pub(super) fn elements(
    socket: &mut Socket,
    set: &sets::Set,
) -> Result<Vec<sets::Element>, FirewallError> {
    let messages = socket.ask(DOING, &set.dump())?;
    Ok(messages.iter().flat_map(|message| sets::Element::parse(message)).collect())
}

fn refused(socket: &mut Socket) -> Result<(u64, u64), FirewallError> {
    let question = super::counter_attributes();
    let found = socket
        .ask(DOING, &Message::new(libc::NFT_MSG_GETOBJ, libc::NLM_F_ACK, FAMILY, question))?;
    let both = found.first().and_then(|object| counted(object));
    both.ok_or(FirewallError::Malformed { doing: DOING, what: "a counter without numbers" })
}

/// Returns the packets and bytes of a counter.
pub(super) fn counted(object: &[u8]) -> Option<(u64, u64)> {
    let data = wire::find(object, NFTA_OBJ_DATA)?;
    let number = |kind| wire::find(data, kind).and_then(wire::as_u64);
    number(NFTA_COUNTER_PACKETS).zip(number(NFTA_COUNTER_BYTES))
}

/// Returns the data of all expressions of this name in a rule.
fn expressions<'a>(rule: &'a [u8], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let list = wire::find(rule, NFTA_RULE_EXPRESSIONS).unwrap_or_default();
    wire::attributes(list).filter_map(move |(_, expression)| {
        let this = wire::find(expression, NFTA_EXPR_NAME).and_then(wire::as_text)?;
        (this == name).then(|| wire::find(expression, NFTA_EXPR_DATA)).flatten()
    })
}

pub(super) fn has_drop(rule: &[u8]) -> bool {
    expressions(rule, "immediate").any(|immediate| {
        wire::find(immediate, NFTA_IMMEDIATE_DATA)
            .and_then(|data| wire::find(data, NFTA_DATA_VERDICT))
            .and_then(|verdict| wire::find(verdict, NFTA_VERDICT_CODE))
            .and_then(wire::as_u32)
            == Some(libc::NF_DROP as u32)
    })
}

/// Returns the prefix of a rule that is a masked comparison of the source address.
pub(super) fn prefix(rule: &[u8]) -> Option<IpNet> {
    if expressions(rule, "lookup").next().is_some() {
        return None;
    }
    let value = |data| wire::find(data, NFTA_DATA_VALUE).and_then(address);
    let mask = value(wire::find(expressions(rule, "bitwise").next()?, NFTA_BITWISE_MASK)?)?;
    let network = value(wire::find(expressions(rule, "cmp").last()?, NFTA_CMP_DATA)?)?;
    IpNet::with_netmask(network, mask).ok()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

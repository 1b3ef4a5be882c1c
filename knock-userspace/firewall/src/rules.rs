//! The three chains of the table, and their rules.

use std::net::IpAddr;

use ipnet::IpNet;
use knock_common::sequence::Protocol;
use knock_policy::Mode;
use nftnl::expr::Verdict;
use nftnl::{Batch, Chain, ChainType, Hook, MsgType, Policy, Rule, Table};

use super::expressions::{self as expr, Expression, R0, R1};
use super::ruleset::{Ruleset, Tracking};
use super::sets;

pub(super) const GUARD: &std::ffi::CStr = c"guard";
pub(super) const CHECK: &std::ffi::CStr = c"check";
const FIRST_FRAGMENT: &std::ffi::CStr = c"first_fragment";
pub(super) const REFUSED: &std::ffi::CStr = c"refused";

/// The place of the guard: after connection tracking (-200) and before destination NAT (-100),
/// where ports are still those that the outside sees.
const PRIORITY: i32 = -150;

/// `NF_CT_STATE_BIT`: established and related.
const RUNNING: u32 = 1 << 1 | 1 << 2;

/// The offset of the TCP flags, and the flags that distinguish packets that open a connection from
/// others. A SYN with FIN or RST opens none on this host, but might on one that a port is
/// forwarded to.
const TCP_FLAGS: u32 = 13;
const SYN_ACK: u8 = 0x12;
const SYN: u8 = 0x02;

/// Adds the chains to the batch, empties them, and fills them.
pub(super) fn write(batch: &mut Batch, table: &Table, ruleset: &Ruleset) {
    let mut guard = Chain::new(GUARD, table);
    guard.set_type(ChainType::Filter);
    guard.set_hook(Hook::PreRouting, PRIORITY);
    guard.set_policy(Policy::Accept);
    let check = Chain::new(CHECK, table);
    let first_fragment = Chain::new(FIRST_FRAGMENT, table);
    for chain in [&guard, &check, &first_fragment] {
        batch.add(chain, MsgType::Add);
        // Deleting a rule without a handle deletes all rules of its chain.
        batch.add(&Rule::new(chain), MsgType::Del);
    }

    let patterns = ruleset.interfaces.iter().filter_map(|name| name.strip_suffix('*'));
    // Like `nft` for `iifname "eth*"`, a pattern compares the first bytes alone.
    let entries = std::iter::once(expr::is_in(sets::INTERFACES.name))
        .chain(patterns.map(|prefix| expr::equal(R0, prefix.as_bytes())));
    for on_interface in entries {
        let watched = [expr::meta(libc::NFT_META_IIFNAME, R0), on_interface];
        let mut fragment = first_fragments();
        fragment.extend(watched.clone());
        add(batch, &guard, fragment, Some(Verdict::Jump { chain: FIRST_FRAGMENT.into() }));
        let mut entry = Vec::from(watched);
        entry.extend(expr::service(R0));
        entry.push(expr::is_in(sets::GUARDED.name));
        add(batch, &guard, entry, Some(Verdict::Jump { chain: CHECK.into() }));
    }

    for prefix in &ruleset.always_allow {
        add(batch, &check, from(prefix), Some(Verdict::Accept));
    }
    if ruleset.tracking == Tracking::Conntrack {
        add(batch, &check, running_by_conntrack(), Some(Verdict::Accept));
    }
    for set in [sets::OPEN4, sets::OPEN6] {
        add(batch, &check, granted(&set), Some(Verdict::Accept));
    }
    if ruleset.tracking == Tracking::Stateless {
        add(batch, &check, running_by_flags(), Some(Verdict::Accept));
    }
    let drop = (ruleset.mode == Mode::Enforce).then_some(Verdict::Drop);
    // Any port matches. The comparison makes that visible in a listing of the rules.
    let port = expr::payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, R0);
    let any_port = vec![port, expr::at_least(R0, &[0, 0])];
    add(batch, &first_fragment, any_port, Some(Verdict::Return));
    add(batch, &first_fragment, vec![expr::count(REFUSED)], drop.clone());
    add(batch, &check, vec![expr::count(REFUSED)], drop);
    if ruleset.mode == Mode::Observe && ruleset.trial_until.is_some() {
        add(batch, &check, on_trial(), Some(Verdict::Drop));
        add(batch, &first_fragment, while_trial(), Some(Verdict::Drop));
    }
}

/// A trial is running, whatever the destination of the packet. No packet has the service of this
/// key.
fn while_trial() -> Vec<Expression> {
    vec![expr::constant(R0, &sets::ANY_TRIAL), expr::is_in(sets::TRIAL.name)]
}

/// The service is closed for the time of a trial. The elements end by themselves, so the trial ends
/// without an agent too.
fn on_trial() -> Vec<Expression> {
    let mut rule = Vec::from(expr::service(R0));
    rule.push(expr::is_in(sets::TRIAL.name));
    rule
}

/// The packet is a first fragment of IPv6. After extension headers its port may come in the second
/// fragment, where no rule can read it, and the host reassembles both after the guard. RFC 8200
/// (4.5) wants all headers in the first, so a first fragment without a port is refused.
fn first_fragments() -> Vec<Expression> {
    const OFFSET: [u8; 2] = 0xfff8u16.to_be_bytes();
    vec![
        expr::meta(libc::NFT_META_NFPROTO, R0),
        expr::equal(R0, &[libc::NFPROTO_IPV6 as u8]),
        expr::fragment_field(R0),
        expr::mask(R0, &OFFSET),
        expr::equal(R0, &[0, 0]),
    ]
}

/// The source is within a prefix.
///
/// Each prefix is one masked comparison, not an element of an interval set: hosts list a handful,
/// overlapping prefixes need no merging, and the prefixes can be read back as they were.
fn from(prefix: &IpNet) -> Vec<Expression> {
    let mut rule = Vec::from(expr::source(prefix.addr()));
    rule.push(expr::mask(R0, &octets(prefix.netmask())));
    rule.push(expr::equal(R0, &octets(prefix.network())));
    rule
}

/// The packet is of a running connection, to a service whose connections outlive the grant.
fn running_by_conntrack() -> Vec<Expression> {
    let mut rule = Vec::from(expr::service(R0));
    rule.push(expr::is_not_in(sets::CUT.name));
    // Connection tracking keeps its state in host byte order.
    rule.push(expr::ct_state(R0));
    rule.push(expr::mask(R0, &RUNNING.to_ne_bytes()));
    rule.push(expr::unequal(R0, &0u32.to_ne_bytes()));
    rule
}

/// The same without connection tracking: the packet is TCP, and its flags show that it is not an
/// opening SYN. A first fragment that is too short for the flags does not match, and goes on to the
/// drop.
fn running_by_flags() -> Vec<Expression> {
    let mut rule =
        vec![expr::meta(libc::NFT_META_L4PROTO, R0), expr::equal(R0, &[Protocol::Tcp.number()])];
    rule.extend(expr::service(R0));
    rule.push(expr::is_not_in(sets::CUT.name));
    rule.push(expr::payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, TCP_FLAGS, 1, R0));
    rule.push(expr::mask(R0, &[SYN_ACK]));
    rule.push(expr::unequal(R0, &[SYN]));
    rule
}

/// The source has a grant for the service.
fn granted(set: &sets::Set) -> Vec<Expression> {
    let (like, after) = match set.family {
        Some(sets::Family::V6) => (IpAddr::from([0; 16]), R0 + 4),
        _ => (IpAddr::from([0; 4]), R1),
    };
    let mut rule = Vec::from(expr::source(like));
    rule.extend(expr::service(after));
    rule.push(expr::is_in(set.name));
    rule
}

fn add(
    batch: &mut Batch,
    chain: &Chain<'_>,
    expressions: Vec<Expression>,
    verdict: Option<Verdict>,
) {
    let mut rule = Rule::new(chain);
    expressions.iter().for_each(|expression| rule.add_expr(expression));
    if let Some(verdict) = &verdict {
        rule.add_expr(verdict);
    }
    batch.add(&rule, MsgType::Add);
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

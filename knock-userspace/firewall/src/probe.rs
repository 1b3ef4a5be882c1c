//! Probes of the running kernel's nftables. They need a network namespace of their own, because
//! each probe leaves a table there.

use std::time::Duration;

use knock_common::sequence::Protocol;
use knock_policy::{Grant, Service};
use nftnl::expr::{RejectionType, Verdict};
use nftnl::{Chain, ChainType, Hook, MsgType, Rule};
use nix::errno::Errno;

use super::{
    Attributes, Element, FAMILY, FirewallError, Message, NFTA_TABLE_FLAGS, NFTA_TABLE_NAME, Socket,
    TABLE_NAME, Transaction, sets, status, table,
};

/// `NFT_TABLE_F_OWNER` and `NFT_TABLE_F_PERSIST` (`linux/netfilter/nf_tables.h`).
const OWNER: u32 = 2;
const PERSIST: u32 = 4;

/// An ability that not every kernel's nftables has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// Tables of the family `inet`.
    Tables,
    /// Adding an element again changes its timeout.
    NewTimeouts,
    /// Tables that only the socket which made them can change.
    Owner,
    /// Such tables that outlive their socket.
    Persist,
    /// Answers to refused packets at the hook of the guard.
    Reject,
}

/// Whether the kernel has this ability.
///
/// # Errors
///
/// If the probe failed for another reason.
pub fn has(ability: Ability) -> Result<bool, String> {
    let tried = Socket::open().and_then(|mut socket| match ability {
        Ability::Tables => with_flags(&mut socket, 0),
        Ability::Owner => with_flags(&mut socket, OWNER),
        Ability::Persist => with_flags(&mut socket, OWNER | PERSIST),
        Ability::Reject => reject(&mut socket),
        Ability::NewTimeouts => new_timeouts(&mut socket),
    });
    match tried {
        Ok(can) => Ok(can),
        Err(FirewallError::Unavailable { .. }) => Ok(false),
        Err(FirewallError::Refused {
            errno: Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOENT,
            ..
        }) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

fn with_flags(socket: &mut Socket, flags: u32) -> Result<bool, FirewallError> {
    let attributes =
        Attributes::new().text(NFTA_TABLE_NAME, TABLE_NAME).u32(NFTA_TABLE_FLAGS, flags);
    let acked = libc::NLM_F_CREATE | libc::NLM_F_ACK;
    let mut change = Transaction::new();
    change.add("table", [Message::new(libc::NFT_MSG_NEWTABLE, acked, FAMILY, attributes)]);
    change.commit(socket, "try a table").map(|()| true)
}

fn reject(socket: &mut Socket) -> Result<bool, FirewallError> {
    let table = table();
    let mut chain = Chain::new(c"try", &table);
    chain.set_type(ChainType::Filter);
    chain.set_hook(Hook::PreRouting, 0);
    let mut rule = Rule::new(&chain);
    rule.add_expr(&Verdict::Reject(RejectionType::TcpRst));
    let mut change = Transaction::new();
    change.batch.add(&table, MsgType::Add);
    change.batch.add(&chain, MsgType::Add);
    change.batch.add(&rule, MsgType::Add);
    change.commit(socket, "try a rule that rejects").map(|()| true)
}

fn new_timeouts(socket: &mut Socket) -> Result<bool, FirewallError> {
    const SHORT: Duration = Duration::from_secs(100);
    const LONG: Duration = Duration::from_secs(1000);
    let set = sets::OPEN4;
    let grant = Grant { source: [192, 0, 2, 1].into(), service: Service::new(Protocol::Tcp, 22) };
    let mut change = Transaction::new();
    change.batch.add(&table(), MsgType::Add);
    change.add(set.text(), [set.create()]);
    change.add(set.text(), set.add(&[Element::granting(&grant, SHORT)]));
    change.commit(socket, "try an element")?;
    let mut change = Transaction::new();
    change.add(set.text(), set.add(&[Element::granting(&grant, LONG)]));
    change.commit(socket, "try an element again")?;
    let found = status::elements(socket, &set)?;
    Ok(found.iter().any(|element| element.lasts.is_some_and(|lasts| lasts > SHORT)))
}

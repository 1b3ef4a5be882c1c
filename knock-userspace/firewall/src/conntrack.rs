//! The test whether connection tracking is in use in this network namespace.
//!
//! It only reads: listing rules and files neither loads nor activates anything.

use std::io::ErrorKind;

use super::TABLE_NAME;
use super::error::FirewallError;
use super::message::Message;
use super::socket::Socket;
use super::uapi::*;
use super::wire::{self, Attributes};

/// `/proc/sys/net` shows the network namespace of the thread that opens it.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// The tables of legacy iptables, of which `nat` tracks connections.
const LEGACY: [&str; 2] =
    ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"];
/// The list of loaded modules, one a line, its name first.
const MODULES: &str = "/proc/modules";
/// The modules that make the table `nat`.
const LEGACY_NAT: [&str; 2] = ["iptable_nat", "ip6table_nat"];
/// The expressions of nftables that need connection tracking.
const NATIVE: [&str; 7] = ["ct", "nat", "masq", "redir", "connlimit", "flow_offload", "synproxy"];
/// The matches and targets of iptables (through nftables) that need connection tracking.
const COMPAT: [&str; 16] = [
    "conntrack",
    "state",
    "ctstate",
    "connmark",
    "connbytes",
    "connlimit",
    "connlabel",
    "helper",
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "DNAT",
    "SNAT",
    "MASQUERADE",
    "REDIRECT",
    "NETMAP",
];

/// Whether connections are tracked, or a rule outside the table `xknock` needs it.
pub(super) fn in_use(socket: &mut Socket) -> Result<bool, FirewallError> {
    if read(COUNT)?.is_some_and(|count| count.trim() != "0") {
        return Ok(true);
    }
    if legacy_in_use()? {
        return Ok(true);
    }
    let question = Message::new(
        libc::NFT_MSG_GETRULE,
        libc::NLM_F_DUMP,
        libc::NFPROTO_UNSPEC,
        Attributes::new(),
    );
    // The family of a rule is not needed: the table's name is reserved in every family.
    let rules = socket.ask("look for connection tracking", &question)?;
    Ok(rules.iter().any(|rule| !is_ours(rule) && tracks(rule)))
}

/// Whether legacy iptables has a table `nat`. Only root may read which tables a namespace has. An
/// agent with a user of its own looks for the module instead, which all namespaces share. It errs
/// on the side of tracking, which passes the right packets and costs a little.
fn legacy_in_use() -> Result<bool, FirewallError> {
    for path in LEGACY {
        match read(path) {
            Ok(tables) if tables.iter().flat_map(|text| text.lines()).any(|name| name == "nat") => {
                return Ok(true);
            }
            Ok(_) => {}
            Err(FirewallError::Proc { source, .. })
                if source.kind() == ErrorKind::PermissionDenied =>
            {
                return Ok(read(MODULES)?.is_some_and(|modules| has_legacy_nat(&modules)));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Whether one of [`LEGACY_NAT`] is among `modules`, in the form of [`MODULES`].
fn has_legacy_nat(modules: &str) -> bool {
    let mut names = modules.lines().filter_map(|line| line.split(' ').next());
    names.any(|name| LEGACY_NAT.contains(&name))
}

pub(super) fn is_ours(rule: &[u8]) -> bool {
    wire::find(rule, NFTA_RULE_TABLE).and_then(wire::as_text) == Some(TABLE_NAME)
}

/// Whether a rule has an expression that needs connection tracking.
pub(super) fn tracks(rule: &[u8]) -> bool {
    let expressions = wire::find(rule, NFTA_RULE_EXPRESSIONS).unwrap_or_default();
    wire::attributes(expressions).any(|(_, expression)| {
        let name = wire::find(expression, NFTA_EXPR_NAME).and_then(wire::as_text);
        match name {
            Some("match" | "target") => wire::find(expression, NFTA_EXPR_DATA)
                .and_then(|data| wire::find(data, NFTA_COMPAT_NAME))
                .and_then(wire::as_text)
                .is_some_and(|name| COMPAT.contains(&name)),
            Some(name) => NATIVE.contains(&name),
            None => false,
        }
    })
}

/// Returns the text of a file, or `None` if it does not exist because a module is not loaded.
fn read(path: &'static str) -> Result<Option<String>, FirewallError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FirewallError::Proc { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modules_of_legacy_nat_are_distinguished_from_those_that_they_need() {
        let without =
            "nf_nat 57344 1 nft_nat, Live 0x0\nip_tables 36864 1 iptable_filter, Live 0x0\n";
        assert!(!has_legacy_nat(without));
        assert!(!has_legacy_nat("x 1 1 iptable_nat, Live 0x0\n"), "who needs it is no proof");
        for name in LEGACY_NAT {
            assert!(has_legacy_nat(&format!("{without}{name} 16384 1 - Live 0x0\n")), "{name}");
        }
    }
}

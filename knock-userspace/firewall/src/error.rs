//! Errors of the firewall, each with the step that failed and what to do.

use nix::errno::Errno;

/// An error of the firewall.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The process may not change the firewall of this network namespace.
    #[error(
        "not allowed to {doing}: CAP_NET_ADMIN is missing; run as root or grant that capability"
    )]
    NotPermitted {
        /// The step that failed.
        doing: &'static str,
    },
    /// The kernel has no nftables.
    #[error(
        "nftables is not available ({errno}) while trying to {doing}; load the module nf_tables, \
         or use a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET (Linux 5.15 or later)"
    )]
    Unavailable {
        /// The step that failed.
        doing: &'static str,
        /// The error of the kernel.
        errno: Errno,
    },
    /// The table does not exist, so it cannot take grants.
    #[error(
        "the table inet xknock is gone (another tool may have flushed the ruleset): install it \
         again"
    )]
    NoTable,
    /// The kernel refused one part of a change, so nothing was changed.
    #[error("could not {doing}: the kernel refused {object} ({errno}); nothing was changed")]
    Refused {
        /// The step that failed.
        doing: &'static str,
        /// The nftables object that the kernel refused.
        object: String,
        /// The error of the kernel.
        errno: Errno,
    },
    /// The netlink socket failed.
    #[error("could not {doing}: netlink {call} failed ({errno})")]
    Socket {
        /// The step that failed.
        doing: &'static str,
        /// The system call.
        call: &'static str,
        /// The error of the call.
        errno: Errno,
    },
    /// The answer of the kernel is not part of the protocol.
    #[error("could not {doing}: the kernel's answer was not understood ({what})")]
    Malformed {
        /// The step that failed.
        doing: &'static str,
        /// The fault of the answer.
        what: &'static str,
    },
    /// The ruleset has an interface name that nftables cannot hold.
    #[error("interface name {name:?} is not valid: it must have 1 to 15 bytes")]
    InterfaceName {
        /// The name.
        name: String,
    },
    /// A file that says whether connection tracking is in use could not be read.
    #[error("could not read {path}: {source}")]
    Proc {
        /// The file.
        path: &'static str,
        /// The error of the system.
        source: std::io::Error,
    },
}

impl FirewallError {
    pub(super) fn socket(doing: &'static str, call: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::EPERM | Errno::EACCES => Self::NotPermitted { doing },
            Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => Self::Unavailable { doing, errno },
            _ => Self::Socket { doing, call, errno },
        }
    }

    /// Makes the error for a refused request. `object` is `None` if the kernel refused all of it.
    pub(super) fn refused(doing: &'static str, object: Option<String>, errno: Errno) -> Self {
        match (errno, object) {
            (Errno::EPERM, _) => Self::NotPermitted { doing },
            (Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EAFNOSUPPORT, None) => {
                Self::Unavailable { doing, errno }
            }
            (errno, object) => Self::Refused {
                doing,
                object: object.unwrap_or_else(|| "the request".into()),
                errno,
            },
        }
    }

    /// Whether the kernel reported a set with as many elements as its size allows. The sets of the
    /// table have no size, so another tool gave it one.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Refused { errno: Errno::ENFILE, .. })
    }

    /// Whether the kernel reported that the object does not exist.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { errno: Errno::ENOENT, .. })
    }
}

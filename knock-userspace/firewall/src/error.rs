//! What can go wrong between here and nftables, and what to do about it.

use nix::errno::Errno;

/// An error of the firewall; each says which step failed.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The caller may not change the firewall of this network namespace.
    #[error(
        "not allowed to {doing}: CAP_NET_ADMIN is missing; run as root or grant that capability"
    )]
    NotPermitted {
        /// What was being done.
        doing: &'static str,
    },
    /// The kernel has no nftables.
    #[error(
        "nftables is not available ({errno}) while trying to {doing}; load the module nf_tables or use a kernel \
         with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET (Linux 5.15 or later)"
    )]
    Unavailable {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// The table is not there, so there is nothing to put grants into.
    #[error(
        "the table inet xknock is gone (another tool may have flushed the ruleset); install it again"
    )]
    NoTable,
    /// The kernel refused one part of a change; nothing was changed.
    #[error("could not {doing}: the kernel refused {object} ({errno}); nothing was changed")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// Which nftables object the kernel refused.
        object: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// The netlink socket failed.
    #[error("could not {doing}: netlink {call} failed ({errno})")]
    Socket {
        /// What was being done.
        doing: &'static str,
        /// The system call.
        call: &'static str,
        /// What it returned.
        errno: Errno,
    },
    /// The kernel answered something that is not part of the protocol.
    #[error("could not {doing}: the kernel's answer was not understood ({what})")]
    Malformed {
        /// What was being done.
        doing: &'static str,
        /// What was wrong.
        what: &'static str,
    },
    /// A ruleset that nftables cannot hold.
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
        /// Why not.
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

    /// `object` is unknown if the kernel refused the request as a whole.
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

    /// Whether the kernel said that a set has as many elements as its size allows. No set of ours
    /// has a size, so another tool gave it one.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Refused { errno: Errno::ENFILE, .. })
    }

    /// Whether the kernel said that what was asked about is not there.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { errno: Errno::ENOENT, .. })
    }
}

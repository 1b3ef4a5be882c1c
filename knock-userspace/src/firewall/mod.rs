//! The only room that knows nftables and its netlink messages.

//! The kernel's answers over netlink: read without trust.

/// Reads one datagram.
///
/// # Panics
///
/// If the reader does, or if it finds more than the datagram can hold.
pub fn run(datagram: &[u8]) {
    let found = knock_firewall::fuzzing::read(datagram);
    assert!(found <= datagram.len() / SMALLEST, "{found} things in {} bytes", datagram.len());
}

/// Bytes of an attribute without a value. Everything that is counted takes at least as many.
const SMALLEST: usize = 4;

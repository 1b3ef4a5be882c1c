//! What the kernel answers over netlink: read without trust, whatever it is.

/// Reads one datagram.
///
/// # Panics
///
/// If reading it does, or finds more than it holds.
pub fn run(datagram: &[u8]) {
    let found = knock_firewall::fuzzing::read(datagram);
    assert!(found <= datagram.len() / SMALLEST, "{found} things in {} bytes", datagram.len());
}

/// An attribute without a value; nothing that is counted takes less.
const SMALLEST: usize = 4;

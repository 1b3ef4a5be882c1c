//! Input from devices and from users: packets, lines, key files. Any bytes are either valid or
//! refused, and there is one way to write each value.

use knock_common::sealed::{Gate, SIZE, set_tag};
use knock_keys::{Key, KeyDoor, KeyLine, Opener, Secret, Verifier, read_body};

/// Reads the input as each of them.
///
/// # Panics
///
/// If a value that was read prints otherwise, or a packet opens that was not made with the key.
pub fn run(input: &[u8]) {
    packet(input);
    if let Some(request) = input.first_chunk().and_then(read_body) {
        assert!((1..=4).contains(&request.doors.len()));
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(line) = KeyLine::parse(text) {
        assert_eq!(&*line.to_text(), text.trim());
    }
    if let Ok(door) = text.parse::<KeyDoor>() {
        assert_eq!(door.to_string(), text);
    }
    if let Ok(key) = Key::parse("fuzzed", text) {
        let written = key.to_text();
        let again = Key::parse("fuzzed", &written).expect("what was written reads back");
        assert_eq!(*again.to_text(), *written);
    }
}

fn packet(input: &[u8]) {
    let mut packet = [0; SIZE];
    let length = input.len().min(SIZE);
    packet[..length].copy_from_slice(&input[..length]);
    let opener = Opener::new(&Verifier::Shared(Secret::take(&mut [7; 32]))).expect("a key");
    let gate = Gate { prefilter: opener.prefilter(), newest_ns: 0 };
    // Forged by an attacker with the key that the kernel knows.
    set_tag(&mut packet, gate.prefilter);
    let _ = gate.check(&packet, u64::MAX / 2, u64::MAX / 2);
    assert!(opener.open(&packet).is_err(), "a packet made without the key");
}

//! The alphabets of names, wherever they are written: in configs, key files, lines and commands.

/// The form of a door's name, for errors.
pub const DOOR_NAME_FORM: &str = "1 to 64 letters, digits, `_`, `.` and `-`";
/// The form of a key's name, for errors.
pub const KEY_NAME_FORM: &str =
    "1 to 64 letters, digits, `_`, `.` and `-`, the first of them not `.` or `-`";

/// Returns `text` if a door can have that name: see [`DOOR_NAME_FORM`].
pub fn door_name(text: &str) -> Option<&str> {
    const LONGEST: usize = 64;
    let legal = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    ((1..=LONGEST).contains(&text.len()) && text.chars().all(legal)).then_some(text)
}

/// Returns `text` if a key can have that name: see [`KEY_NAME_FORM`]. The name is that of a file
/// and an argument of commands, so it must not look hidden or like an option.
pub fn key_name(text: &str) -> Option<&str> {
    door_name(text).filter(|text| !text.starts_with(['.', '-']))
}

/// Returns `text` if it can be a host name, an address, or nothing.
pub fn host_name(text: &str) -> Option<&str> {
    const LONGEST: usize = 255;
    let legal = |c: char| c.is_ascii_alphanumeric() || "_.-:[]%".contains(c);
    (text.len() <= LONGEST && text.chars().all(legal)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_alphabets_and_lengths() {
        let longest = "a".repeat(64);
        for name in ["ssh", "a", "_", "A-b_c.9", &longest] {
            assert_eq!((door_name(name), key_name(name)), (Some(name), Some(name)));
        }
        for name in [".ssh", "-ssh"] {
            assert_eq!((door_name(name), key_name(name)), (Some(name), None));
        }
        for name in ["", "s h", "a/b", "a:b", "ä", &"a".repeat(65)] {
            assert_eq!((door_name(name), key_name(name)), (None, None), "{name:?}");
        }
        for name in ["", "server.example", "[2001:db8::1]", "fe80::1%eth0"] {
            assert_eq!(host_name(name), Some(name));
        }
        for name in ["user@host", "a b", "a/b", &"a".repeat(256)] {
            assert_eq!(host_name(name), None, "{name:?}");
        }
    }
}

//! Secret bytes, and their text.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use zeroize::{Zeroize as _, ZeroizeOnDrop, Zeroizing};

/// 32 secret bytes. They are wiped when dropped and never print.
#[derive(Clone, ZeroizeOnDrop)]
pub struct Secret([u8; Self::LENGTH]);

impl Secret {
    /// The number of bytes.
    pub const LENGTH: usize = 32;

    /// Draws random bytes from the operating system.
    ///
    /// # Errors
    ///
    /// If the system has none.
    pub fn draw() -> Result<Self, getrandom::Error> {
        let mut secret = Self([0; Self::LENGTH]);
        getrandom::fill(&mut secret.0)?;
        Ok(secret)
    }

    /// Copies `bytes` and wipes them.
    pub fn take(bytes: &mut [u8; Self::LENGTH]) -> Self {
        let secret = Self(*bytes);
        bytes.zeroize();
        secret
    }

    /// Returns the bytes.
    pub const fn expose(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// Returns the text for a key file or line.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64URL_NOPAD.encode(&self.0))
    }

    /// Reads the text that [`Secret::to_text`] returns.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut bytes = bytes_from_text(text)?;
        Some(Self::take(&mut bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// Reads 32 bytes from their text.
pub(super) fn bytes_from_text(text: &str) -> Option<[u8; 32]> {
    const LENGTH: usize = 43;
    if text.len() != LENGTH {
        return None;
    }
    // The decoder asks for more room than the 32 bytes take.
    let mut bytes = Zeroizing::new([0; 33]);
    let room = BASE64URL_NOPAD.decode_len(LENGTH).ok()?;
    let length = BASE64URL_NOPAD.decode_mut(text.as_bytes(), &mut bytes[..room]).ok()?;
    bytes[..length].try_into().ok()
}

/// Returns the text of 32 bytes that are not a secret.
pub(super) fn bytes_to_text(bytes: &[u8; 32]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_and_back(mut bytes: [u8; 32]) {
            let copy = bytes;
            let secret = Secret::take(&mut bytes);
            prop_assert_eq!(bytes, [0; 32]);
            let read = Secret::from_text(&secret.to_text()).unwrap();
            prop_assert_eq!(read.expose(), &copy);
            prop_assert_eq!(format!("{secret:?}"), "Secret(hidden)");
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = Secret::from_text(&text);
        }
    }

    #[test]
    fn only_one_text_stands_for_a_secret() {
        // The last character carries two bits that must be zero.
        let text = format!("{}B", "A".repeat(42));
        assert!(Secret::from_text(&text).is_none());
    }
}

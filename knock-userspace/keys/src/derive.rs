//! Drawing of keys, and derivation of one secret for each use: HKDF-SHA256 (RFC 5869) with an empty
//! salt and a label for each use.

use std::fmt;

use data_encoding::HEXLOWER;
use ed25519_dalek::SigningKey;
use hkdf::Hkdf;
use knock_common::siphash::SipKey;
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize as _, Zeroizing};

use super::Secret;

/// The use of a derived key. No two uses share a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// Steps of a slot.
    Rolling,
    /// The cipher of sealed knocks.
    Sealed,
    /// Tag and mask of sealed knocks.
    Prefilter,
    /// The device's signing key.
    Signing,
    /// The device's exchange key.
    Exchange,
    /// The cipher of one sealed knock of a key pair.
    SealedOnce,
}

impl Label {
    const fn text(self) -> &'static [u8] {
        match self {
            Self::Rolling => b"xknock v1 rolling",
            Self::Sealed => b"xknock v1 sealed",
            Self::Prefilter => b"xknock v1 prefilter",
            Self::Signing => b"xknock v1 signing",
            Self::Exchange => b"xknock v1 exchange",
            Self::SealedOnce => b"xknock v1 sealed once",
        }
    }
}

/// Returns the key for one use. `context` is appended to the label.
pub(super) fn derive(secret: &[u8; 32], label: Label, context: &[&[u8]]) -> Secret {
    let mut bytes = [0; Secret::LENGTH];
    expand(secret, label, context, &mut bytes);
    Secret::take(&mut bytes)
}

fn expand(secret: &[u8; 32], label: Label, context: &[&[u8]], out: &mut [u8]) {
    let mut parts = vec![label.text()];
    parts.extend(context);
    let derived = Hkdf::<Sha256>::new(None, secret).expand_multi_info(&parts, out);
    assert!(derived.is_ok(), "HKDF gives up to 8160 bytes");
}

/// Returns the key of tag and mask.
pub(super) fn prefilter(secret: &[u8; 32]) -> SipKey {
    let mut bytes = Zeroizing::new([0; 16]);
    expand(secret, Label::Prefilter, &[], &mut *bytes);
    SipKey::from_bytes(*bytes)
}

/// The identifier of a key on the wire. It is random, and all that an observer learns about the
/// device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 8]);

impl KeyId {
    /// Returns the identifier as a map in the kernel has it.
    pub const fn number(self) -> u64 {
        u64::from_le_bytes(self.0)
    }

    /// Reads the text of an identifier.
    pub fn from_text(text: &str) -> Option<Self> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl From<u64> for KeyId {
    fn from(number: u64) -> Self {
        Self(number.to_le_bytes())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The distribution of secrets between device and host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Device and host hold the same secret.
    Shared,
    /// The host holds only public keys of the device, so its files are not enough to knock.
    Public,
}

/// The secret that a device knocks with.
#[derive(Clone, Debug)]
pub enum Credential {
    /// The secret that the host holds too.
    Shared(Secret),
    /// A secret of the device alone.
    Public {
        /// The secret from which the device's own keys derive.
        seed: Secret,
        /// The host's public key (X25519).
        server: [u8; 32],
    },
}

/// The secrets and public keys with which the host verifies knocks.
#[derive(Clone, Debug)]
pub enum Verifier {
    /// The secret that the device holds too.
    Shared(Secret),
    /// Public keys of the device, and the host's own secret for it.
    Public {
        /// The device's public key for signatures (Ed25519).
        signing: [u8; 32],
        /// The device's public key for key agreement (X25519).
        exchange: [u8; 32],
        /// The host's secret key (X25519).
        server: Secret,
    },
}

/// Draws a new key: its identifier, the secret for the device, and the verifier for the host.
///
/// # Errors
///
/// If the operating system has no random bytes.
pub fn draw(kind: Kind) -> Result<(KeyId, Credential, Verifier), getrandom::Error> {
    let mut id = [0; 8];
    getrandom::fill(&mut id)?;
    let secret = Secret::draw()?;
    let (credential, verifier) = match kind {
        Kind::Shared => (Credential::Shared(secret.clone()), Verifier::Shared(secret)),
        Kind::Public => {
            let server = Secret::draw()?;
            let public = Verifier::Public {
                signing: signing_key(&secret).verifying_key().to_bytes(),
                exchange: public_key(&exchange_key(&secret)),
                server: server.clone(),
            };
            (
                Credential::Public { seed: secret, server: public_key(&static_secret(&server)) },
                public,
            )
        }
    };
    Ok((KeyId(id), credential, verifier))
}

/// Returns the key that a device signs with.
pub(super) fn signing_key(seed: &Secret) -> SigningKey {
    SigningKey::from_bytes(derive(seed.expose(), Label::Signing, &[]).expose())
}

/// Returns the key with which a device agrees on the prefilter key.
pub(super) fn exchange_key(seed: &Secret) -> StaticSecret {
    static_secret(&derive(seed.expose(), Label::Exchange, &[]))
}

pub(super) fn static_secret(secret: &Secret) -> StaticSecret {
    StaticSecret::from(*secret.expose())
}

pub(super) fn public_key(secret: &StaticSecret) -> [u8; 32] {
    PublicKey::from(secret).to_bytes()
}

/// Returns the secret that two sides agree on, or `None` if `theirs` is a point that gives the same
/// result for every secret.
pub(super) fn agree(ours: &StaticSecret, theirs: &[u8; 32]) -> Option<Secret> {
    let shared = ours.diffie_hellman(&PublicKey::from(*theirs));
    let mut bytes = shared.was_contributory().then(|| shared.to_bytes())?;
    let secret = Secret::take(&mut bytes);
    bytes.zeroize();
    Some(secret)
}

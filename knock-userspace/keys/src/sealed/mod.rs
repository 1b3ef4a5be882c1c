//! Sealed knocks: the inside of the packet, sealing and opening. `knock_common::sealed` has the
//! outside, and `docs/sealed-knock.md` describes both byte by byte.

use std::net::IpAddr;

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{Key, Tag, XChaCha20Poly1305, XNonce};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use knock_common::sealed::{CIPHERTEXT, FRESH, SIZE, set_tag, set_time, shown_time, tag_fits};
use knock_common::siphash::SipKey;
use knock_common::source::Source;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::derive::{
    Label, agree, derive, exchange_key, prefilter, public_key, signing_key, static_secret,
};
use super::{Credential, DoorTag, KeyId, Secret, Verifier};

/// The greatest number of doors that one knock may name.
pub const MOST_DOORS: usize = 4;
/// The version of the inside.
const VERSION: u8 = 1;
const BODY: usize = 48;
const SIGNATURE: usize = 64;
const INSIDE: usize = BODY + SIGNATURE;
/// The length of what the cipher authenticates: the key id, the masked time and the fresh bytes.
const OUTSIDE: usize = 8 + 8 + 32;

/// The request inside a knock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The action for the doors.
    pub action: Action,
    /// The time when the request was made, in nanoseconds since 1970.
    pub time_ns: u64,
    /// The doors, one to [`MOST_DOORS`].
    pub doors: Vec<DoorTag>,
    /// The wanted time in seconds, or 0 for the time of the door.
    pub wanted_s: u32,
    /// The address that the request is for.
    pub address: Address,
}

/// The action of a knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let the address in.
    Open,
    /// Stop letting the address in.
    Close,
}

/// The address that a knock is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// The address that the packet comes from.
    Seen,
    /// This address.
    Named(IpAddr),
}

impl Request {
    fn body(&self) -> [u8; BODY] {
        let mut body = [0; BODY];
        body[0] = VERSION;
        body[1] = match self.action {
            Action::Open => 1,
            Action::Close => 2,
        };
        if let Address::Named(address) = self.address {
            body[2] = 1;
            body[16..32].copy_from_slice(&Source::from(address).0);
        }
        let doors = &self.doors[..self.doors.len().min(MOST_DOORS)];
        body[3] = doors.len() as u8;
        body[4..8].copy_from_slice(&self.wanted_s.to_le_bytes());
        body[8..16].copy_from_slice(&self.time_ns.to_le_bytes());
        for (place, DoorTag(tag)) in body[32..].chunks_exact_mut(4).zip(doors) {
            place.copy_from_slice(tag);
        }
        body
    }

    fn read(body: &[u8; BODY]) -> Result<Self, OpenError> {
        let malformed = OpenError::Malformed;
        if body[0] != VERSION {
            return Err(OpenError::Version(body[0]));
        }
        let doors = usize::from(body[3]);
        if !(1..=MOST_DOORS).contains(&doors) {
            return Err(malformed("doors"));
        }
        let request = Self {
            action: match body[1] {
                1 => Action::Open,
                2 => Action::Close,
                _ => return Err(malformed("action")),
            },
            time_ns: u64::from_le_bytes(part(body, 8)),
            doors: (0..doors).map(|place| DoorTag(part(body, 32 + place * 4))).collect(),
            wanted_s: u32::from_le_bytes(part(body, 4)),
            address: match body[2] {
                0 => Address::Seen,
                1 => Address::Named(Source(part(body, 16)).into()),
                _ => return Err(malformed("address")),
            },
        };
        // Unused bytes are zero, and each request has one form only.
        if request.body() == *body { Ok(request) } else { Err(malformed("unused bytes")) }
    }
}

/// Reads the inside of a packet. Returns `None` if it is not a request.
#[cfg(feature = "fuzzing")]
pub fn read_body(body: &[u8; BODY]) -> Option<Request> {
    Request::read(body).ok()
}

/// Returns `N` bytes from `at`, which the caller knows to be inside.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|n| bytes[at + n])
}

/// The reason why a packet is not a knock of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The outside was not made with the key.
    #[error("its tag is wrong")]
    Tag,
    /// The inside was not sealed with the key.
    #[error("it was not sealed with this key")]
    Cipher,
    /// The device did not sign it.
    #[error("its signature is wrong")]
    Signature,
    /// The inside is of another version.
    #[error("it is of version {0}")]
    Version(u8),
    /// A field of the inside has no meaning.
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
    /// Inside and outside disagree.
    #[error("it names two times")]
    TwoTimes,
}

/// The device's side of a key.
pub struct Sealer {
    id: KeyId,
    prefilter: SipKey,
    keys: SealingKeys,
}

enum SealingKeys {
    Shared { cipher: Secret },
    Public { signing: Box<SigningKey>, server: [u8; 32] },
}

impl Sealer {
    /// Makes a sealer for the key with this id. Returns `None` if the host's public key is not a
    /// valid X25519 point.
    pub fn new(id: KeyId, credential: &Credential) -> Option<Self> {
        Some(match credential {
            Credential::Shared(secret) => Self {
                id,
                prefilter: prefilter(secret.expose()),
                keys: SealingKeys::Shared { cipher: derive(secret.expose(), Label::Sealed, &[]) },
            },
            Credential::Public { seed, server } => Self {
                id,
                prefilter: prefilter(agree(&exchange_key(seed), server)?.expose()),
                keys: SealingKeys::Public { signing: Box::new(signing_key(seed)), server: *server },
            },
        })
    }

    /// Seals a request.
    ///
    /// # Errors
    ///
    /// If the operating system has no random bytes.
    pub fn seal(&self, request: &Request) -> Result<[u8; SIZE], getrandom::Error> {
        Ok(self.seal_with(request, &Secret::draw()?))
    }

    /// Does the same as [`Sealer::seal`] with these random bytes, which must never be used again.
    pub fn seal_with(&self, request: &Request, random: &Secret) -> [u8; SIZE] {
        let mut packet = [0; SIZE];
        packet[..8].copy_from_slice(&self.id.0);
        let ephemeral;
        match &self.keys {
            SealingKeys::Shared { .. } => {
                ephemeral = None;
                packet[FRESH].copy_from_slice(random.expose());
            }
            SealingKeys::Public { .. } => {
                let secret = static_secret(random);
                packet[FRESH].copy_from_slice(&public_key(&secret));
                ephemeral = Some(secret);
            }
        }
        set_time(&mut packet, self.prefilter, request.time_ns);
        let outside = outside(&packet);
        let body = request.body();
        let mut inside = Zeroizing::new([0; INSIDE]);
        inside[..BODY].copy_from_slice(&body);
        let key = match (&self.keys, ephemeral) {
            (SealingKeys::Public { signing, server }, Some(ephemeral)) => {
                let signature = signing.sign(&signed(server, &outside, &body));
                inside[BODY..].copy_from_slice(&signature.to_bytes());
                once(&ephemeral, server, &packet[FRESH], server)
            }
            (SealingKeys::Shared { cipher }, _) => Some(cipher.clone()),
            (SealingKeys::Public { .. }, None) => None,
        };
        if let Some(key) = key {
            let tag = cipher(&key).encrypt_inout_detached(
                &nonce(&packet),
                &outside,
                inside.as_mut_slice().into(),
            );
            // The only possible error is a message of more than 256 GiB.
            if let Ok(tag) = tag {
                packet[CIPHERTEXT][..INSIDE].copy_from_slice(&*inside);
                packet[CIPHERTEXT][INSIDE..].copy_from_slice(&tag);
            }
        }
        set_tag(&mut packet, self.prefilter);
        packet
    }
}

/// The host's side of a key.
#[derive(Clone)]
pub struct Opener {
    prefilter: SipKey,
    keys: OpeningKeys,
}

#[derive(Clone)]
enum OpeningKeys {
    Shared { cipher: Secret },
    Public { signing: Box<VerifyingKey>, server: Secret, server_public: [u8; 32] },
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opener(hidden)")
    }
}

impl Opener {
    /// Makes an opener for a key of the host. Returns `None` if a public key of the device is not
    /// valid.
    pub fn new(verifier: &Verifier) -> Option<Self> {
        Some(match verifier {
            Verifier::Shared(secret) => Self {
                prefilter: prefilter(secret.expose()),
                keys: OpeningKeys::Shared { cipher: derive(secret.expose(), Label::Sealed, &[]) },
            },
            Verifier::Public { signing, exchange, server } => {
                let ours = static_secret(server);
                Self {
                    prefilter: prefilter(agree(&ours, exchange)?.expose()),
                    keys: OpeningKeys::Public {
                        signing: Box::new(VerifyingKey::from_bytes(signing).ok()?),
                        server: server.clone(),
                        server_public: public_key(&ours),
                    },
                }
            }
        })
    }

    /// Returns the key with which the kernel checks packets.
    pub const fn prefilter(&self) -> SipKey {
        self.prefilter
    }

    /// Opens a packet. The caller must check its time.
    ///
    /// # Errors
    ///
    /// If the packet was not made with this key, for this host.
    pub fn open(&self, packet: &[u8; SIZE]) -> Result<Request, OpenError> {
        if !tag_fits(packet, self.prefilter) {
            return Err(OpenError::Tag);
        }
        let outside = outside(packet);
        let key = match &self.keys {
            OpeningKeys::Shared { cipher } => cipher.clone(),
            OpeningKeys::Public { server, server_public, .. } => {
                let theirs = part(packet, FRESH.start);
                once(&static_secret(server), &theirs, &theirs, server_public)
                    .ok_or(OpenError::Cipher)?
            }
        };
        let mut inside = Zeroizing::new([0; INSIDE]);
        inside.copy_from_slice(&packet[CIPHERTEXT][..INSIDE]);
        let tag = Tag::from(part::<16>(packet, CIPHERTEXT.start + INSIDE));
        cipher(&key)
            .decrypt_inout_detached(&nonce(packet), &outside, inside.as_mut_slice().into(), &tag)
            .map_err(|_| OpenError::Cipher)?;
        let body: [u8; BODY] = part(&*inside, 0);
        let signature: [u8; SIGNATURE] = part(&*inside, BODY);
        match &self.keys {
            OpeningKeys::Public { signing, server_public, .. } => {
                let message = signed(server_public, &outside, &body);
                let signature = Signature::from_bytes(&signature);
                let verified = signing.verify_strict(&message, &signature);
                verified.map_err(|_| OpenError::Signature)?;
            }
            OpeningKeys::Shared { .. } if signature != [0; SIGNATURE] => {
                return Err(OpenError::Malformed("unused bytes"));
            }
            OpeningKeys::Shared { .. } => {}
        }
        let request = Request::read(&body)?;
        if request.time_ns != shown_time(packet, self.prefilter) {
            return Err(OpenError::TwoTimes);
        }
        Ok(request)
    }
}

fn cipher(key: &Secret) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&Key::from(*key.expose()))
}

fn nonce(packet: &[u8; SIZE]) -> XNonce {
    XNonce::from(part::<24>(packet, FRESH.start))
}

fn outside(packet: &[u8; SIZE]) -> [u8; OUTSIDE] {
    std::array::from_fn(|n| packet[if n < 8 { n } else { n + 8 }])
}

/// Returns the cipher key of one packet of a key pair.
fn once(
    ours: &StaticSecret,
    theirs: &[u8; 32],
    ephemeral: &[u8],
    server: &[u8; 32],
) -> Option<Secret> {
    let agreed = agree(ours, theirs)?;
    Some(derive(agreed.expose(), Label::SealedOnce, &[ephemeral, server]))
}

/// Returns what a device signs: a label, the host's public key, what the cipher authenticates, and
/// the body.
fn signed(server: &[u8; 32], outside: &[u8; OUTSIDE], body: &[u8; BODY]) -> Vec<u8> {
    [b"xknock v1 signed", server.as_slice(), outside, body].concat()
}

#[cfg(test)]
mod tests;

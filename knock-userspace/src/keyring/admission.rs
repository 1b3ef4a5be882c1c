//! The judgement of a keyed knock: its admission, or its denial with a reason.

use std::net::IpAddr;
use std::time::Duration;

use knock_keys::{Action, Address, Addresses, DoorTag, Key, OpenError, Request, Stale};
use knock_policy::{Door, Method, Policy};

/// The permission that a keyed knock gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The key's name.
    pub key: String,
    /// To open or to close.
    pub action: Action,
    /// The address that it opens or closes doors for.
    pub source: IpAddr,
    /// The doors, and how long each opens.
    pub doors: Vec<(String, Duration)>,
}

/// The refusal of a keyed knock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The key's name, if the knock was made with that key.
    pub key: Option<String>,
    /// The reason.
    pub reason: DenialReason,
}

/// The reason why a keyed knock opens nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DenialReason {
    /// No key has the id that the knock names.
    #[error("no key has this id")]
    UnknownKey,
    /// The packet cannot be opened with the key that it names.
    #[error(transparent)]
    NotOpened(#[from] OpenError),
    /// Its time is outside of the window, or not newer than the last one.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// Its time or slot cannot be written down, so a copy of it could count once more.
    #[error(
        "its time cannot be written down; knocks of this key are refused until those made so far \
         are too old to be replayed"
    )]
    NotKept,
    /// The key has expired, or this version of it has been replaced.
    #[error("the key has ended")]
    Expired,
    /// The key opens no such door.
    #[error("the key opens no such door")]
    Door,
    /// The door does not open for this address.
    #[error("it is for {0}, which the door does not open for")]
    Address(IpAddr),
    /// The door asks for an address, and the knock names none.
    #[error("it names no address, which the door asks for")]
    NoAddress,
    /// The door or the key does not allow so long a time.
    #[error("it wants {wanted} s, but {limit} s are the limit")]
    TooLong {
        /// Seconds that the knock asks for.
        wanted: u32,
        /// Seconds that are allowed.
        limit: u64,
    },
    /// The sequence has opened its door before.
    #[error("the sequence was used before")]
    Used,
    /// The sequence belongs to another slot.
    #[error("the sequence is of another time")]
    Slot,
}

impl DenialReason {
    /// Returns the name of the reason's counter.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown_key",
            Self::NotOpened(OpenError::Version(_)) => "wrong_version",
            Self::NotOpened(OpenError::Signature) => "wrong_signature",
            Self::NotOpened(OpenError::Malformed(_) | OpenError::TwoTimes) => "malformed",
            Self::NotOpened(_) => "wrong_key",
            Self::Stale(Stale::Clock(_)) => "wrong_time",
            Self::Stale(Stale::Replayed) => "replayed",
            Self::NotKept => "not_kept",
            Self::Expired => "expired",
            Self::Door => "wrong_door",
            Self::Address(_) | Self::NoAddress => "wrong_address",
            Self::TooLong { .. } => "too_long",
            Self::Used => "used",
            Self::Slot => "wrong_slot",
        }
    }
}

/// Returns the longest time for which a key opens a door.
pub(super) fn limit(door: &Door, key: &Key) -> Duration {
    key.longest.map_or(door.open_for, |longest| longest.min(door.open_for))
}

/// Judges everything about a request but its time.
pub(super) fn judge(
    request: &Request,
    seen: IpAddr,
    key: &Key,
    policy: &Policy,
) -> Result<Admission, DenialReason> {
    let mut doors = Vec::with_capacity(request.doors.len());
    let mut source = seen;
    for tag in &request.doors {
        let named = key.doors.iter().find(|door| DoorTag::of(&door.name) == *tag);
        let named = named.ok_or(DenialReason::Door)?;
        let door = policy.doors.iter().find(|door| door.name == named.name);
        let door = door.ok_or(DenialReason::Door)?;
        let Method::Sealed { addresses, .. } = door.method else { return Err(DenialReason::Door) };
        source = admit(request.address, seen, addresses)?;
        let limit = limit(door, key);
        let wanted = Duration::from_secs(request.wanted_s.into());
        if wanted > limit && request.action == Action::Open {
            return Err(DenialReason::TooLong { wanted: request.wanted_s, limit: limit.as_secs() });
        }
        let lasts = if wanted.is_zero() { limit } else { wanted };
        doors.push((door.name.clone(), lasts));
    }
    Ok(Admission { key: key.name.clone(), action: request.action, source, doors })
}

/// Returns the address for which a door that accepts `addresses` opens.
fn admit(address: Address, seen: IpAddr, addresses: Addresses) -> Result<IpAddr, DenialReason> {
    match (address, addresses) {
        (Address::Seen, Addresses::Own) => Err(DenialReason::NoAddress),
        (Address::Seen, Addresses::Seen | Addresses::Any) => Ok(seen),
        (Address::Named(named), Addresses::Any) => match named.to_canonical() {
            named if named.is_unspecified() || named.is_multicast() => {
                Err(DenialReason::Address(named))
            }
            named => Ok(named),
        },
        (Address::Named(named), _) if named.to_canonical() == seen => Ok(seen),
        (Address::Named(named), _) => Err(DenialReason::Address(named)),
    }
}

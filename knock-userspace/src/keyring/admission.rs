//! The answer to a keyed knock: what it may do, or why it may not.

use std::net::IpAddr;
use std::time::Duration;

use knock_keys::{Action, Address, Addresses, DoorTag, Key, OpenError, Request, Stale};
use knock_policy::{Door, Method, Policy};

/// What a knock with a key is allowed to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The key's name.
    pub key: String,
    /// To open or to close.
    pub action: Action,
    /// For whom.
    pub source: IpAddr,
    /// Which doors, and for how long.
    pub doors: Vec<(String, Duration)>,
}

/// A knock with a key that opens nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The key's name, if the knock was made with what belongs to it.
    pub key: Option<String>,
    /// Why.
    pub reason: DenialReason,
}

/// Why a knock with a key opens nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DenialReason {
    /// No key has the id that it names.
    #[error("no key has this id")]
    UnknownKey,
    /// It was not made with the key that it names.
    #[error(transparent)]
    NotOpened(#[from] OpenError),
    /// Its time is not to be believed.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// What makes it new cannot be kept, so it could come again.
    #[error(
        "that it was made cannot be kept; knocks of this key are refused until none of those \
         made before could be replayed"
    )]
    NotKept,
    /// The key has ended.
    #[error("the key has ended")]
    Expired,
    /// The key does not open such a door.
    #[error("the key opens no such door")]
    Door,
    /// The door does not take the address.
    #[error("it is for {0}, which the door does not open for")]
    Address(IpAddr),
    /// The door does not take knocks that name no address.
    #[error("it names no address, which the door asks for")]
    NoAddress,
    /// The door or the key does not open for so long.
    #[error("it wants {wanted} s, but {limit} s are the limit")]
    TooLong {
        /// Seconds that it asked for.
        wanted: u32,
        /// Seconds that are allowed.
        limit: u64,
    },
    /// The sequence has opened a door before.
    #[error("a sequence that was used before")]
    Used,
    /// The sequence belongs to another time.
    #[error("a sequence of another time")]
    Slot,
}

impl DenialReason {
    /// Short name for counters.
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

/// How long a key opens a door for at most.
pub(super) fn limit(door: &Door, key: &Key) -> Duration {
    key.longest.map_or(door.open_for, |longest| longest.min(door.open_for))
}

/// What a request is allowed, but for its time.
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

/// For whom a knock opens a door that accepts these addresses.
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

//! The control socket: any body is either a request that means the same when it is written again,
//! or is refused.

use knock_control::{Caller, Open, Revoke, Try};
use knock_policy::lockout::Session;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads a body as each of the requests that have one, and as the variable that sshd sets for a
/// session.
///
/// # Panics
///
/// If a request that was read does not mean the same when it is written and read again.
pub fn run(input: &[u8]) {
    read::<Open>(input);
    read::<Revoke>(input);
    read::<Caller>(input);
    read::<Try>(input);
    if let Some(session) = std::str::from_utf8(input).ok().and_then(Session::parse) {
        assert_eq!(session.client, session.client.to_canonical(), "as the guard sees it");
    }
}

fn read<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(input: &[u8]) {
    let Ok(request) = serde_json::from_slice::<T>(input) else { return };
    let written = serde_json::to_vec(&request).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("and read again");
    assert_eq!(request, again);
}

//! The adoption of the grants that an earlier agent left.

use knock_detector::DetectorError;
use knock_firewall::TimedGrant;
use knock_policy::{Door, Grant};

use crate::agent::active_policy::ActivePolicy;
use crate::agent::clock;
use crate::agent::grants::RunningGrant;
use crate::agent::ledger::{GrantLedger, LONGEST};
use crate::agent::table::Held;

/// Fills `ledger` with the grants on record that still run. Returns those that no door gives any
/// more. They are off the record, and the table must lose them.
///
/// # Errors
///
/// If the record cannot be read.
pub(super) fn adopt(
    ledger: &mut GrantLedger,
    policy: &ActivePolicy,
    held: &Held,
    is_first: bool,
) -> Result<Vec<(Grant, RunningGrant)>, DetectorError> {
    ledger.adopt_recorded(clock::since_boot())?;
    for &TimedGrant { grant, until } in held.grants() {
        // A grant that is in the table only was put there by another tool. This does not hold if
        // there was no record, as after an agent of another layout or one that could not pin.
        if !is_first || ledger.until(&grant).is_some() {
            continue;
        }
        // Also not an agent's: an element without an end, or with one that no door gives.
        if until.saturating_sub(clock::since_boot()) > LONGEST {
            continue;
        }
        let giver = policy.doors.iter().find(|door| door.opens.contains(&grant.service));
        let Some(door) = giver.map(Door::id) else { continue };
        ledger.adopt(grant, RunningGrant { door, until });
    }
    let lost = ledger.no_longer_allowed(policy);
    Ok(lost.into_iter().filter_map(|grant| Some((grant, ledger.end(grant)?))).collect())
}

//! Keeps the detector's gates in step with the keys, in both directions.

use std::time::Duration;

use knock_common::sealed::Clock;
use knock_detector::{Detector, DetectorError};
use tracing::error;

use super::{Keys, clock};

impl Keys {
    /// Gives `detector` the time of day and a gate for each living key, and removes all others.
    ///
    /// # Errors
    ///
    /// If a map cannot be read or written.
    pub(in crate::agent) fn sync(&mut self, detector: &mut Detector) -> Result<(), DetectorError> {
        set_clock(detector, self.window)?;
        self.log_if_ahead();
        let held = detector.gates()?;
        let Some(ring) = &mut self.ring else {
            return held.keys().try_for_each(|id| detector.remove_gate(*id));
        };
        // The kernel may have let a knock pass that no agent has read yet. Its time is taken over
        // before the gate is written, which would set it back otherwise.
        for (id, gate) in &held {
            ring.raise_newest(*id, gate.newest_ns);
        }
        let gates = ring.gates(clock::wall_s());
        // Removals first: these keys must not knock any more, even if a gate below fails.
        for id in held.keys().filter(|id| !gates.contains_key(id)) {
            detector.remove_gate(*id)?;
        }
        for (id, gate) in gates {
            if held.get(&id) != Some(&gate) {
                detector.set_gate(id, gate)?;
            }
        }
        Ok(())
    }

    /// Logs that a key cannot knock for long, because it was used at a time that is far ahead now.
    fn log_if_ahead(&mut self) {
        let ahead = self.ring.as_ref().and_then(|ring| ring.blocked_until(clock::wall_ns()));
        if let Some(newest_ns) = ahead
            && self.logged_ahead != ahead
        {
            let until = knock_keys::time_to_text(newest_ns / 1_000_000_000);
            error!(
                until,
                "keys count as used up to a time far ahead: the clock was wrong then or is wrong \
                 now; see docs/operations.md"
            );
        }
        self.logged_ahead = ahead;
    }
}

/// Gives `detector` the time of day, as an offset to its own clock.
fn set_clock(detector: &mut Detector, window: Duration) -> Result<(), DetectorError> {
    let offset_ns = clock::wall_ns().wrapping_sub(nanoseconds(clock::monotonic()));
    detector.set_clock(Clock { offset_ns, window_ns: nanoseconds(window) })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

//! Keeps the detector's gates as the keys are, and learns what the kernel knows better.

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
        // The kernel may have let a knock pass that no agent has read yet. Learn it before its gate
        // is written, or the gate would forget it.
        for (id, gate) in &held {
            ring.raise_newest(*id, gate.newest_ns);
        }
        let gates = ring.gates(clock::wall_s());
        // First what must not pass any more.
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

    /// Logs that keys cannot knock for long, because one was used at what is a future time now.
    fn log_if_ahead(&mut self) {
        let ahead = self.ring.as_ref().and_then(|ring| ring.blocked_until(clock::wall_ns()));
        if let Some(newest_ns) = ahead
            && self.logged_ahead != ahead
        {
            let until = knock_keys::time_to_text(newest_ns / 1_000_000_000);
            error!(
                until,
                "keys count as used up to a time that is far ahead, so the clock was wrong then or is \
                 now: docs/operations.md says what to do"
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

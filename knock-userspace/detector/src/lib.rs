//! The only room that knows aya: loads the detector, attaches it, reads what it
//! reports.

mod attach;
#[cfg(feature = "bench")]
mod bench;
mod clock_watch;
mod counters;
mod error;
mod events;
mod features;

mod grant_record;
mod links;
mod load;
mod object;
mod pins;
mod privileges;
mod sealed;
mod settings;
mod syscall;
mod trace;
mod verifier_stats;

pub use attach::{AttachedMode, program_name};
#[cfg(feature = "bench")]
pub use bench::{Bench, Nothing, Traffic, run_program};
pub use counters::Totals;
pub use error::DetectorError;
pub use events::Events;
pub use features::{Component, FEATURES, FLOOR, Feature, Presence, Probe, ProbeResult};

pub use clock_watch::ClockWatch;
pub use grant_record::{GrantRecord, Record, Recorded, State, StateRecord};
pub use load::Detector;
pub use pins::{Pins, PinsError};
pub use privileges::{Capability, missing_capabilities, needed_capabilities};
pub use sealed::{MAX_KEYS, SealedEvents};
pub use settings::Settings;
pub use trace::Trace;
pub use verifier_stats::VerifierStats;

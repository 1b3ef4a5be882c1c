//! The detector as the agent uses it: loads the XDP program, attaches it, and reads what it
//! reports.
//!
//! This is the only crate that knows aya. It also has the pinned maps, the record of grants, and
//! what xknock needs of the kernel.
//!
//! A [`Detector`] is loaded with [`Detector::load_among`], attached, and takes over with
//! [`Detector::settle`]. [`Rings`] has its events. A reload changes it in place
//! ([`Detector::update`]) or loads the next one, which takes the links of the one before.

mod adopt;
mod attach;
#[cfg(feature = "bench")]
mod bench;
mod clock_watch;
mod counters;
mod detector;
mod error;
mod events;
mod features;
mod gates;
mod grant_record;
mod links;
mod load;
mod maps;
mod object;
mod pins;
mod privileges;
mod readable;
mod rings;
mod sealed_events;
mod settings;
mod syscall;
mod trace;
mod update;
mod verifier_stats;

pub use attach::{AttachedMode, program_name};
#[cfg(feature = "bench")]
pub use bench::{Bench, Nothing, Traffic, run_program};
pub use clock_watch::ClockWatch;
pub use counters::Totals;
pub use detector::Detector;
pub use error::DetectorError;
pub use events::Events;
pub use features::{Component, FEATURES, FLOOR, Feature, Presence, Probe, ProbeResult};
pub use gates::MAX_KEYS;
pub use grant_record::{GrantRecord, Record, Recorded, State, StateRecord};
pub use pins::{Pins, PinsError};
pub use privileges::{Capability, missing_capabilities, needed_capabilities};
pub use rings::Rings;
pub use sealed_events::SealedEvents;
pub use settings::Settings;
pub use trace::Trace;
pub use verifier_stats::VerifierStats;

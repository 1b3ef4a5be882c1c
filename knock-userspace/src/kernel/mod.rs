//! The only room that knows aya: loads the detector, attaches it, reads what it
//! reports.

mod attach;
#[cfg(feature = "bench")]
mod bench;
mod counters;
mod error;
mod events;
mod features;
mod figures;
mod jumps;
mod links;
mod load;
mod pins;
mod privileges;
mod record;
mod sealed;
mod settings;
mod syscall;
mod trace;

pub use attach::{AttachedMode, program_name};
#[cfg(feature = "bench")]
pub use bench::{Bench, Nothing, Traffic, run_program};
pub use counters::Totals;
pub use error::KernelError;
pub use events::Events;
pub use features::{FEATURES, Feature, Part, Presence};
pub use figures::Figures;
pub use jumps::Jumps;
pub use load::Detector;
pub use pins::{Pins, PinsError};
pub use privileges::{Capability, missing_capabilities, needed_capabilities};
pub use record::{Record, Recorded, State};
pub use sealed::{MAX_KEYS, SealedEvents};
pub use settings::Settings;
pub use trace::Trace;

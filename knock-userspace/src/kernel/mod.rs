//! The only room that knows aya: loads the detector, attaches it, reads what it
//! reports.

mod attach;
#[cfg(feature = "bench")]
mod bench;
mod counters;
mod error;
mod events;
mod features;
mod load;
mod privileges;
mod trace;

pub use attach::{AttachedMode, program_name};
#[cfg(feature = "bench")]
pub use bench::{Bench, Nothing, Traffic, run_program};
pub use counters::Totals;
pub use error::KernelError;
pub use events::Events;
pub use load::{Detector, Settings};
pub use privileges::{Capability, missing_capabilities};
pub use trace::Trace;

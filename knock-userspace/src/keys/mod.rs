//! Keys of devices, and the two ways to knock that they allow. Pure, but for `folder`,
//! which reads and writes key files; times and random bytes come from the caller.
//!
//! `derive` draws a key and derives what each use needs, `rolling` makes steps for a slot
//! of time, `sealed` packets; `replay` decides which of them come too late; `line` is what
//! a device is given, `record` what the host keeps.

mod derive;
mod door;
mod folder;
mod line;
mod process;
mod record;
mod replay;
mod rolling;
mod sealed;
mod secret;

pub use derive::{Credential, KeyId, Kind, Verifier, draw};
pub use door::{Addresses, DoorError, DoorTag, KeyDoor, Method, key_name};
pub use folder::{Folder, FolderError, read_secret, write_secret};
pub use line::{KeyLine, LineError, host_name};
pub use process::no_core_dumps;
pub use record::{Key, Part, RecordError, time_to_text};
pub use replay::{Newest, Stale, WINDOW, check_time};
pub use rolling::{Ports, PortsError, Roller, Rolling, SLOT, slot_of};
#[cfg(feature = "fuzzing")]
pub use sealed::read_body;
pub use sealed::{Action, Address, MOST_DOORS, OpenError, Opener, Request, Sealer};
pub use secret::Secret;

//! Keys of devices, and the two methods of knocking that they allow.
//!
//! `derive` draws a key and derives one secret for each use, `rolling` makes the steps of a time
//! slot, `sealed` makes and opens packets, and `replay` refuses those that come too late. `line` is
//! the text that a device imports, `key_file` the text that the host keeps, and `folder` the folder
//! of those files. `names` has the alphabets of names.
//!
//! Times come from the caller, who may have read them with `clock`. Random bytes come from the
//! operating system (`derive`, `sealed`). Files are read and written in `folder` only, and
//! `process` asks the kernel not to dump secrets.
#![forbid(unsafe_code)]

mod clock;
mod derive;
mod door;
mod folder;
mod key_file;
mod line;
mod names;
mod process;
mod replay;
mod rolling;
mod sealed;
mod secret;

pub use clock::{wall_clock_ns, wall_clock_s};
pub use derive::{Credential, KeyId, Kind, Verifier, draw};
pub use door::{Addresses, DoorError, DoorTag, KeyDoor, KeyMethod};
pub use folder::{
    Folder, FolderError, create_private, give_to_owner_of, read_secret, write_secret,
};
pub use key_file::{Key, KeyFileError, KeyVersion, time_to_text};
pub use line::{KeyLine, LineError};
pub use names::{DOOR_NAME_FORM, KEY_NAME_FORM, door_name, host_name, key_name};
pub use process::no_core_dumps;
pub use replay::{Newest, Stale, WINDOW, check_time};
pub use rolling::{Ports, PortsError, Roller, Rolling, SLOT, slot_of, until_next_slot};
#[cfg(feature = "fuzzing")]
pub use sealed::read_body;
pub use sealed::{Action, Address, MOST_DOORS, OpenError, Opener, Request, Sealer};
pub use secret::Secret;

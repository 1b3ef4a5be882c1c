//! Attaching to interfaces: in the driver first, in the network stack if that fails.

use std::fmt;

use aya::programs::{ProgramError, Xdp, XdpMode, loaded_programs};

use super::KernelError;
use crate::policy::Attach;

/// How the detector is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the network stack, after the driver has built a socket buffer.
    Generic,
}

impl fmt::Display for AttachedMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

pub(super) fn attach(
    program: &mut Xdp,
    interface: &str,
    attach: Attach,
) -> Result<AttachedMode, KernelError> {
    match attach {
        Attach::Native => try_mode(program, interface, AttachedMode::Native),
        Attach::Generic => try_mode(program, interface, AttachedMode::Generic),
        Attach::Auto => match try_mode(program, interface, AttachedMode::Native) {
            Err(KernelError::Attach { .. }) => try_mode(program, interface, AttachedMode::Generic),
            result => result,
        },
    }
}

fn try_mode(
    program: &mut Xdp,
    interface: &str,
    mode: AttachedMode,
) -> Result<AttachedMode, KernelError> {
    let xdp_mode = match mode {
        AttachedMode::Native => XdpMode::Driver,
        AttachedMode::Generic => XdpMode::Skb,
    };
    let Err(source) = program.attach(interface, xdp_mode) else {
        return Ok(mode);
    };
    if let ProgramError::UnknownInterface { name } = source {
        return Err(KernelError::UnknownInterface(name));
    }
    Err(match errno(&source) {
        Some(libc::EBUSY | libc::EEXIST) => {
            KernelError::Occupied { interface: interface.to_owned(), occupant: None }
        }
        _ => KernelError::Attach {
            interface: interface.to_owned(),
            mode,
            source,
            hint: match mode {
                AttachedMode::Native => {
                    "; the driver may lack XDP or refuse the MTU: try `attach = \"auto\"`"
                }
                AttachedMode::Generic => "",
            },
        },
    })
}

fn errno(error: &ProgramError) -> Option<i32> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        cause = error.source();
    }
    None
}

/// The name that a loaded program was given, if it still is loaded.
pub fn program_name(id: u32) -> Option<String> {
    let program = loaded_programs().flatten().find(|program| program.id() == id)?;
    program.name_as_str().map(str::to_owned)
}

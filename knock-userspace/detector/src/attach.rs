//! Attaching to interfaces: in the driver first, in the network stack if that fails.

use std::fmt;

use aya::programs::links::FdLink;
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode, loaded_programs};
use knock_policy::Attach;

use super::DetectorError;

/// The place at which the detector is attached to an interface.
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

/// Attaches `program` to the interface with this index. Returns the link and the mode.
pub(super) fn attach(
    program: &mut Xdp,
    (index, name): (u32, &str),
    attach: Attach,
) -> Result<(FdLink, AttachedMode), DetectorError> {
    let mut try_mode = |mode| try_mode(program, index, name, mode);
    match attach {
        Attach::Native => try_mode(AttachedMode::Native),
        Attach::Generic => try_mode(AttachedMode::Generic),
        Attach::Auto => match try_mode(AttachedMode::Native) {
            Err(DetectorError::Attach { .. }) => try_mode(AttachedMode::Generic),
            result => result,
        },
    }
}

fn try_mode(
    program: &mut Xdp,
    index: u32,
    name: &str,
    mode: AttachedMode,
) -> Result<(FdLink, AttachedMode), DetectorError> {
    let xdp_mode = match mode {
        AttachedMode::Native => XdpMode::Driver,
        AttachedMode::Generic => XdpMode::Skb,
    };
    let attached = program.attach_to_if_index(index, xdp_mode);
    let source = match attached.and_then(|id| program.take_link(id)) {
        Ok(link) => return Ok((as_fd_link(link)?, mode)),
        Err(source) => source,
    };
    Err(match errno(&source) {
        Some(libc::ENODEV) => DetectorError::UnknownInterface(name.to_owned()),
        Some(libc::EBUSY | libc::EEXIST) => {
            DetectorError::Occupied { interface: name.to_owned(), occupant: None }
        }
        _ => DetectorError::Attach {
            interface: name.to_owned(),
            mode,
            source: Box::new(source),
            hint: match mode {
                AttachedMode::Native => {
                    "; the driver may lack XDP or refuse the MTU: try `attach = \"auto\"`"
                }
                AttachedMode::Generic => "",
            },
        },
    })
}

/// Makes `link` run `program` in place of the one that it runs, in one step.
pub(super) fn swap(program: &mut Xdp, link: FdLink) -> Result<FdLink, DetectorError> {
    let link = XdpLink::try_from(link).map_err(DetectorError::link)?;
    let id = program.attach_to_link(link).map_err(DetectorError::from)?;
    as_fd_link(program.take_link(id).map_err(DetectorError::from)?)
}

/// Returns the link as a file descriptor. Every kernel at or above the floor has such links (Linux
/// 5.9, aa8d3a716b59). aya's other way, without one, leaves nothing that can be pinned or swapped.
fn as_fd_link(link: XdpLink) -> Result<FdLink, DetectorError> {
    FdLink::try_from(link).map_err(DetectorError::link)
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

/// Returns the name that a loaded program was given, if it is still loaded.
pub fn program_name(id: u32) -> Option<String> {
    let program = loaded_programs().flatten().find(|program| program.id() == id)?;
    program.name_as_str().map(str::to_owned)
}

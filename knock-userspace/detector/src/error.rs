//! Errors of loading, attaching and reading the detector.

use std::io;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

/// An error of the detector. Errors of aya that may hold the verifier's log are boxed.
#[derive(Debug, thiserror::Error)]
pub enum DetectorError {
    /// The object could not be loaded or its maps not created.
    #[error("cannot create the detector's maps: {0}")]
    Load(#[source] Box<EbpfError>),
    /// `max_sources` is too large for this host.
    #[error(
        "`max_sources = {asked}` needs {needed_mib} MiB in the kernel, which refuses: {available_mib} \
         MiB are free here; {fits} would fit"
    )]
    TooManySources {
        /// The configured number.
        asked: u32,
        /// Memory that it takes, about.
        needed_mib: u64,
        /// Free memory.
        available_mib: u64,
        /// The largest half, quarter and so on of it that takes at most half of the free memory.
        fits: u32,
    },
    /// The kernel is too old.
    #[error(
        "this kernel lacks {}; the detector needs Linux {} or later",
        .0.join(", "),
        super::features::FLOOR
    )]
    TooOld(Vec<String>),
    /// The verifier or the kernel refused the program.
    #[error("the kernel refused the detector: {0}")]
    Program(#[source] Box<ProgramError>),
    /// A map could not be read or written.
    #[error("map {map}: {source}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What aya said.
        source: MapError,
    },
    /// The embedded object lacks something, which is a build error.
    #[error("the embedded detector has no {0}; build again")]
    Missing(&'static str),
    /// No such interface.
    #[error("there is no interface `{0}`; `ip link` lists those that are there")]
    UnknownInterface(String),
    /// Another XDP program is in the way.
    #[error(
        "interface `{interface}` already runs {}; see `bpftool net show dev {interface}`, \
         detach that program (`ip link set dev {interface} xdp off` if it was set with `ip`), \
         or leave the interface out",
        occupant.as_deref().map_or("another XDP program".into(), |who| format!("the XDP program {who}"))
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// Name and identifier of the program, as far as known.
        occupant: Option<String>,
    },
    /// The interface refused.
    #[error("cannot attach to `{interface}` in {mode} mode: {source}{hint}")]
    Attach {
        /// The interface.
        interface: String,
        /// The mode that was tried.
        mode: super::AttachedMode,
        /// What aya said.
        source: Box<ProgramError>,
        /// What to do, if that is known.
        hint: &'static str,
    },
    /// A link to an interface could not be handled.
    #[error("cannot handle the link to an interface: {0}")]
    Link(#[source] aya::programs::links::LinkError),
    /// Something could not be pinned.
    #[error("cannot pin {what}: {source}")]
    Pin {
        /// What it is.
        what: &'static str,
        /// What aya said.
        source: aya::pin::PinError,
    },
    /// The folder of pinned objects could not be used.
    #[error(transparent)]
    Pins(#[from] super::PinsError),
    /// A file descriptor could not be registered with the event loop, or the kernel did not answer.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl From<EbpfError> for DetectorError {
    fn from(error: EbpfError) -> Self {
        Self::Load(Box::new(error))
    }
}

impl From<ProgramError> for DetectorError {
    fn from(error: ProgramError) -> Self {
        Self::Program(Box::new(error))
    }
}

impl DetectorError {
    /// Replaces the reason why the program or its maps could not be loaded by what the kernel
    /// lacks, if it lacks something.
    pub(super) fn explained(self) -> Self {
        let missing = super::features::missing();
        if missing.is_empty() { self } else { Self::TooOld(missing) }
    }

    pub(super) fn link(source: impl Into<aya::programs::links::LinkError>) -> Self {
        Self::Link(source.into())
    }

    pub(super) fn map(map: &'static str) -> impl Fn(MapError) -> Self {
        move |source| Self::Map { map, source }
    }

    pub(super) fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

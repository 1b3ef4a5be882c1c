//! Attaching the detector to interfaces and detaching it, with pinned links.

use aya::programs::links::{FdLink, PinnedLink};
use knock_policy::Attach;
use tracing::warn;

use super::{AttachedMode, Detector, DetectorError, attach, pins};

/// One interface that the detector is attached to.
pub(super) struct Attached {
    link: FdLink,
    name: String,
    mode: AttachedMode,
}

impl Detector {
    /// Attaches the detector to an interface and returns the mode. If a link is pinned there, and
    /// `running` says in which mode, its program is swapped and no packet goes by unseen.
    ///
    /// # Errors
    ///
    /// If there is no such interface, another XDP program is there, or the driver
    /// refuses and `how` allows no other mode.
    pub fn attach(
        &mut self,
        (index, name): (u32, &str),
        how: Attach,
        running: Option<AttachedMode>,
    ) -> Result<AttachedMode, DetectorError> {
        if let Some(pins) = self.pins.clone()
            && let Ok(pinned) = PinnedLink::from_pin(pins.link(index))
        {
            let wanted = match (how, running) {
                (_, None) => false,
                (Attach::Auto, Some(_)) => true,
                (Attach::Native, Some(mode)) => mode == AttachedMode::Native,
                (Attach::Generic, Some(mode)) => mode == AttachedMode::Generic,
            };
            if wanted
                && let Some(mode) = running
                && let Ok(link) = attach::swap(self.program()?, pinned.into())
            {
                self.links.insert(index, Attached { link, name: name.to_owned(), mode });
                return Ok(mode);
            }
            // The link belongs to an interface that is gone and whose index came again, or it is
            // in another mode.
            pins::remove(&pins.link(index))?;
        }
        let (mut link, mode) = attach::attach(self.program()?, (index, name), how)?;
        if let Some(pins) = &self.pins {
            let path = pins.link(index);
            let pinned = link.pin(&path);
            link = pinned.map_err(|source| DetectorError::Pin { what: "a link", source })?.into();
            if !self.settled {
                self.created.push(path);
            }
        }
        self.links.insert(index, Attached { link, name: name.to_owned(), mode });
        Ok(mode)
    }

    /// Takes the interfaces over from the program before this one, without a gap. A link to an
    /// interface that is gone is removed.
    ///
    /// # Errors
    ///
    /// If the kernel does not swap a program that it has taken elsewhere.
    pub fn take_over(&mut self, before: &mut Self) -> Result<(), DetectorError> {
        for (index, attached) in std::mem::take(&mut before.links) {
            let Attached { link, name, mode } = attached;
            match attach::swap(self.program()?, link) {
                Ok(link) => _ = self.links.insert(index, Attached { link, name, mode }),
                Err(error) => {
                    warn!(interface = name, %error, "detached");
                    self.unpin(index)?;
                }
            }
        }
        Ok(())
    }

    /// Detaches the detector from the interface with this index. Returns the name of the interface,
    /// or `None` if the detector was not attached there.
    ///
    /// # Errors
    ///
    /// If the link cannot be unpinned.
    pub fn detach(&mut self, index: u32) -> Result<Option<String>, DetectorError> {
        self.unpin(index)?;
        Ok(self.links.remove(&index).map(|attached| attached.name))
    }

    fn unpin(&self, index: u32) -> Result<(), DetectorError> {
        match &self.pins {
            Some(pins) => Ok(pins::remove(&pins.link(index))?),
            None => Ok(()),
        }
    }

    /// Returns where the detector is attached: index, name and mode.
    pub fn attached(&self) -> impl Iterator<Item = (u32, &str, AttachedMode)> {
        self.links.iter().map(|(&index, one)| (index, one.name.as_str(), one.mode))
    }

    /// Notes the new name of an interface.
    pub fn rename(&mut self, index: u32, name: &str) {
        if let Some(attached) = self.links.get_mut(&index) {
            name.clone_into(&mut attached.name);
        }
    }
}

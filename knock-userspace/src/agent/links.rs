//! Interfaces come, go, and are called otherwise.

use tracing::{error, info, warn};

use super::{Agent, start};
use crate::interfaces::{Interface, Interfaces};

impl Agent {
    /// Looks at all interfaces, and attaches or detaches as the policy says.
    pub(super) async fn follow_links(&mut self, interfaces: &Interfaces) {
        match interfaces.list().await {
            Ok(present) => self.attach_as_wanted(&present),
            Err(error) => error!(%error, "interfaces could not be looked at"),
        }
    }

    /// Makes the detector watch those of `present` that the policy names, and no others.
    pub(super) fn attach_as_wanted(&mut self, present: &[Interface]) {
        let attached: Vec<_> =
            self.detector.attached().map(|(index, name, _)| (index, name.to_owned())).collect();
        for (index, name) in attached {
            match present.iter().find(|one| one.index == index) {
                // A link that the kernel has ended, as when an index came again.
                Some(found) if found.xdp.is_none() => {
                    self.detach(index, &name, "detached by itself");
                }
                Some(found) if !self.keeper.policy.watches(&found.name) => {
                    self.detach(index, &found.name, "no longer watched");
                }
                Some(found) if found.name != name => {
                    self.detector.rename(index, &found.name);
                    info!(interface = found.name, before = name, "renamed");
                }
                Some(_) => {}
                None => self.detach(index, &name, "the interface is gone"),
            }
        }
        for interface in present.iter().filter(|one| self.keeper.policy.watches(&one.name)) {
            if self.detector.attached().any(|(index, ..)| index == interface.index) {
                continue;
            }
            if let Some(xdp) = interface.xdp {
                let error = start::occupied(interface, xdp.program);
                if self.complained.insert((interface.index, xdp.program)) {
                    error!(%error, "not watched");
                }
                continue;
            }
            match start::attach(&mut self.detector, &self.keeper.policy, interface) {
                Ok(()) => self.complained.retain(|(index, _)| *index != interface.index),
                // The next change of it is the next try.
                Err(error) => warn!(interface = interface.name, %error, "not watched"),
            }
        }
    }

    fn detach(&mut self, index: u32, name: &str, why: &str) {
        match self.detector.detach(index) {
            Ok(_) => info!(interface = name, why, "detached"),
            Err(error) => error!(interface = name, %error, "cannot detach"),
        }
    }
}

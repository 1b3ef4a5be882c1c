//! Start-up, from a policy to a guarded host. Each phase owns what was made so far, and undoes
//! exactly that if the next one fails.
//!
//! ```text
//! phase       made in it                                         undone by abandon()
//! Preflight   pins and record                                    pins, if no agent ran before
//!    |
//! Loaded      program and maps, keys, sockets to nftables        + maps made for this program
//!    |
//! Attached    links to interfaces, readers of the ring buffers   + links made for this program
//!    |
//! Started     the nftables table, then the detector's pins       + table, if no agent ran before
//! ```
//!
//! "Before" means an agent of the same layout: one of another layout is followed as if none had
//! run, but for its pins.
//!
//! The table comes after everything else that can fail and that outlives the agent. It is one
//! transaction, and the only step that cannot be taken back without opening ports. A failure before
//! it leaves the ports as they were. Where a link was adopted already, the new program may be the
//! one that goes on. A failure after it removes table and pins where no agent ran before, because
//! no agent could open the ports that would stay closed. Elsewhere it leaves table and pins, as an
//! agent that was killed does.

mod adopt;
mod preflight;

use knock_detector::{Detector, DetectorError};
use knock_firewall::{Firewall, Ruleset, Watch};
use knock_policy::Policy;
use knock_policy::trie::Trie;
use tracing::warn;

use self::adopt::adopt;
use self::preflight::Preflight;
use super::active_policy::ActivePolicy;
use super::enforcement::Enforcement;
use super::keys::{FolderWatch, Keys};
use super::ledger::GrantLedger;
use super::state_store::StateStore;
use super::table::{Held, Table};
use super::watcher::{self, Watcher};
use super::{AgentError, Options};
use crate::interfaces::Interfaces;

/// The parts of an agent that has started.
pub(super) struct Started {
    pub(super) watcher: Watcher,
    pub(super) table: Table,
    pub(super) table_watch: Watch,
    pub(super) ledger: GrantLedger,
    pub(super) keys: Keys,
    pub(super) key_folder: FolderWatch,
    pub(super) interfaces: Interfaces,
    pub(super) policy: ActivePolicy,
    pub(super) enforcement: Enforcement,
    pub(super) state: StateStore,
    /// Whether no agent ran before.
    is_first: bool,
}

/// Starts to guard the doors of `policy`, and takes over what an earlier agent left.
///
/// # Errors
///
/// If a phase fails. The host is then as the head of this module says.
pub(super) async fn start(policy: Policy, options: &Options) -> Result<Started, AgentError> {
    let preflight = Preflight::check(&policy, options).await?;
    preflight.load(ActivePolicy::new(policy), options)?.attach()?.install()
}

/// The detector is loaded and its maps are filled. No packet goes through it yet.
struct Loaded {
    preflight: Preflight,
    policy: ActivePolicy,
    keys: Keys,
    key_folder: FolderWatch,
    detector: Detector,
    guard: GuardBefore,
}

/// The sockets to nftables, and the table as it was found.
struct GuardBefore {
    table: Table,
    watch: Watch,
    held: Held,
    enforcement: Enforcement,
}

/// The detector sees the packets of every watched interface that is there.
struct Attached {
    preflight: Preflight,
    policy: ActivePolicy,
    keys: Keys,
    key_folder: FolderWatch,
    watcher: Watcher,
    guard: GuardBefore,
}

impl Preflight {
    fn load(mut self, policy: ActivePolicy, options: &Options) -> Result<Loaded, AgentError> {
        // First the watch, then the keys: no change of a file falls in between.
        let key_folder = FolderWatch::open(&policy);
        let mut keys = Keys::open(&policy, &options.paths);
        match self.try_load(&policy, &mut keys, options) {
            Ok((detector, guard)) => {
                Ok(Loaded { preflight: self, policy, keys, key_folder, detector, guard })
            }
            Err(error) => {
                self.abandon();
                Err(error)
            }
        }
    }

    fn try_load(
        &mut self,
        policy: &ActivePolicy,
        keys: &mut Keys,
        options: &Options,
    ) -> Result<(Detector, GuardBefore), AgentError> {
        let trie = match &self.pins {
            Some(pins) => {
                Trie::restored(Detector::pinned_edges(pins)?, self.state.get().next_node())
            }
            None => Trie::default(),
        };
        if self.is_first {
            self.state.draw()?;
        }
        let compiled = watcher::compile(&trie, policy, keys, self.state.get())?;
        // Before record and maps change, because a host without nftables ends the start here.
        let guard = GuardBefore::look(policy, options, self.state.get().confirmed != 0)?;
        // Before the kernel gets the new nodes: the next agent must not use their identifiers
        // again.
        self.state.update(|state| state.next_node = compiled.trie.next().0)?;
        let settings = watcher::settings(policy, self.state.get(), options.trace_kernel);
        let mut detector = Detector::load_among(&compiled, settings, self.pins.as_ref())?;
        // Before the program sees a packet: without their gates, it would refuse valid knocks.
        keys.sync(&mut detector)?;
        Ok((detector, guard))
    }
}

impl GuardBefore {
    fn look(policy: &ActivePolicy, options: &Options, confirmed: bool) -> Result<Self, AgentError> {
        let mut firewall = Firewall::open()?;
        // Before the table is read, so that no change by another tool goes unnoticed.
        let watch = Watch::open(firewall.port()?)?;
        let held = Held::read(&mut firewall);
        let enforcement =
            Enforcement::at_start(policy.mode, options.observe, confirmed, held.trial_end());
        let ruleset = Ruleset::of(policy, firewall.conntrack_in_use()?);
        Ok(Self { table: Table::new(firewall, ruleset), watch, held, enforcement })
    }
}

impl Loaded {
    fn attach(self) -> Result<Attached, AgentError> {
        let Self { preflight, policy, keys, key_folder, mut detector, guard } = self;
        let attached = attach(&mut detector, &policy, &preflight);
        let watcher = attached.and_then(|()| Ok(Watcher::new(detector, preflight.pins.clone())?));
        match watcher {
            Ok(watcher) => Ok(Attached { preflight, policy, keys, key_folder, watcher, guard }),
            Err(error) => {
                preflight.abandon();
                Err(error)
            }
        }
    }
}

/// Attaches to the interfaces that the policy names, and detaches from those that only the last
/// agent watched.
fn attach(
    detector: &mut Detector,
    policy: &ActivePolicy,
    preflight: &Preflight,
) -> Result<(), AgentError> {
    let present = &preflight.present;
    for interface in present.iter().filter(|interface| policy.watches(&interface.name)) {
        match watcher::attach(detector, policy, interface) {
            // The interface has gone since. The event loop notices when it comes back.
            Err(DetectorError::UnknownInterface(name)) => {
                warn!(interface = name, "went while it was being attached to; waiting for it");
            }
            result => result?,
        }
    }
    watcher::log_awaited(policy, present);
    for index in preflight.linked()? {
        let is_watched = present
            .iter()
            .any(|interface| interface.index == index && policy.watches(&interface.name));
        if !is_watched {
            detector.detach(index)?;
        }
    }
    Ok(())
}

impl Attached {
    fn install(mut self) -> Result<Started, AgentError> {
        match self.try_install() {
            Ok(()) => {
                let Self { preflight, policy, keys, key_folder, watcher, guard } = self;
                let Preflight { interfaces, state, ledger, is_first, .. } = preflight;
                let GuardBefore { table, watch: table_watch, enforcement, .. } = guard;
                Ok(Started {
                    watcher,
                    table,
                    table_watch,
                    ledger,
                    keys,
                    key_folder,
                    interfaces,
                    policy,
                    enforcement,
                    state,
                    is_first,
                })
            }
            Err(error) => {
                let Self { preflight, watcher, guard, .. } = self;
                // A table that was absent is this agent's. Ports must not stay closed that no agent
                // could open.
                if preflight.is_first && guard.held.is_absent() {
                    guard.table.remove();
                }
                drop(watcher);
                preflight.abandon();
                Err(error)
            }
        }
    }

    fn try_install(&mut self) -> Result<(), AgentError> {
        let Self { preflight, policy, watcher, guard, .. } = self;
        let Preflight { ledger, state, is_first, .. } = preflight;
        let GuardBefore { table, held, enforcement, .. } = guard;
        // First the ledger, because the table gets the grants that are in it.
        let ended = adopt(ledger, policy, held, *is_first)?;
        let completed = table.complete(held, *enforcement, ledger)?;
        if let Some(error) = &completed.made_anew {
            let grants = completed.grants.len();
            warn!(error, grants, "the table inet xknock was damaged, and was made anew");
        } else if held.is_absent() && !completed.grants.is_empty() {
            let grants = completed.grants.len();
            warn!(grants, "the table inet xknock was gone; its grants are back");
        }
        for (grant, running) in ended {
            ledger.closed(policy, grant, running);
        }
        // From here on this program is the detector, and its maps and links outlive the agent.
        watcher.settle()?;
        // After the table: a start that fails must not lose the confirmation.
        state.update(|state| state.confirmed = u32::from(enforcement.is_confirmed()))?;
        Ok(())
    }
}

impl Started {
    /// Undoes a completed start, because a step after it failed.
    pub(super) fn abandon(self) {
        let Self { watcher, table, ledger, state, is_first, .. } = self;
        if is_first {
            table.remove();
            drop((ledger, state));
            watcher.remove();
        }
    }
}

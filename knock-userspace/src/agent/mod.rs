//! The agent: turns completed knocks into grants, and keeps detector and table as the policy says.
//!
//! ```text
//! run: lock -> startup -> control socket, sandbox -> event loop -> shutdown
//!
//!             Agent, one thread
//!   watcher   the detector, its links and ring buffers
//!   ledger    grants, their record, their timers
//!   table     the nftables table, and the transaction under way
//!   keys      device keys and their sequences
//! ```
//!
//! Each of the four owns what it changes. Where two are needed, `Agent` hands one to the other.
//! The pinned state has one writer (`StateStore`), and whether the guard drops is one value
//! (`Enforcement`).

mod active_policy;
mod clock;
mod created_files;
mod enforcement;
mod error;
mod event_loop;
mod expiry_queue;
mod grants;
mod journal;
mod keys;
mod ledger;
mod reload;
mod requests;
mod sandbox;
mod shutdown;
mod startup;
mod state_store;
mod systemd;
mod table;
mod watcher;

use std::path::PathBuf;

use knock_firewall::FirewallError;
use knock_policy::{Grant, Policy};
use tokio::sync::mpsc;
use tracing::info;

use self::active_policy::ActivePolicy;
use self::created_files::CreatedFiles;
use self::enforcement::Enforcement;
pub use self::error::AgentError;
use self::event_loop::EventSources;
use self::keys::Keys;
use self::ledger::GrantLedger;
use self::startup::Started;
use self::state_store::StateStore;
use self::systemd::Systemd;
use self::table::Table;
use self::watcher::Watcher;
use crate::control_socket;
use crate::instance_paths::InstancePaths;
use crate::lock::Lock;

/// The settings that come from the command line instead of the config.
pub struct Options {
    /// The agent's folders.
    pub paths: InstancePaths,
    /// Log what the kernel program sees.
    pub trace_kernel: bool,
    /// Remove everything when the agent stops.
    pub clean: bool,
    /// Observe, even if a trial was confirmed before.
    pub observe: bool,
    /// Reads the config again. An error is the text to show.
    pub reread: Box<dyn FnMut() -> Result<Policy, String>>,
    /// The path of the config, and the path that it links to. The sandbox leaves their folders
    /// readable.
    pub config: Vec<PathBuf>,
}

/// The most control requests that wait for the event loop.
const REQUESTS: usize = 16;

/// A signal to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Stop.
    Stop,
    /// Read the config again.
    Reload,
}

/// Guards the doors of `policy` until a signal or a request says stop. Calls `on_ready` once
/// everything is in place.
///
/// # Errors
///
/// If start-up fails, or an event source breaks. Where no agent ran before, a failed start-up
/// leaves nothing behind but the folder of keys and, if there is a key, the replay store. Elsewhere
/// it leaves the ports as they were if it fails before the table is in place, and the new table and
/// program if it fails after.
pub async fn run(
    policy: Policy,
    options: Options,
    on_ready: impl FnOnce(),
    signals: mpsc::Receiver<Signal>,
) -> Result<(), AgentError> {
    let lock = Lock::take(&options.paths)?;
    // Before anything is made: a failed start removes only what was absent here.
    let created = CreatedFiles::before_start(&policy.keys, &options.paths);
    let (running, control, inbox) = match start(policy, &options).await {
        Ok(started) => started,
        Err(error) => {
            created.remove();
            lock.remove(&options.paths);
            return Err(error);
        }
    };
    let mut agent = Agent::new(running, options, inbox, signals);
    info!(
        interfaces = agent.policy.interfaces.join(","),
        mode = %agent.policy.mode,
        doors = agent.policy.doors.len(),
        grants = agent.ledger.len(),
        "ready"
    );
    // After the table, because a grant must not be closed in the log while its port is open.
    agent.ledger.set_all_timers(clock::since_boot());
    agent.systemd.ready();
    on_ready();
    let result = agent.serve().await;
    // Answers first: the caller of `off` must get one before the socket is removed.
    control.end().await;
    agent.shut_down(lock).await;
    result
}

/// Starts everything, and then gives up what a running agent does not need.
async fn start(
    policy: Policy,
    options: &Options,
) -> Result<(Started, control_socket::Server, control_socket::Inbox), AgentError> {
    let running = startup::start(policy, options).await?;
    let (outbox, inbox) = mpsc::channel(REQUESTS);
    let opened = control_socket::serve(&options.paths.socket(), outbox)
        .map_err(AgentError::from)
        .and_then(|control| {
            sandbox::enter(options, &running.policy)?;
            Ok(control)
        });
    match opened {
        Ok(control) => Ok((running, control, inbox)),
        Err(error) => {
            running.abandon();
            Err(error)
        }
    }
}

/// The running agent.
struct Agent {
    sources: EventSources,
    watcher: Watcher,
    ledger: GrantLedger,
    table: Table,
    keys: Keys,
    policy: ActivePolicy,
    enforcement: Enforcement,
    state: StateStore,
    options: Options,
    systemd: Systemd,
    /// Whether a request asked to remove everything.
    off: bool,
}

impl Agent {
    fn new(
        running: Started,
        options: Options,
        inbox: control_socket::Inbox,
        signals: mpsc::Receiver<Signal>,
    ) -> Self {
        let Started {
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
            ..
        } = running;
        Self {
            sources: EventSources { key_folder, table_watch, interfaces, inbox, signals },
            watcher,
            ledger,
            table,
            keys,
            policy,
            enforcement,
            state,
            options,
            systemd: Systemd::new(),
            off: false,
        }
    }

    /// Ends grants before their time.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    async fn revoke(&mut self, grants: &[Grant]) -> Result<(), FirewallError> {
        self.table.revoke(grants, &self.policy, &mut self.ledger).await
    }

    /// Waits until every earned grant is in the table.
    async fn drain_pending(&mut self) {
        self.table.drain_pending(&self.policy, &mut self.ledger).await;
    }
}

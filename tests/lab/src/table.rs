//! Changes of the agent's table, as they happen.

use std::time::{Duration, Instant};

use knock_firewall::Watch;
use tokio::runtime::{Builder, Runtime};

use crate::netns::Netns;
use crate::process::patience;

/// A subscription to all changes of the table `inet xknock` of one host. The kernel does not
/// announce elements that expire.
#[derive(Debug)]
pub struct Changes {
    watch: Watch,
    runtime: Runtime,
}

impl Changes {
    /// Subscribes from now on.
    ///
    /// # Panics
    ///
    /// Without root, or without nf_tables.
    pub fn of(netns: &Netns) -> Self {
        netns.run(|| {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            let watch = runtime.block_on(async { Watch::open(0) }).expect("nf_tables");
            Self { watch, runtime }
        })
    }

    /// Waits for the end of the next transaction for at most `limit`. Returns whether there was
    /// one.
    ///
    /// # Panics
    ///
    /// If the socket fails.
    pub fn next(&mut self, limit: Duration) -> bool {
        let Self { watch, runtime } = self;
        let changed = async { tokio::time::timeout(limit, watch.changed()).await };
        match runtime.block_on(changed) {
            Ok(change) => change.map(|_| true).expect("the socket works"),
            Err(_) => false,
        }
    }
}

/// Waits until `condition` holds for the table in `netns`, as long as the table goes on changing.
///
/// # Panics
///
/// If it does not change within [`patience`].
pub fn await_table(netns: &Netns, what: &str, mut condition: impl FnMut() -> bool) {
    let mut changes = Changes::of(netns);
    let begun = Instant::now();
    while !condition() {
        assert!(changes.next(patience()), "no {what} after {:?}", begun.elapsed());
    }
}

//! The agent's table, and every change of it as it happens.

use std::time::{Duration, Instant};

use knock_firewall::Watch;
use tokio::runtime::{Builder, Runtime};

use crate::netns::Netns;
use crate::process::patience;

/// Hears of the changes that anybody makes to the table `inet xknock` of one host. Of elements
/// whose time is over the kernel tells nobody.
#[derive(Debug)]
pub struct Changes {
    watch: Watch,
    runtime: Runtime,
}

impl Changes {
    /// Listens from now on.
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

    /// Waits for the end of the next transaction, for at most `limit`; whether there was one.
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

/// Waits until `condition` holds of the table on `netns`, for as long as it goes on changing.
///
/// # Panics
///
/// If it does not change for as long as anything may take here.
pub fn await_table(netns: &Netns, what: &str, mut condition: impl FnMut() -> bool) {
    let mut changes = Changes::of(netns);
    let begun = Instant::now();
    while !condition() {
        assert!(changes.next(patience()), "no {what} after {:?}", begun.elapsed());
    }
}

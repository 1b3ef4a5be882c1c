//! The log: text on a terminal, entries of the journal under systemd, JSON lines everywhere else.

use std::io::{IsTerminal as _, stderr};
use std::os::linux::fs::MetadataExt as _;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging. `RUST_LOG` chooses the level, which is `info` without it.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    if stderr().is_terminal() {
        registry.with(fmt::layer().with_target(false).with_writer(stderr)).init();
    } else if let Some(journal) = journal() {
        registry.with(journal).init();
    } else {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(stderr)).init();
    }
}

/// Returns the journal if standard error is connected to it (systemd.exec(5), `JOURNAL_STREAM`).
fn journal() -> Option<tracing_journald::Layer> {
    let stream = std::env::var("JOURNAL_STREAM").ok()?;
    let metadata = std::fs::metadata("/proc/self/fd/2").ok()?;
    if stream != format!("{}:{}", metadata.st_dev(), metadata.st_ino()) {
        return None;
    }
    tracing_journald::layer().ok()
}

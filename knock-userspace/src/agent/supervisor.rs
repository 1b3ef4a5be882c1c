//! What systemd is told, if it started the agent (sd_notify(3)). Nothing happens elsewhere.

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::warn;

pub(super) struct Supervisor {
    watchdog: Option<Interval>,
}

impl Supervisor {
    pub(super) fn new() -> Self {
        // Half of what the supervisor allows, as its manual advises.
        let watchdog =
            sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()).map(|limit| {
                let mut watchdog = interval(limit / 2);
                watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
                watchdog
            });
        Self { watchdog }
    }

    pub(super) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    pub(super) fn reloading(&self) {
        // `Type=notify-reload` wants to know when it began.
        let now = NotifyState::monotonic_usec_now();
        match now {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// Tells that the event loop goes round, each time it is due; for ever nothing where nobody
    /// wants to know.
    pub(super) async fn watchdog(&mut self) {
        match &mut self.watchdog {
            Some(watchdog) => {
                watchdog.tick().await;
                tell(&[NotifyState::Watchdog]);
            }
            None => std::future::pending().await,
        }
    }
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        warn!(%error, "the supervisor cannot be told");
    }
}

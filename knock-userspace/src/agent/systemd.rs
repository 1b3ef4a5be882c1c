//! Notifications to systemd, if it started the agent (sd_notify(3)). Otherwise this module does
//! nothing.

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::warn;

pub(super) struct Systemd {
    watchdog: Option<Interval>,
}

impl Systemd {
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
        notify(&[NotifyState::Ready]);
    }

    pub(super) fn reloading(&self) {
        // `Type=notify-reload` needs the time at which the reload began.
        let now = NotifyState::monotonic_usec_now();
        match now {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(_) => notify(&[NotifyState::Reloading]),
        }
    }

    pub(super) fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }

    /// Waits until the watchdog is due, and notifies it that the event loop runs. Waits without end
    /// if no watchdog is set. Cancel safe.
    pub(super) async fn watchdog(&mut self) {
        match &mut self.watchdog {
            Some(watchdog) => {
                watchdog.tick().await;
                notify(&[NotifyState::Watchdog]);
            }
            None => std::future::pending().await,
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "systemd cannot be notified");
    }
}

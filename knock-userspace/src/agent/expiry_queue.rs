//! The timers of running grants.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use knock_policy::Grant;
use tokio_util::time::{DelayQueue, delay_queue};

/// A queue with at most one timer for each grant.
#[derive(Default)]
pub(super) struct ExpiryQueue {
    queue: DelayQueue<Grant>,
    timers: HashMap<Grant, delay_queue::Key>,
}

impl ExpiryQueue {
    /// Sets a grant's timer to go off after `left`, in place of the time that it was set to before.
    pub(super) fn set(&mut self, grant: Grant, left: Duration) {
        match self.timers.get(&grant) {
            Some(timer) => self.queue.reset(timer, left),
            None => _ = self.timers.insert(grant, self.queue.insert(grant, left)),
        }
    }

    /// Removes a grant's timer, if it has one.
    pub(super) fn remove(&mut self, grant: &Grant) {
        if let Some(timer) = self.timers.remove(grant) {
            self.queue.remove(&timer);
        }
    }

    /// Waits for the next timer that goes off, and returns its grant. Cancel safe: a timer that is
    /// not returned stays.
    pub(super) async fn next(&mut self) -> Grant {
        match self.queue.next().await {
            Some(expired) => {
                let grant = expired.into_inner();
                self.timers.remove(&grant);
                grant
            }
            // An empty queue ends its stream, and the loop asks again on each turn.
            None => std::future::pending().await,
        }
    }
}

//! The fence: asked right before each call that only the leader may make.
//!
//! It looks at the clocks itself, so that a process which slept through the end of its Lease (SIGSTOP, a paused
//! machine) finds it shut before anything else of it has noticed.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{DURATION, RENEW_DEADLINE};
use crate::clock::Clock;

/// Shut until the Lease is held. Clones are the same fence.
#[derive(Clone, Debug)]
pub struct Fence {
    clock: Clock,
    renewed: Arc<Mutex<Option<Renewal>>>,
}

/// When the newest renewal that succeeded was begun: it counts from there.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    at: Instant,
    /// A machine that was suspended may have stopped its monotonic clock meanwhile.
    wall: Timestamp,
}

impl Fence {
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            renewed: Arc::default(),
        }
    }

    /// Something new may be begun: a session, a JIT request, a pod.
    pub fn is_open(&self) -> bool {
        self.is_renewed_within(RENEW_DEADLINE)
    }

    /// Nobody else can lead yet: what was begun may go on.
    pub fn holds(&self) -> bool {
        self.is_renewed_within(DURATION)
    }

    fn is_renewed_within(&self, limit: std::time::Duration) -> bool {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.is_some_and(|renewal| {
            let elapsed = self.clock.instant().saturating_duration_since(renewal.at);
            elapsed.max(self.clock.since(renewal.wall)) < limit
        })
    }

    /// The two clocks as they are now, for [`Self::renewed`] later.
    pub(super) fn begin(&self) -> (Instant, Timestamp) {
        (self.clock.instant(), self.clock.now())
    }

    pub(super) fn renewed(&self, (at, wall): (Instant, Timestamp)) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Renewal { at, wall });
    }

    pub(super) fn shut(&self) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn b42_it_shuts_by_itself_when_nobody_renews() {
        let fence = Fence::new(Clock::simulated("2026-11-23T00:00:00Z".parse().unwrap()));
        assert!(!fence.is_open() && !fence.holds());
        fence.renewed(fence.begin());
        for (seconds, open, holds) in [(0, true, true), (6, true, true), (1, false, true), (3, false, false)] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!((fence.is_open(), fence.holds()), (open, holds), "after {seconds} more");
        }
        fence.renewed(fence.begin());
        assert!(fence.is_open());
        fence.shut();
        assert!(!fence.is_open() && !fence.holds());
    }

    #[tokio::test(start_paused = true)]
    async fn b42_a_machine_that_was_suspended_finds_it_shut() {
        let fence = Fence::new(Clock::simulated("2026-11-23T00:00:00Z".parse().unwrap()));
        let (at, wall) = fence.begin();
        // The monotonic clock stood still for half a minute.
        fence.renewed((at, wall - Duration::from_secs(30)));
        assert!(!fence.is_open() && !fence.holds());
    }
}

//! The control loop's sign of life, written by the loop and read by `/livez`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::clock::Clock;

/// When the loop last moved. It counts as alive at its making.
#[derive(Debug)]
pub struct Heartbeat {
    clock: Clock,
    origin: Instant,
    /// Milliseconds from `origin` to the last beat.
    last: AtomicU64,
}

impl Heartbeat {
    pub fn new(clock: &Clock) -> Self {
        Self {
            clock: clock.clone(),
            origin: clock.instant(),
            last: AtomicU64::new(0),
        }
    }

    /// Only the loop itself calls this, once a turn.
    pub fn beat(&self) {
        self.last.store(self.elapsed(), Ordering::Relaxed);
    }

    /// Since the last beat.
    pub fn age(&self) -> Duration {
        let last = self.last.load(Ordering::Relaxed);
        Duration::from_millis(self.elapsed().saturating_sub(last))
    }

    fn elapsed(&self) -> u64 {
        let elapsed = self.clock.instant().saturating_duration_since(self.origin);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }
}

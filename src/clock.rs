//! Time, handed in.
//!
//! Every part of the daemon asks this struct for the time, so that the simulation can run hours of
//! operation in milliseconds: there the wall clock is derived from tokio's (paused) clock.
//! `tokio::time::sleep` and friends need no seam of their own; they follow tokio's clock already.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

/// Monotonic and wall time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    System,
    Simulated {
        base: Timestamp,
        origin: Instant,
        /// Seconds that somebody has set it forward.
        stepped: Arc<AtomicI64>,
    },
}

impl Clock {
    /// The machine's own clock.
    pub fn system() -> Self {
        Self { kind: Kind::System }
    }

    /// A wall clock that reads `base` now and then follows tokio's clock, paused or not.
    pub fn simulated(base: Timestamp) -> Self {
        Self {
            kind: Kind::Simulated {
                base,
                origin: Instant::now(),
                stepped: Arc::default(),
            },
        }
    }

    /// A clock that is so many seconds ahead of this one: another machine's. The machine's own clock stays as it is.
    #[must_use]
    pub fn ahead(&self, seconds: i64) -> Self {
        let kind = match &self.kind {
            Kind::System => Kind::System,
            Kind::Simulated { base, origin, .. } => Kind::Simulated {
                base: *base + jiff::SignedDuration::from_secs(seconds),
                origin: *origin,
                stepped: Arc::default(),
            },
        };
        Self { kind }
    }

    /// Sets this wall clock, and all its clones, forward or back. The machine's own clock stays as it is.
    pub fn step(&self, seconds: i64) {
        if let Kind::Simulated { stepped, .. } = &self.kind {
            stepped.fetch_add(seconds, Ordering::Relaxed);
        }
    }

    /// Wall time, for what leaves the process: tokens, annotations, logs.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the real wall clock")]
    pub fn now(&self) -> Timestamp {
        match &self.kind {
            Kind::System => Timestamp::now(),
            Kind::Simulated { base, origin, stepped } => {
                let stepped = jiff::SignedDuration::from_secs(stepped.load(Ordering::Relaxed));
                *base + stepped + origin.elapsed()
            }
        }
    }

    /// Monotonic time, for everything that is measured or awaited inside the process.
    pub fn instant(&self) -> Instant {
        Instant::now()
    }

    /// How long ago `then` was; zero if it lies in the future (clocks of peers differ).
    pub fn since(&self, then: Timestamp) -> Duration {
        Duration::try_from(self.now().duration_since(then)).unwrap_or(Duration::ZERO)
    }
}

//! Whether a server that keeps failing is asked at all: a state machine with instants handed in.
//!
//! After five failures in a row it opens; then one call every 30 s passes as a probe, until one succeeds.
//! A probe whose outcome never comes costs nothing: the next one is due 30 s after it all the same.
//!
//! What counts as a failure is the caller's judgement: a refusal is an answer, and a server that answers lives.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::clock::Clock;

/// Failures in a row that open it.
pub const FAILURES_TO_OPEN: u32 = 5;
/// One probe per this time while open.
pub const PROBE_EVERY: Duration = Duration::from_secs(30);

/// Whether a call may go out now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Go,
    /// The one call that finds out whether the server is back.
    Probe,
    /// The server is left alone; the next probe is due then.
    Wait(Instant),
}

/// The breaker of one server. Starts closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
    /// Set while open.
    next_probe: Option<Instant>,
}

impl Breaker {
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for one call, and takes the probe if one is due.
    pub fn admit(&mut self, now: Instant) -> Admission {
        match self.next_probe {
            None => Admission::Go,
            Some(at) if now < at => Admission::Wait(at),
            Some(_) => {
                self.next_probe = Some(now + PROBE_EVERY);
                Admission::Probe
            }
        }
    }

    /// The server answered.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// The server failed or could not be reached. Failures of calls sent before it opened move no probe.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_TO_OPEN && self.next_probe.is_none() {
            self.next_probe = Some(now + PROBE_EVERY);
        }
    }

    pub fn is_open(&self) -> bool {
        self.next_probe.is_some()
    }
}

/// One breaker for all who call its server. Clones are the same one.
#[derive(Clone, Debug)]
pub struct SharedBreaker {
    breaker: Arc<Mutex<Breaker>>,
    clock: Clock,
}

impl SharedBreaker {
    pub fn new(clock: Clock) -> Self {
        Self {
            breaker: Arc::default(),
            clock,
        }
    }

    /// Whether one call may go out now, if only as a probe.
    pub fn admits(&self) -> bool {
        let now = self.clock.instant();
        !matches!(self.with(|breaker| breaker.admit(now)), Admission::Wait(_))
    }

    /// What a call came to.
    pub fn report(&self, lives: bool) {
        let now = self.clock.instant();
        let (was, is) = self.with(|breaker| {
            let was = breaker.is_open();
            if lives {
                breaker.succeeded();
            } else {
                breaker.failed(now);
            }
            (was, breaker.is_open())
        });
        match (was, is) {
            (false, true) => {
                tracing::warn!("a server keeps failing: what can wait waits, but for one probe every 30 s");
            }
            (true, false) => tracing::info!("the server answers again"),
            _ => {}
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Breaker) -> T) -> T {
        act(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new();
        for _ in 0..FAILURES_TO_OPEN {
            breaker.failed(now);
        }
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn b20_five_failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        for _ in 0..FAILURES_TO_OPEN - 1 {
            breaker.failed(now);
        }
        breaker.succeeded();
        for _ in 0..FAILURES_TO_OPEN - 1 {
            breaker.failed(now);
            assert_eq!(breaker.admit(now), Admission::Go);
        }
        breaker.failed(now);
        assert!(breaker.is_open());
        assert_eq!(breaker.admit(now), Admission::Wait(now + PROBE_EVERY));
    }

    #[tokio::test(start_paused = true)]
    async fn b20_while_open_one_probe_passes_every_30_seconds_until_one_succeeds() {
        let start = Instant::now();
        let mut breaker = opened(start);
        let mut probes = 0;
        for second in 1..=95 {
            let now = start + Duration::from_secs(second);
            match breaker.admit(now) {
                Admission::Probe => {
                    probes += 1;
                    breaker.failed(now);
                }
                Admission::Wait(at) => assert!(at > now),
                Admission::Go => panic!("open breaker let a call through at {second} s"),
            }
        }
        assert_eq!(probes, 3);
        let now = start + Duration::from_secs(200);
        assert_eq!(breaker.admit(now), Admission::Probe);
        breaker.succeeded();
        assert_eq!(breaker.admit(now), Admission::Go);
    }

    #[tokio::test(start_paused = true)]
    async fn b20_late_failures_move_no_probe() {
        let start = Instant::now();
        let mut breaker = opened(start);
        breaker.failed(start + Duration::from_secs(29));
        assert_eq!(breaker.admit(start + PROBE_EVERY), Admission::Probe);
    }
}

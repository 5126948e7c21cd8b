//! Whether a server that keeps failing is asked at all: a state machine with instants handed in.
//!
//! After five failures in a row it opens; then one call every 30 s passes as a probe, until one succeeds.
//! A probe whose outcome never comes costs nothing: the next one is due 30 s after it all the same.
//!
//! A server that stands still is kept so by those who ask: it opens after two such failures, and the probes become
//! rare, down to one in five minutes.
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
/// The same, of calls that stood in line for as long as the server could want.
pub const STALLS_TO_OPEN: u32 = 2;
/// One probe per this time while open.
pub const PROBE_EVERY: Duration = Duration::from_secs(30);
/// Where probes stall as well, this long at most.
pub const PROBE_SELDOM: Duration = Duration::from_mins(5);

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server answered, if only to refuse.
    Answered,
    /// It failed, or could not be reached.
    Failed,
    /// Nothing came back for so long that it stands still. When the call began.
    Stalled(Instant),
}

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
    stalls: u32,
    /// Set while open.
    next_probe: Option<Instant>,
    /// Between probes; grows while they stall.
    pause: Duration,
    /// When it was last seen to stand still: calls that were under way then tell nothing new.
    stalled: Option<Instant>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: 0,
            stalls: 0,
            next_probe: None,
            pause: PROBE_EVERY,
            stalled: None,
        }
    }
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
                self.next_probe = Some(now + self.pause);
                Admission::Probe
            }
        }
    }

    /// A call goes out that does not ask for admission. To a server that stands still it is the probe.
    pub fn tried(&mut self, now: Instant) {
        if let (Some(at), Some(_)) = (self.next_probe, self.stalled) {
            self.next_probe = Some(at.max(now + self.pause));
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

    /// A call that began at `began` found that the server stands still.
    pub fn stalled(&mut self, now: Instant, began: Instant) {
        let is_news = self.stalled.is_none_or(|known| began >= known);
        self.stalls = self.stalls.saturating_add(1);
        match self.next_probe {
            Some(_) if is_news => {
                self.pause = (self.pause * 2).min(PROBE_SELDOM);
                self.next_probe = Some(now + self.pause);
            }
            None if self.stalls >= STALLS_TO_OPEN => self.next_probe = Some(now + self.pause),
            _ => {}
        }
        if is_news {
            self.stalled = Some(now);
        }
        self.failed(now);
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

    /// For calls that are told of when they end.
    pub fn now(&self) -> Instant {
        self.clock.instant()
    }

    /// Whether one call may go out now, if only as a probe.
    pub fn admits(&self) -> bool {
        let now = self.clock.instant();
        !matches!(self.with(|breaker| breaker.admit(now)), Admission::Wait(_))
    }

    /// A call goes out unasked.
    pub fn tried(&self) {
        let now = self.clock.instant();
        self.with(|breaker| breaker.tried(now));
    }

    /// What a call came to.
    pub fn report(&self, outcome: Outcome) {
        let now = self.clock.instant();
        let (was, is) = self.with(|breaker| {
            let was = breaker.is_open();
            match outcome {
                Outcome::Answered => breaker.succeeded(),
                Outcome::Failed => breaker.failed(now),
                Outcome::Stalled(began) => breaker.stalled(now, began),
            }
            (was, breaker.is_open())
        });
        match (was, is) {
            (false, true) => {
                tracing::warn!("a server keeps failing: what can wait waits, but for one probe every 30 s or more");
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
    async fn b20_a_server_that_stands_still_is_probed_ever_more_rarely_until_it_moves() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut breaker = Breaker::new();
        breaker.stalled(at(45), at(0));
        assert!(!breaker.is_open(), "it may have been this call alone");
        breaker.stalled(at(45), at(1));
        let mut probes = Vec::new();
        for second in 46..=1500 {
            if breaker.admit(at(second)) == Admission::Probe {
                probes.push(second);
                // Given up after 45 s.
                breaker.stalled(at(second + 45), at(second));
            }
        }
        assert_eq!(probes, [75, 180, 345, 630, 975, 1320]);
        breaker.succeeded();
        for secs in [2000, 2001] {
            breaker.stalled(at(secs), at(secs - 45));
        }
        assert_eq!(breaker.admit(at(2030)), Admission::Wait(at(2031)), "from the beginning");
    }

    #[tokio::test(start_paused = true)]
    async fn b20_calls_that_stall_together_are_one_stall() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut breaker = Breaker::new();
        for second in 45..49 {
            breaker.stalled(at(second), at(second - 45));
        }
        assert_eq!(breaker.admit(at(75)), Admission::Wait(at(76)));
        breaker.tried(at(70));
        assert_eq!(
            breaker.admit(at(99)),
            Admission::Wait(at(100)),
            "one call at a time finds out"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn b20_late_failures_move_no_probe() {
        let start = Instant::now();
        let mut breaker = opened(start);
        breaker.failed(start + Duration::from_secs(29));
        assert_eq!(breaker.admit(start + PROBE_EVERY), Admission::Probe);
    }
}

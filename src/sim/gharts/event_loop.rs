//! The service's one event loop and its pool of database connections: what makes the real service slow, and
//! what makes it stand still.
//!
//! Two things were measured. Every connection to a peer keeps the loop busy for 70 to 130 ms, so that a JIT call,
//! which opens three, takes a third of a second of everybody's time. And a call keeps its database connection
//! while it waits for GitHub; the call that finds none left waits for one *on the loop*, 30 s, during which nobody
//! can give one back: the whole service stands still. When it moves again that call has failed, and so has
//! whatever waited for a peer past its deadline.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::refusal::Refusal;
use crate::http::TransportError;

/// How long a call waits for a connection, and everybody with it.
const CHECKOUT: Duration = Duration::from_secs(30);
/// How late at most a loop with work waiting finds the issuer's answer: so late that in a long freeze about a
/// fifth of those who come too many wait for keys when it begins, as in the recordings.
const LATE: Duration = Duration::from_millis(160);
/// Connections to peers that one JIT call opens: keys, installation token, configuration.
const CONNECTIONS: u32 = 3;

/// How long calls take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Latency {
    #[default]
    None,
    /// One event loop: each JIT call keeps it busy for a while, other calls in proportion to the connections that
    /// they open, and the next one waits.
    Serialised {
        least: Duration,
        most: Duration,
        /// GitHub's own time for a runner, which keeps nobody else waiting.
        github: Duration,
    },
}

impl Latency {
    /// As measured: 2.4 to 4 calls a second, whatever the parallelism.
    pub const RECORDED: Self = Self::Serialised {
        least: Duration::from_millis(250),
        most: Duration::from_millis(400),
        github: Duration::from_millis(300),
    };
}

#[derive(Clone, Debug)]
pub(super) struct EventLoop {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    latency: Latency,
    /// When the work that is queued now will be done.
    free_at: Instant,
    still_until: Instant,
    /// How long it has stood still in all, with what is left of the last time.
    stood: Duration,
    /// None: connections never run out.
    pool: Option<u32>,
    checked_out: u32,
}

/// A database connection, given back when dropped.
#[derive(Debug)]
pub(super) struct Connection(EventLoop);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.lock().checked_out -= 1;
    }
}

impl EventLoop {
    pub(super) fn new(seed: u64, latency: Latency) -> Self {
        let now = Instant::now();
        Self {
            state: Arc::new(Mutex::new(State {
                rng: fastrand::Rng::with_seed(seed),
                latency,
                free_at: now,
                still_until: now,
                stood: Duration::ZERO,
                pool: None,
                checked_out: 0,
            })),
        }
    }

    pub(super) fn set_latency(&self, latency: Latency) {
        self.lock().latency = latency;
    }

    pub(super) fn set_pool(&self, pool: Option<u32>) {
        self.lock().pool = pool;
    }

    /// Stands still from now on, after what it stands still for already.
    pub(super) fn freeze(&self, time: Duration) {
        let now = Instant::now();
        let mut state = self.lock();
        state.still_until = state.still_until.max(now) + time;
        state.free_at = state.free_at.max(now) + time;
        state.stood += time;
    }

    pub(super) fn stood_still(&self) -> Duration {
        self.lock().stood
    }

    /// Until the loop runs.
    pub(super) async fn awake(&self) {
        let (until, stood) = {
            let state = self.lock();
            (state.still_until, state.stood)
        };
        self.reach(until, stood).await;
    }

    /// Opens a connection to a peer: keeps the loop busy, after whoever came before.
    pub(super) async fn open(&self) {
        let (until, stood) = {
            let mut state = self.lock();
            if let Latency::Serialised { least, most, .. } = state.latency {
                let spread = state.rng.f64();
                let busy = (least + most.saturating_sub(least).mul_f64(spread)) / CONNECTIONS;
                state.free_at = state.free_at.max(Instant::now()) + busy;
                (state.free_at, state.stood)
            } else {
                (state.still_until, state.stood)
            }
        };
        self.reach(until, stood).await;
    }

    /// Waits for a peer. An answer that came while the loop stood still past the deadline is found too late.
    pub(super) async fn wait<T>(
        &self,
        deadline: Duration,
        peer: &str,
        call: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, TransportError> {
        let (begun, stood) = (Instant::now(), self.stood_still());
        let answer = call.await;
        self.awake().await;
        if self.stood_still() > stood && begun.elapsed() > deadline {
            return Err(TransportError::Timeout {
                peer: peer.to_owned(),
                deadline,
            });
        }
        answer
    }

    /// The way to the issuer's keys: no way at all, but a busy loop finds the answer late.
    pub(super) async fn round_trip(&self) {
        let late = {
            let mut state = self.lock();
            let waiting = state.free_at.saturating_duration_since(Instant::now());
            waiting.min(LATE).mul_f64(state.rng.f64())
        };
        tokio::time::sleep(late).await;
    }

    /// What GitHub takes for a runner.
    pub(super) async fn github(&self) {
        let latency = self.lock().latency;
        if let Latency::Serialised { github, .. } = latency {
            tokio::time::sleep(github).await;
        }
    }

    /// A database connection. With none left everything stands still, and then there is still none.
    pub(super) async fn connection(&self) -> Result<Connection, Refusal> {
        {
            let mut state = self.lock();
            if state.pool.is_none_or(|pool| state.checked_out < pool) {
                state.checked_out += 1;
                return Ok(Connection(self.clone()));
            }
        }
        self.freeze(CHECKOUT);
        self.awake().await;
        Err(Refusal::Internal)
    }

    /// Until `moment`, which was right when the loop had stood still for `stood`; standing still puts it off.
    async fn reach(&self, moment: Instant, stood: Duration) {
        let mut due = moment;
        loop {
            sleep_until(due).await;
            let later = moment + self.stood_still().saturating_sub(stood);
            if later <= due {
                return;
            }
            due = later;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

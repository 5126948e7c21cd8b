//! The gate in front of one destination: calls in flight, calls per second, and who is next.
//!
//! Removals come before creations, words for people come last, and within each the scale sets take turns, so that
//! one set's backlog delays no other. Whoever waits holds nothing; a waiter that is dropped leaves no hole, and a
//! permit given to one that is dropped at that moment goes to the next.
//!
//! There is no task behind it. Each change (a new waiter, a permit back, a new bound) admits whoever may
//! pass. Only when the token bucket alone stands in the way does somebody have to come back at a certain
//! time: one of the waiters keeps that time for all, and hands the office on when it leaves.
//!
//! `governor`'s own `until_ready` sleeps outside tokio's time, so only its `check` is used, with a clock of ours.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::Clock as GovernorClock,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use tokio::{sync::Notify, time::Instant};

use crate::{clock::Clock, config::Limits, ids::SetName};

/// What a call does. Removals give capacity back, so they never wait behind creations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    Remove,
    Create,
    /// Words for people: after everything else.
    Tell,
}

/// How busy a gate is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub in_flight: u32,
    pub waiting: usize,
}

/// One gate per destination. Cheap to clone; clones are the same gate.
#[derive(Clone)]
pub struct Gate {
    inner: Arc<Inner>,
}

/// One call may be in flight as long as this lives.
#[must_use = "the call is admitted only as long as the permit lives"]
pub struct Permit {
    inner: Arc<Inner>,
    urgency: Urgency,
}

struct Inner {
    clock: Clock,
    max_in_flight: Option<u32>,
    bucket: Option<Bucket>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    in_flight: u32,
    creates_in_flight: u32,
    create_limit: Option<u32>,
    removes: Lane,
    creates: Lane,
    words: Lane,
    /// The server's own word: nobody passes before, and no creation before the other.
    held_until: Option<Instant>,
    creates_held_until: Option<Instant>,
    /// No creation has passed since that word: it is tried before it waits for another one.
    create_untried: bool,
    /// Who comes back when the bucket has a token again.
    timekeeper: Option<Ticket>,
    last_ticket: Ticket,
}

type Ticket = u64;
type Bucket = RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Duration>>;

/// Whose turn it is.
enum Next {
    Nobody,
    /// All that wait are held, the first one until then.
    Held(Instant),
    May(Urgency),
}

/// Why nobody else was admitted.
enum Stopped {
    /// Nobody waits whom the bounds permit.
    Settled,
    /// Somebody could pass at that time.
    Rate(Instant),
}

impl Gate {
    /// No limits: every call passes at once, and is counted.
    pub fn new(limits: Option<&Limits>, clock: Clock) -> Self {
        let bucket = limits.and_then(|l| bucket(l, &clock));
        Self {
            inner: Arc::new(Inner {
                max_in_flight: limits.map(|l| l.max_in_flight.max(1)),
                bucket,
                clock,
                state: Mutex::default(),
            }),
        }
    }

    /// Waits for the turn of one call of `set`. Dropping the future leaves the queue.
    pub async fn enter(&self, urgency: Urgency, set: &SetName) -> Permit {
        let place = Place::join(&self.inner, urgency, set);
        loop {
            match place.step() {
                Step::Admitted => return place.into_permit(),
                Step::KeepTime(at) => {
                    tokio::select! {
                        biased;
                        () = place.wake.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                Step::Wait => place.wake.notified().await,
            }
        }
    }

    /// Bounds the creations in flight beside the gate's own bound: after a refusal one at a time finds out
    /// as much as four. `None` lifts it. Calls in flight are not affected.
    pub fn set_create_limit(&self, limit: Option<u32>) {
        let mut state = self.inner.lock();
        state.create_limit = limit;
        self.inner.settle(&mut state);
    }

    /// Lets nobody pass for so long: the server said when to come back. Calls in flight are not affected. What refuses
    /// removals alone must not lock creations out: one is let pass between two such words.
    pub fn hold(&self, pause: Duration) {
        let until = Some(self.inner.clock.instant() + pause);
        let mut state = self.inner.lock();
        state.held_until = state.held_until.max(until);
        if !state.create_untried {
            state.creates_held_until = state.creates_held_until.max(until);
            state.create_untried = true;
        }
    }

    pub fn load(&self) -> Load {
        let state = self.inner.lock();
        Load {
            in_flight: state.in_flight,
            waiting: state.removes.len() + state.creates.len() + state.words.len(),
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits whoever may pass now, and sees to it that somebody keeps the time if time is all it takes.
    fn settle(&self, state: &mut State) {
        if let Stopped::Rate(_) = self.admit(state) {
            state.appoint();
        }
    }

    /// Admits whoever may pass now, best first.
    fn admit(&self, state: &mut State) -> Stopped {
        loop {
            if self.max_in_flight.is_some_and(|max| state.in_flight >= max) {
                return Stopped::Settled;
            }
            let urgency = match state.next_urgency(self.clock.instant()) {
                Next::Nobody => return Stopped::Settled,
                Next::Held(at) => return Stopped::Rate(at),
                Next::May(urgency) => urgency,
            };
            if let Some(at) = self.bucket.as_ref().and_then(|b| self.token_due(b)) {
                return Stopped::Rate(at);
            }
            if let Some(waiter) = state.lane(urgency).take_next() {
                state.in_flight += 1;
                if urgency == Urgency::Create {
                    state.creates_in_flight += 1;
                    state.create_untried = false;
                }
                if state.timekeeper == Some(waiter.ticket) {
                    state.timekeeper = None;
                }
                waiter.wake.notify_one();
            }
        }
    }

    /// Takes a token, or says when there will be one.
    fn token_due(&self, bucket: &Bucket) -> Option<Instant> {
        use governor::clock::Clock as _;
        let not_until = bucket.check().err()?;
        let wait = not_until.wait_time_from(bucket.clock().now());
        Some(self.clock.instant() + wait)
    }

    fn leave(&self, state: &mut State, urgency: Urgency) {
        state.in_flight = state.in_flight.saturating_sub(1);
        if urgency == Urgency::Create {
            state.creates_in_flight = state.creates_in_flight.saturating_sub(1);
        }
        self.settle(state);
    }
}

impl State {
    /// Lanes in which somebody waits whom the bounds on its kind permit, best first.
    fn waiting(&self) -> impl Iterator<Item = Urgency> {
        let creates = !self.creates.is_empty() && self.create_limit.is_none_or(|limit| self.creates_in_flight < limit);
        let lanes = [
            (Urgency::Remove, !self.removes.is_empty()),
            (Urgency::Create, creates),
            (Urgency::Tell, !self.words.is_empty()),
        ];
        lanes
            .into_iter()
            .filter_map(|(urgency, waits)| waits.then_some(urgency))
    }

    fn next_urgency(&self, now: Instant) -> Next {
        let held = |urgency: Urgency| {
            let until = match urgency {
                Urgency::Create => self.creates_held_until,
                Urgency::Remove | Urgency::Tell => self.held_until,
            };
            until.filter(|at| *at > now)
        };
        let next = self.waiting().find(|urgency| held(*urgency).is_none()).map(Next::May);
        let first = || self.waiting().filter_map(held).min().map(Next::Held);
        next.or_else(first).unwrap_or(Next::Nobody)
    }

    /// Wakes who is next, unless somebody keeps the time already: waking, it takes the office.
    fn appoint(&mut self) {
        if self.timekeeper.is_some() {
            return;
        }
        let first = self.waiting().next();
        if let Some(urgency) = first {
            self.lane(urgency).wake_first();
        }
    }

    fn lane(&mut self, urgency: Urgency) -> &mut Lane {
        match urgency {
            Urgency::Remove => &mut self.removes,
            Urgency::Create => &mut self.creates,
            Urgency::Tell => &mut self.words,
        }
    }
}

/// Waiters of one urgency: a queue per set, and the sets in turn.
#[derive(Default)]
struct Lane {
    turns: VecDeque<SetName>,
    queues: BTreeMap<SetName, VecDeque<Waiter>>,
}

#[derive(Clone)]
struct Waiter {
    ticket: Ticket,
    wake: Arc<Notify>,
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    fn len(&self) -> usize {
        self.queues.values().map(VecDeque::len).sum()
    }

    fn push(&mut self, set: &SetName, waiter: Waiter) {
        let queue = self.queues.entry(set.clone()).or_default();
        if queue.is_empty() {
            self.turns.push_back(set.clone());
        }
        queue.push_back(waiter);
    }

    /// The first waiter of the set whose turn it is; the set goes to the end of the line.
    fn take_next(&mut self) -> Option<Waiter> {
        let set = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&set)?;
        let waiter = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&set);
        } else {
            self.turns.push_back(set);
        }
        waiter
    }

    fn wake_first(&self) {
        let first = self.turns.front().and_then(|set| self.queues.get(set)?.front());
        if let Some(waiter) = first {
            waiter.wake.notify_one();
        }
    }

    fn holds(&self, set: &SetName, ticket: Ticket) -> bool {
        self.queues
            .get(set)
            .is_some_and(|queue| queue.iter().any(|w| w.ticket == ticket))
    }

    /// Whether the waiter was still in line.
    fn remove(&mut self, set: &SetName, ticket: Ticket) -> bool {
        let Some(queue) = self.queues.get_mut(set) else {
            return false;
        };
        let before = queue.len();
        queue.retain(|w| w.ticket != ticket);
        let found = queue.len() < before;
        if queue.is_empty() {
            self.queues.remove(set);
            self.turns.retain(|s| s != set);
        }
        found
    }
}

/// One waiter's place in line; its drop leaves no trace.
struct Place {
    inner: Arc<Inner>,
    urgency: Urgency,
    set: SetName,
    ticket: Ticket,
    wake: Arc<Notify>,
    /// The permit has been handed out: nothing to undo.
    served: bool,
}

enum Step {
    Admitted,
    KeepTime(Instant),
    Wait,
}

impl Place {
    fn join(inner: &Arc<Inner>, urgency: Urgency, set: &SetName) -> Self {
        let wake = Arc::new(Notify::new());
        let mut state = inner.lock();
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        let waiter = Waiter {
            ticket,
            wake: Arc::clone(&wake),
        };
        state.lane(urgency).push(set, waiter);
        Self {
            inner: Arc::clone(inner),
            urgency,
            set: set.clone(),
            ticket,
            wake,
            served: false,
        }
    }

    fn step(&self) -> Step {
        let mut state = self.inner.lock();
        if state.timekeeper == Some(self.ticket) {
            state.timekeeper = None;
        }
        let stopped = self.inner.admit(&mut state);
        let waiting = state.lane(self.urgency).holds(&self.set, self.ticket);
        match stopped {
            Stopped::Rate(at) if waiting && state.timekeeper.is_none() => {
                state.timekeeper = Some(self.ticket);
                Step::KeepTime(at)
            }
            _ if waiting => Step::Wait,
            Stopped::Rate(_) => {
                state.appoint();
                Step::Admitted
            }
            Stopped::Settled => Step::Admitted,
        }
    }

    fn into_permit(mut self) -> Permit {
        self.served = true;
        Permit {
            inner: Arc::clone(&self.inner),
            urgency: self.urgency,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.served {
            return;
        }
        let mut state = self.inner.lock();
        if state.timekeeper == Some(self.ticket) {
            state.timekeeper = None;
        }
        if state.lane(self.urgency).remove(&self.set, self.ticket) {
            self.inner.settle(&mut state);
        } else {
            // Admitted, but gone before it knew.
            self.inner.leave(&mut state, self.urgency);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        self.inner.leave(&mut state, self.urgency);
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("load", &self.load())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("urgency", &self.urgency)
            .finish_non_exhaustive()
    }
}

/// tokio's clock, as `governor` wants to see one.
#[derive(Clone, Debug)]
struct TokioClock {
    clock: Clock,
    origin: Instant,
}

impl GovernorClock for TokioClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.clock.instant().saturating_duration_since(self.origin)
    }
}

/// `None` for a rate that is no limit. The file's validation refuses rates that are not positive.
fn bucket(limits: &Limits, clock: &Clock) -> Option<Bucket> {
    let period = Duration::try_from_secs_f64(limits.requests_per_second.recip()).ok()?;
    let burst = NonZeroU32::new(limits.burst).unwrap_or(NonZeroU32::MIN);
    let quota = Quota::with_period(period)?.allow_burst(burst);
    let clock = TokioClock {
        origin: clock.instant(),
        clock: clock.clone(),
    };
    Some(RateLimiter::direct_with_clock(quota, clock))
}

#[cfg(test)]
mod tests;

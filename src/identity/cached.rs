//! One cache in front of a token source: in memory only, renewed at 80 % of the token's life by one flight
//! whoever asks.
//!
//! The flight is a task of its own. So a caller that gives up takes nothing away from the others, a source
//! that makes something at a peer is never cut off half-way, and while the old token is good nobody waits for
//! the new one. A failure speaks for a few seconds for all who ask: an issuer that is ill, or refuses us, is
//! not asked by each of them in turn.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;

use super::{Token, TokenError, TokenSource};
use crate::{clock::Clock, shutdown::Tasks};

/// Share of a token's life after which it is renewed.
const RENEW_AT: f64 = 0.8;
/// No token is handed out so shortly before its end: it must still be good when the peer reads it.
const SPARE: Duration = Duration::from_secs(5);
/// The same for short lives, as a share.
const SPARE_SHARE: u32 = 5;
/// Assumed life of a token whose issuer does not tell.
const UNKNOWN_LIFE: Duration = Duration::from_mins(5);
/// Life of a token that seems to be over: clocks differ, and the peer is the judge.
const LIFE_LEAST: Duration = Duration::from_secs(10);
/// However long a token lives: what it stands on may be changed or withdrawn meanwhile.
const LIFE_MOST: Duration = Duration::from_hours(24);
/// An issuer that hangs must not hang its callers.
const FETCH_DEADLINE: Duration = Duration::from_secs(30);

/// A peer that refuses every token is no reason to ask the issuer for more of them. Shorter than the slow re-check
/// of a refusal, so that each of these brings a new one.
const NEW_AFTER_REFUSAL: Duration = Duration::from_mins(4);

/// What a renewal came to, for metrics.
pub type OnRefresh = Arc<dyn Fn(Result<(), &TokenError>) + Send + Sync>;

type Flight = Shared<BoxFuture<'static, Result<SecretString, TokenError>>>;

/// A token, cached.
pub struct Cached {
    source: Arc<dyn TokenSource>,
    clock: Clock,
    deadline: Duration,
    on_refresh: Option<OnRefresh>,
    flights: Tasks,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    flight: Option<Flight>,
    failed: Option<Failed>,
    /// When a token was last given up because a peer refused it.
    refused: Option<Instant>,
    /// How often what the source reads has changed.
    source_changed: u32,
}

struct Held {
    token: SecretString,
    renew_at: Instant,
    /// Not handed out from then on.
    stale_at: Instant,
}

struct Failed {
    until: Instant,
    error: TokenError,
}

impl fmt::Debug for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Cached {
    pub fn new(source: Arc<dyn TokenSource>, clock: Clock) -> Self {
        Self {
            source,
            clock,
            deadline: FETCH_DEADLINE,
            on_refresh: None,
            flights: Tasks::new(),
            state: Arc::default(),
        }
    }

    /// Calls `hook` after every renewal.
    #[must_use]
    pub fn on_refresh(mut self, hook: OnRefresh) -> Self {
        self.on_refresh = Some(hook);
        self
    }

    /// For a source that may take longer than an issuer.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The token to use now.
    pub async fn get(&self) -> Result<SecretString, TokenError> {
        let flight = {
            let mut state = lock(&self.state);
            let now = self.clock.instant();
            let failure = state.failed.as_ref().filter(|f| now < f.until).map(|f| f.error.clone());
            match (&state.held, failure) {
                (Some(held), _) if now < held.renew_at => return Ok(held.token.clone()),
                (Some(held), failure) if now < held.stale_at => {
                    let token = held.token.clone();
                    if failure.is_none() {
                        // It flies by itself.
                        drop(self.flight(&mut state));
                    }
                    return Ok(token);
                }
                (_, Some(error)) => return Err(error),
                (_, None) => self.flight(&mut state),
            }
        };
        flight.await
    }

    /// Forgets `used` after a peer refused it. Does nothing when somebody has renewed it already.
    pub fn invalidate(&self, used: &SecretString) {
        let mut state = lock(&self.state);
        if state
            .held
            .as_ref()
            .is_some_and(|h| h.token.expose_secret() == used.expose_secret())
        {
            state.held = None;
        }
    }

    /// A peer refused `used`: whether another token is worth a try. It is not where one was given up for the same
    /// reason a moment ago: that peer refuses whatever the issuer makes.
    pub fn refused(&self, used: &SecretString) -> bool {
        let mut state = lock(&self.state);
        let held = state.held.as_ref();
        if held.is_none_or(|h| h.token.expose_secret() != used.expose_secret()) {
            return true;
        }
        let now = self.clock.instant();
        if state.refused.is_some_and(|at| now < at + NEW_AFTER_REFUSAL) {
            return false;
        }
        state.refused = Some(now);
        state.held = None;
        true
    }

    /// What the source reads has changed: asks for a new token at once, whatever was refused before. The old one is
    /// handed out until the new one is there.
    pub fn renew(&self) {
        let mut state = lock(&self.state);
        state.failed = None;
        state.refused = None;
        // A flight under way may have read what stood there before: it changes nothing here any more.
        state.flight = None;
        state.source_changed += 1;
        drop(self.flight(&mut state));
    }

    /// For messages.
    pub fn describe(&self) -> String {
        self.source.describe()
    }

    /// The renewal under way, begun where there is none.
    fn flight(&self, state: &mut State) -> Flight {
        if let Some(flight) = &state.flight {
            return flight.clone();
        }
        let landing = Landing {
            state: Arc::clone(&self.state),
            source_changed: state.source_changed,
        };
        let (source, clock) = (Arc::clone(&self.source), self.clock.clone());
        let (deadline, hook) = (self.deadline, self.on_refresh.clone());
        let task = self.flights.spawn("token", async move {
            let fetched = fetch(&*source, deadline).await;
            if let Some(hook) = &hook {
                hook(fetched.as_ref().map(|_| ()));
            }
            landing.land(&*source, &clock, fetched)
        });
        let source = Arc::clone(&self.source);
        let flight = async move {
            task.await.unwrap_or_else(|died| {
                Err(TokenError::Unavailable {
                    message: format!("{}: the renewal died: {died}", source.describe()),
                })
            })
        };
        let flight = flight.boxed().shared();
        state.flight = Some(flight.clone());
        flight
    }
}

/// One renewal's place in the cache, free again at its end, however it ends.
struct Landing {
    state: Arc<Mutex<State>>,
    /// As it was at the take-off.
    source_changed: u32,
}

impl Landing {
    fn land(
        &self,
        source: &dyn TokenSource,
        clock: &Clock,
        fetched: Result<Token, TokenError>,
    ) -> Result<SecretString, TokenError> {
        let mut state = lock(&self.state);
        if state.source_changed != self.source_changed {
            return fetched.map(|token| token.secret);
        }
        let now = clock.instant();
        match fetched {
            Ok(token) => {
                let secret = token.secret.clone();
                state.held = Some(hold(token, clock));
                state.failed = None;
                Ok(secret)
            }
            Err(error) => {
                if state.held.as_ref().is_some_and(|h| now < h.stale_at) {
                    tracing::warn!(source = source.describe(), %error, "token not renewed; the old one is still good");
                }
                state.failed = Some(Failed {
                    until: now + error.stands_for(),
                    error: error.clone(),
                });
                Err(error)
            }
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if state.source_changed == self.source_changed {
            state.flight = None;
        }
    }
}

async fn fetch(source: &dyn TokenSource, deadline: Duration) -> Result<Token, TokenError> {
    match tokio::time::timeout(deadline, source.fetch()).await {
        Ok(result) => result,
        Err(_) => Err(TokenError::Unavailable {
            message: format!("{}: no answer within {} s", source.describe(), deadline.as_secs()),
        }),
    }
}

fn hold(token: Token, clock: &Clock) -> Held {
    let now = clock.instant();
    let life = match token.life {
        None => UNKNOWN_LIFE,
        Some(life) if life.is_zero() => LIFE_LEAST,
        Some(life) => life.min(LIFE_MOST),
    };
    let stale = life.saturating_sub(SPARE.min(life / SPARE_SHARE));
    Held {
        token: token.secret,
        renew_at: now + life.mul_f64(RENEW_AT).min(stale),
        stale_at: now + stale,
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;

    /// Takes a second for each token; tokens live 1000 s.
    #[derive(Debug)]
    struct Counting {
        calls: AtomicU32,
        ill: AtomicBool,
        refuses: AtomicBool,
        hangs: AtomicBool,
        panics: AtomicBool,
        life: Option<Duration>,
    }

    impl TokenSource for Counting {
        fn fetch(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
            Box::pin(async move {
                let n = self.calls.fetch_add(1, Ordering::SeqCst);
                assert!(!self.panics.load(Ordering::SeqCst), "as the test wants it");
                if self.hangs.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                if self.ill.load(Ordering::SeqCst) {
                    return Err(TokenError::Unavailable { message: "ill".into() });
                }
                if self.refuses.load(Ordering::SeqCst) {
                    return Err(TokenError::Refused { message: "no".into() });
                }
                Ok(Token {
                    secret: format!("t{n}").into(),
                    life: self.life,
                })
            })
        }

        fn describe(&self) -> String {
            "a counting source".into()
        }
    }

    fn living(life: Option<Duration>) -> (Arc<Counting>, Arc<Cached>) {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let source = Arc::new(Counting {
            calls: AtomicU32::new(0),
            ill: false.into(),
            refuses: false.into(),
            hangs: false.into(),
            panics: false.into(),
            life,
        });
        (source.clone(), Arc::new(Cached::new(source, clock)))
    }

    fn cached() -> (Arc<Counting>, Arc<Cached>) {
        living(Some(Duration::from_secs(1000)))
    }

    async fn token(cached: &Cached) -> String {
        cached.get().await.unwrap().expose_secret().to_owned()
    }

    async fn pass(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn b16_many_askers_share_one_flight_and_renewal_comes_at_80_percent_of_life() {
        let (source, cached) = cached();
        let all = futures::future::join_all((0..50).map(|_| token(&cached))).await;
        assert!(all.iter().all(|t| t == "t0"));
        pass(798).await;
        assert_eq!(token(&cached).await, "t0");
        pass(1).await;
        assert_eq!(source.calls.load(Ordering::SeqCst), 1);
        pass(2).await;
        token(&cached).await;
        pass(2).await;
        assert_eq!(token(&cached).await, "t1");
        assert_eq!(source.calls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn b16_nobody_waits_for_a_slow_renewal_while_the_old_token_is_good() {
        let (source, cached) = cached();
        token(&cached).await;
        source.hangs.store(true, Ordering::SeqCst);
        pass(850).await;
        for _ in 0..50 {
            let asked = Instant::now();
            assert_eq!(token(&cached).await, "t0");
            assert_eq!(asked.elapsed(), Duration::ZERO);
        }
        pass(1).await;
        assert_eq!(source.calls.load(Ordering::SeqCst), 2, "one flight");
        source.hangs.store(false, Ordering::SeqCst);
        pass(60).await;
        token(&cached).await;
        pass(2).await;
        assert_eq!(
            token(&cached).await,
            "t2",
            "the one that hung was given up after its deadline"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn b38_after_a_change_of_the_source_a_new_token_comes_at_once_and_nobody_waits_for_it() {
        let (source, cached) = cached();
        assert_eq!(token(&cached).await, "t0");
        cached.renew();
        let asked = Instant::now();
        assert_eq!(token(&cached).await, "t0");
        assert_eq!(asked.elapsed(), Duration::ZERO);
        pass(2).await;
        assert_eq!(token(&cached).await, "t1");

        // A flight that left before the change brings nothing, however late it lands.
        source.hangs.store(true, Ordering::SeqCst);
        cached.renew();
        pass(1).await;
        source.hangs.store(false, Ordering::SeqCst);
        cached.renew();
        pass(60).await;
        assert_eq!(token(&cached).await, "t3", "the one that hung is t2");

        // What was refused before says nothing about the new one.
        source.refuses.store(true, Ordering::SeqCst);
        pass(1000).await;
        assert!(cached.get().await.is_err());
        source.refuses.store(false, Ordering::SeqCst);
        assert!(cached.get().await.is_err());
        cached.renew();
        assert_eq!(token(&cached).await, "t5");
    }

    #[tokio::test(start_paused = true)]
    async fn b16_no_token_is_handed_out_in_its_last_seconds() {
        let (source, cached) = cached();
        token(&cached).await;
        source.ill.store(true, Ordering::SeqCst);
        pass(994).await;
        assert_eq!(token(&cached).await, "t0");
        pass(2).await;
        source.ill.store(false, Ordering::SeqCst);
        pass(5).await;
        assert_eq!(token(&cached).await, "t2");
    }

    #[tokio::test(start_paused = true)]
    async fn b16_an_ill_issuer_does_not_take_a_living_token_away() {
        let (source, cached) = cached();
        token(&cached).await;
        source.ill.store(true, Ordering::SeqCst);
        pass(900).await;
        assert_eq!(token(&cached).await, "t0");
        pass(200).await;
        assert!(cached.get().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn b16_a_failure_speaks_for_all_who_ask_within_the_next_seconds() {
        let (source, cached) = cached();
        source.ill.store(true, Ordering::SeqCst);
        for _ in 0..100 {
            assert!(cached.get().await.is_err());
        }
        assert_eq!(source.calls.load(Ordering::SeqCst), 1);
        pass(6).await;
        source.ill.store(false, Ordering::SeqCst);
        source.refuses.store(true, Ordering::SeqCst);
        assert!(matches!(cached.get().await, Err(TokenError::Refused { .. })));
        pass(14).await;
        assert!(cached.get().await.is_err());
        assert_eq!(source.calls.load(Ordering::SeqCst), 2);
        source.refuses.store(false, Ordering::SeqCst);
        pass(2).await;
        assert_eq!(token(&cached).await, "t2");
    }

    #[tokio::test(start_paused = true)]
    async fn b16_a_caller_that_gives_up_does_not_end_the_renewal() {
        let (source, cached) = cached();
        let impatient = tokio::time::timeout(Duration::from_millis(10), cached.get()).await;
        assert!(impatient.is_err());
        assert_eq!(token(&cached).await, "t0");
        assert_eq!(source.calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn b16_a_source_that_panics_is_a_failure_and_is_asked_again() {
        let (source, cached) = cached();
        source.panics.store(true, Ordering::SeqCst);
        let error = cached.get().await.unwrap_err();
        assert!(error.to_string().contains("died"), "{error}");
        source.panics.store(false, Ordering::SeqCst);
        assert_eq!(token(&cached).await, "t1");
    }

    #[tokio::test(start_paused = true)]
    async fn b16_a_token_that_does_not_tell_its_end_is_renewed_within_minutes() {
        let (source, cached) = living(None);
        token(&cached).await;
        pass(239).await;
        token(&cached).await;
        assert_eq!(source.calls.load(Ordering::SeqCst), 1);
        pass(60).await;
        assert_eq!(token(&cached).await, "t1");
    }

    #[tokio::test(start_paused = true)]
    async fn b16_a_life_beyond_a_day_is_cut_and_one_that_is_over_by_our_clock_is_the_peers_to_judge() {
        let (source, cached) = living(Some(Duration::from_hours(24 * 365)));
        token(&cached).await;
        pass(24 * 3600).await;
        assert_eq!(token(&cached).await, "t1");
        assert_eq!(source.calls.load(Ordering::SeqCst), 2);
        let (source, cached) = living(Some(Duration::ZERO));
        for _ in 0..50 {
            assert_eq!(token(&cached).await, "t0");
        }
        assert_eq!(source.calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn b17_invalidating_renews_once_however_many_saw_the_refusal() {
        let (source, cached) = cached();
        let used = cached.get().await.unwrap();
        cached.invalidate(&used);
        assert_eq!(token(&cached).await, "t1");
        cached.invalidate(&used);
        assert_eq!(token(&cached).await, "t1");
        assert_eq!(source.calls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn b17_a_peer_that_refuses_every_token_gets_a_new_one_only_every_few_minutes() {
        let (source, cached) = cached();
        let first = cached.get().await.unwrap();
        assert!(cached.refused(&first));
        let second = cached.get().await.unwrap();
        assert!(
            cached.refused(&first),
            "somebody else met it: the new one is worth a try"
        );
        assert!(!cached.refused(&second));
        assert_eq!(token(&cached).await, "t1");
        pass(4 * 60).await;
        assert!(cached.refused(&second));
        assert_eq!(token(&cached).await, "t2");
        assert_eq!(source.calls.load(Ordering::SeqCst), 3);
    }
}

//! One cache in front of a token source: in memory only, renewed at 80 % of the token's life by one flight
//! whoever asks.

use std::{sync::Arc, time::Duration};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::{sync::Mutex, time::Instant};

use super::{Token, TokenError, TokenSource};
use crate::clock::Clock;

/// Share of a token's life after which it is renewed.
const RENEW_AT: f64 = 0.8;
/// Assumed life of a token whose issuer does not tell.
const UNKNOWN_LIFE: Duration = Duration::from_mins(5);
/// An issuer that hangs must not hang its callers.
const FETCH_DEADLINE: Duration = Duration::from_secs(30);
/// After a failed renewal the old token, if still alive, serves; the issuer is asked again no sooner than this.
const RETRY_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// What a renewal came to, for metrics.
pub type OnRefresh = Arc<dyn Fn(Result<(), &TokenError>) + Send + Sync>;

/// A token, cached. The asynchronous lock is the single flight: who comes while a renewal is under way
/// waits for it and takes its result.
pub struct Cached {
    source: Arc<dyn TokenSource>,
    clock: Clock,
    on_refresh: Option<OnRefresh>,
    held: Mutex<Option<Held>>,
}

struct Held {
    token: SecretString,
    renew_at: Instant,
    dies_at: Instant,
}

impl std::fmt::Debug for Cached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
            on_refresh: None,
            held: Mutex::new(None),
        }
    }

    /// Calls `hook` after every renewal.
    #[must_use]
    pub fn on_refresh(mut self, hook: OnRefresh) -> Self {
        self.on_refresh = Some(hook);
        self
    }

    /// The token to use now.
    pub async fn get(&self) -> Result<SecretString, TokenError> {
        let mut held = self.held.lock().await;
        let now = self.clock.instant();
        if let Some(h) = held.as_ref().filter(|h| now < h.renew_at) {
            return Ok(h.token.clone());
        }
        let fetched = match tokio::time::timeout(FETCH_DEADLINE, self.source.fetch()).await {
            Ok(result) => result,
            Err(_) => Err(TokenError::Unavailable {
                message: format!(
                    "{}: no answer within {} s",
                    self.source.describe(),
                    FETCH_DEADLINE.as_secs()
                ),
            }),
        };
        if let Some(hook) = &self.on_refresh {
            hook(fetched.as_ref().map(|_| ()));
        }
        match (fetched, held.as_mut()) {
            (Ok(token), _) => {
                let fresh = self.hold(token);
                let secret = fresh.token.clone();
                *held = Some(fresh);
                Ok(secret)
            }
            (Err(error), Some(h)) if self.clock.instant() < h.dies_at => {
                tracing::warn!(source = self.source.describe(), %error, "token not renewed; the old one is still good");
                h.renew_at = self.clock.instant() + RETRY_AFTER_FAILURE;
                Ok(h.token.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Forgets `used` after a peer refused it. Does nothing when somebody has renewed it already.
    pub async fn invalidate(&self, used: &SecretString) {
        let mut held = self.held.lock().await;
        if held
            .as_ref()
            .is_some_and(|h| h.token.expose_secret() == used.expose_secret())
        {
            *held = None;
        }
    }

    /// For messages.
    pub fn describe(&self) -> String {
        self.source.describe()
    }

    fn hold(&self, token: Token) -> Held {
        let now = self.clock.instant();
        let life = token.expires.map_or(UNKNOWN_LIFE, |at| {
            Duration::try_from(at.duration_since(self.clock.now())).unwrap_or(Duration::ZERO)
        });
        Held {
            token: token.secret,
            renew_at: now + life.mul_f64(RENEW_AT),
            dies_at: now + life,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::future::BoxFuture;

    use super::*;

    #[derive(Debug)]
    struct Counting {
        calls: AtomicU32,
        ill: std::sync::atomic::AtomicBool,
        clock: Clock,
    }

    impl TokenSource for Counting {
        fn fetch(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let n = self.calls.fetch_add(1, Ordering::SeqCst);
                if self.ill.load(Ordering::SeqCst) {
                    return Err(TokenError::Unavailable { message: "ill".into() });
                }
                Ok(Token {
                    secret: format!("t{n}").into(),
                    expires: Some(self.clock.now() + Duration::from_secs(1000)),
                })
            })
        }

        fn describe(&self) -> String {
            "a counting source".into()
        }
    }

    fn cached() -> (Arc<Counting>, Arc<Cached>) {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let source = Arc::new(Counting {
            calls: AtomicU32::new(0),
            ill: false.into(),
            clock: clock.clone(),
        });
        (source.clone(), Arc::new(Cached::new(source, clock)))
    }

    #[tokio::test(start_paused = true)]
    async fn b16_many_askers_share_one_flight_and_renewal_comes_at_80_percent_of_life() {
        let (source, cached) = cached();
        let all = futures::future::join_all((0..50).map(|_| cached.get())).await;
        assert!(all.iter().all(|t| t.as_ref().unwrap().expose_secret() == "t0"));
        tokio::time::advance(Duration::from_secs(798)).await;
        assert_eq!(cached.get().await.unwrap().expose_secret(), "t0");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(cached.get().await.unwrap().expose_secret(), "t1");
        assert_eq!(source.calls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn b16_an_ill_issuer_does_not_take_a_living_token_away() {
        let (source, cached) = cached();
        cached.get().await.unwrap();
        source.ill.store(true, Ordering::SeqCst);
        tokio::time::advance(Duration::from_secs(900)).await;
        assert_eq!(cached.get().await.unwrap().expose_secret(), "t0");
        tokio::time::advance(Duration::from_secs(200)).await;
        assert!(cached.get().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn b17_invalidating_renews_once_however_many_saw_the_refusal() {
        let (source, cached) = cached();
        let used = cached.get().await.unwrap();
        cached.invalidate(&used).await;
        assert_eq!(cached.get().await.unwrap().expose_secret(), "t1");
        cached.invalidate(&used).await;
        assert_eq!(cached.get().await.unwrap().expose_secret(), "t1");
        assert_eq!(source.calls.load(Ordering::SeqCst), 2);
    }
}

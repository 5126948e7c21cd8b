//! Repetition with exponential back-off and jitter: the one call into `backon`.
//!
//! What may be repeated is the error's affair, not the call site's: the caller hands in one function that
//! says so. Jitter comes from a seed, so that a simulated run repeats to the letter.

use std::{future::Future, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder, Retryable as _};

use crate::config::Retry;

/// What an error means for repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Repeating cannot cure it.
    Final,
    /// Repeat after the back-off's own delay.
    Repeat,
    /// The server said how long to wait.
    RepeatAfter(Duration),
}

/// Calls `attempt` until it succeeds, its error is final, or `policy` is used up.
pub async fn with_backoff<T, E, Fut>(
    policy: &Retry,
    seed: u64,
    verdict: impl Fn(&E) -> Verdict,
    attempt: impl FnMut() -> Fut,
) -> Result<T, E>
where
    Fut: Future<Output = Result<T, E>>,
    E: std::fmt::Display,
{
    attempt
        .retry(delays(policy, seed))
        .sleep(tokio::time::sleep)
        .when(|error| verdict(error) != Verdict::Final)
        .adjust(|error, delay| match (verdict(error), delay) {
            (Verdict::RepeatAfter(wait), Some(delay)) => Some(wait.max(delay)),
            (_, delay) => delay,
        })
        .notify(|error, delay| tracing::debug!(%error, ?delay, "will repeat"))
        .await
}

/// The delays of a policy, one for each repetition, with jitter.
pub fn delays(
    policy: &Retry,
    seed: u64,
) -> impl Iterator<Item = Duration> + Send + Sync + Unpin + std::fmt::Debug + use<> {
    #[expect(clippy::cast_possible_truncation, reason = "a multiplier of a few units")]
    let factor = policy.multiplier as f32;
    ExponentialBuilder::new()
        .with_factor(factor)
        .with_min_delay(policy.initial_backoff)
        .with_max_delay(policy.max_backoff)
        .with_max_times(usize::try_from(policy.max_retries).unwrap_or(usize::MAX))
        .with_jitter()
        .with_jitter_seed(seed)
        .build()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn policy() -> Retry {
        Retry {
            max_retries: 3,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(3),
            multiplier: 2.0,
        }
    }

    async fn calls(verdict: Verdict) -> (u32, Duration) {
        let n = Cell::new(0);
        let start = tokio::time::Instant::now();
        let result: Result<(), &str> = with_backoff(
            &policy(),
            7,
            |_| verdict,
            || {
                n.set(n.get() + 1);
                async { Err("ill") }
            },
        )
        .await;
        assert_eq!(result, Err("ill"));
        (n.get(), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn b20_repeats_within_the_policy_with_growing_delays_and_jitter() {
        assert_eq!(calls(Verdict::Final).await.0, 1);
        let (n, took) = calls(Verdict::Repeat).await;
        assert_eq!(n, 4);
        assert!(
            took > Duration::from_secs(6) && took <= Duration::from_secs(12),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn b20_what_the_server_asks_for_is_honoured() {
        let (n, took) = calls(Verdict::RepeatAfter(Duration::from_secs(100))).await;
        assert_eq!(n, 4);
        assert!(took.as_secs() >= 300 && took.as_secs() <= 312, "{took:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_delays() {
        let a: Vec<_> = delays(&policy(), 1).collect();
        assert_eq!(a, delays(&policy(), 1).collect::<Vec<_>>());
        assert_ne!(a, delays(&policy(), 2).collect::<Vec<_>>());
    }
}

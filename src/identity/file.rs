//! A token that somebody else writes into a file: a projected volume, or an agent beside us.
//!
//! The writer replaces it whenever it likes, so it is read again every minute even while the old one lives,
//! and at once after a peer refused it.

use std::{path::PathBuf, time::Duration};

use futures::future::BoxFuture;

use super::{Token, TokenError, TokenSource, claims};
use crate::clock::Clock;

/// Life given to what was read, however long the token lives: the cache in front renews at 80 % of it,
/// which makes one reading a minute.
const READ_AGAIN: Duration = Duration::from_secs(75);
/// Far above any token; a file that is longer is not one.
const SIZE_MAX: usize = 64 * 1024;

/// Reads a token from a file.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    clock: Clock,
}

impl TokenFile {
    pub fn new(path: PathBuf, clock: Clock) -> Self {
        Self { path, clock }
    }

    async fn read(&self) -> Result<Token, TokenError> {
        let text = tokio::fs::read_to_string(&self.path).await.map_err(|error| {
            self.refused(&format!(
                "cannot be read ({error}); is the volume mounted and readable for this user?"
            ))
        })?;
        let token = text.trim();
        if token.is_empty() || token.len() > SIZE_MAX || token.contains(char::is_whitespace) {
            return Err(self.refused("holds no token: one line is expected"));
        }
        let now = self.clock.now();
        let own = claims::expiry(token);
        if own.is_some_and(|at| at <= now) {
            return Err(TokenError::Unavailable {
                message: format!("{} expired; whoever writes the file is late", self.describe()),
            });
        }
        Ok(Token {
            secret: token.into(),
            life: Some(own.map_or(READ_AGAIN, |at| claims::left(now, at).min(READ_AGAIN))),
        })
    }

    fn refused(&self, what: &str) -> TokenError {
        TokenError::Refused {
            message: format!("{} {what}", self.describe()),
        }
    }
}

impl TokenSource for TokenFile {
    fn fetch(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
        Box::pin(self.read())
    }

    fn describe(&self) -> String {
        format!("the token file {}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use secrecy::ExposeSecret as _;
    use serde_json::json;

    use super::*;
    use crate::identity::{Cached, claims::jwt};

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("gharts-listener-{}-{name}", std::process::id())))
        }

        fn write(&self, text: &str) {
            std::fs::write(&self.0, text).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn clock() -> Clock {
        Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap())
    }

    // Files are read on threads of their own, which paused time does not wait for: the clock stands still
    // here only because each test moves it by hand.
    #[tokio::test]
    async fn b16_a_file_is_read_again_when_it_changes_and_its_expiry_is_the_tokens_own() {
        let file = Scratch::new("changes");
        let clock = clock();
        let source = TokenFile::new(file.0.clone(), clock.clone());
        let exp = clock.now().as_second() + 20;
        file.write(&format!("{}\n", jwt(&json!({"exp": exp}))));
        let token = source.fetch().await.unwrap();
        assert!(token.life.unwrap() <= Duration::from_secs(20), "{:?}", token.life);
        file.write("opaque");
        let token = source.fetch().await.unwrap();
        assert_eq!(token.secret.expose_secret(), "opaque");
        assert_eq!(token.life, Some(READ_AGAIN));
    }

    #[tokio::test]
    async fn b16_the_cache_in_front_sees_a_new_file_after_a_refusal_at_once() {
        let file = Scratch::new("refused");
        file.write("one");
        let cached = Cached::new(Arc::new(TokenFile::new(file.0.clone(), clock())), clock());
        let one = cached.get().await.unwrap();
        file.write("two");
        assert_eq!(cached.get().await.unwrap().expose_secret(), "one");
        cached.invalidate(&one);
        assert_eq!(cached.get().await.unwrap().expose_secret(), "two");
    }

    #[tokio::test]
    async fn b16_a_missing_empty_or_stale_file_says_what_is_wrong_and_shows_no_token() {
        let file = Scratch::new("bad");
        let source = TokenFile::new(file.0.clone(), clock());
        let missing = source.fetch().await.unwrap_err();
        assert!(matches!(&missing, TokenError::Refused { message } if message.contains("cannot be read")));
        for text in ["", " \n", "two words"] {
            file.write(text);
            assert!(
                matches!(source.fetch().await, Err(TokenError::Refused { .. })),
                "{text:?}"
            );
        }
        let stale = jwt(&json!({"exp": 1}));
        file.write(&stale);
        let error = source.fetch().await.unwrap_err();
        assert!(matches!(&error, TokenError::Unavailable { message } if message.contains("expired")));
        assert!(!format!("{error:?}").contains(&stale));
    }
}

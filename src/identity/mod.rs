//! Tokens: who hands them out ([`TokenSource`]), and one cache in front of each ([`Cached`]).

mod cached;
mod claims;
pub mod exec;
pub mod file;
mod github;
pub mod kubernetes;
pub mod oauth2;

use std::{fmt, time::Duration};

use futures::future::BoxFuture;
use secrecy::SecretString;

pub use cached::{Cached, OnRefresh};
pub use github::{GitHubApp, Pat, github_token_source};

/// A bearer token and how long it lives from now on, as far as its issuer said. Where one was just made, by the
/// issuer's own clock: by a wall clock of ours that is wrong it might seem dead for ever, and be made anew for each call.
#[derive(Clone, Debug)]
pub struct Token {
    pub secret: SecretString,
    pub life: Option<Duration>,
}

/// Hands out fresh tokens; never caches.
pub trait TokenSource: Send + Sync + fmt::Debug {
    fn fetch(&self) -> BoxFuture<'_, Result<Token, TokenError>>;

    /// For messages: what hands out the token and to whom, never a secret.
    fn describe(&self) -> String;

    fn refused(&self, what: &str) -> TokenError {
        TokenError::Refused {
            message: format!("{}: {what}", self.describe()),
        }
    }

    fn unavailable(&self, what: &str) -> TokenError {
        TokenError::Unavailable {
            message: format!("{}: {what}", self.describe()),
        }
    }
}

/// Why no token could be had. `message` is fit for logs and status: redacted, with what mends it where known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The issuer does not accept us, or what we ask is wrong: repeating at once cannot cure it.
    #[error("{message}")]
    Refused { message: String },
    /// The issuer could not be reached or is ill: worth repeating.
    #[error("{message}")]
    Unavailable { message: String },
    /// The issuer knows us and says no.
    #[error("{message}")]
    Denied { denial: Denial, message: String },
    /// The issuer asks us to slow down: not before `wait` is over.
    #[error("{message}")]
    Limited { message: String, wait: Duration },
}

/// By which rule of the issuer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    Quota,
    LabelPolicy,
    NotAuthorized,
    /// It does not accept the identity that we show.
    Credentials,
    /// It cannot give such a token, or not for this scope.
    Configuration,
}

impl TokenError {
    /// Whether asking again later may help with nobody's hand.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Limited { .. } => true,
            Self::Refused { .. } | Self::Denied { .. } => false,
        }
    }

    /// How long the issuer asks us to wait, if it does.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Limited { wait, .. } => Some(*wait),
            Self::Refused { .. } | Self::Unavailable { .. } | Self::Denied { .. } => None,
        }
    }

    /// How long it answers for all who ask: an issuer that says no is asked slowly.
    fn stands_for(&self) -> Duration {
        match self {
            Self::Unavailable { .. } => Duration::from_secs(5),
            Self::Refused { .. } => Duration::from_secs(15),
            Self::Limited { wait, .. } => (*wait).clamp(Duration::from_secs(5), Duration::from_hours(1)),
            Self::Denied {
                denial: Denial::Quota, ..
            } => Duration::from_secs(30),
            Self::Denied { .. } => Duration::from_secs(270),
        }
    }
}

//! What turns a runner's name into a JIT configuration and can take the registration back.
//!
//! Two real things stand behind [`Provisioner`]: [`scale_set`] (GitHub's own generatejitconfig) and
//! [`gharts`] (the token service with the set-aware extension). The loop never sees which: it sees a
//! [`Granted`] or a [`Refusal`] whose [`Class`] says what to do.

pub mod gharts;
pub mod scale_set;

use std::{fmt, time::Duration};

use futures::future::BoxFuture;
use secrecy::SecretString;

use crate::ids::{RunnerName, SetName};

/// One runner to be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JitRequest {
    pub set: SetName,
    pub scale_set_id: i64,
    pub name: RunnerName,
    /// What GHARTS' policy sees; the set's own provisioner ignores them.
    pub labels: Vec<String>,
    pub work_folder: String,
}

/// A registration exists and its JIT configuration is in hand.
#[derive(Clone, Debug)]
pub struct Granted {
    pub jit_config: SecretString,
    /// The agent's id at GitHub's Actions service; looked up by name when a server does not tell.
    pub agent_id: Option<i64>,
    /// GHARTS' own id of the record.
    pub gharts_id: Option<String>,
    /// Status of the answer, where one call gave it all.
    pub status: Option<u16>,
}

/// What is known of one registration, enough to take it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub name: RunnerName,
    pub agent_id: Option<i64>,
    pub gharts_id: Option<String>,
}

/// A record that the provisioner's own service still holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub name: String,
    pub gharts_id: String,
    pub agent_id: Option<i64>,
    /// Since its creation, by our clock.
    pub age: Duration,
}

/// What a refusal means for the caller; every retry decision hangs on this and on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The team's or identity's quota is used up: wait for a place.
    Quota,
    /// The runner name is taken, here or at GitHub: cure by name, use another.
    NameTaken,
    /// Labels violate the policy: stop until configuration or policy changes, re-check slowly.
    LabelPolicy,
    /// This identity may not: stop, re-check slowly.
    NotAuthorized,
    /// Our request is malformed in the server's eyes: stop, re-check slowly.
    InvalidRequest,
    /// Team, scale set or URL is wrong: stop, re-check slowly.
    Configuration,
    /// The server does not know the set-aware extension: no runner of its can serve the set.
    BindingUnsupported,
    /// The token was refused twice.
    Credentials,
    /// Our token is not valid yet: clocks differ; wait a few seconds with the same token.
    ClockSkew,
    /// The token could not be checked or had: issuer ill. Back off, same token.
    IssuerDown,
    /// Told to slow down.
    RateLimited,
    /// The service or GitHub behind it failed; the registration may exist all the same.
    Upstream,
    /// No usable answer: whether the registration exists is unknown.
    UnknownOutcome,
    /// No answer for so long that the service stands still: ask it ever more rarely. What it was asked for may exist.
    Stalled,
    /// Never reached the service: nothing happened.
    Unreachable,
}

impl Class {
    /// Whether the service serves nobody, or not us, whatever is asked of it. The other refusals are about
    /// this one runner: who gives such an answer lives.
    pub fn is_outage(self) -> bool {
        match self {
            Self::Unreachable
            | Self::UnknownOutcome
            | Self::Stalled
            | Self::Upstream
            | Self::IssuerDown
            | Self::RateLimited
            | Self::Credentials
            | Self::ClockSkew
            | Self::NotAuthorized => true,
            Self::Quota
            | Self::NameTaken
            | Self::LabelPolicy
            | Self::InvalidRequest
            | Self::Configuration
            | Self::BindingUnsupported => false,
        }
    }

    /// Who else would be refused so.
    pub fn concerns(self) -> Concerns {
        match self {
            Self::LabelPolicy
            | Self::InvalidRequest
            | Self::Configuration
            | Self::BindingUnsupported
            | Self::NameTaken => Concerns::Set,
            Self::Quota | Self::NotAuthorized => Concerns::Account,
            Self::Credentials
            | Self::ClockSkew
            | Self::IssuerDown
            | Self::RateLimited
            | Self::Upstream
            | Self::UnknownOutcome
            | Self::Stalled
            | Self::Unreachable => Concerns::Service,
        }
    }

    /// Whether one answer does not tell if the refusal is about this scale set or about all behind the service: its
    /// team may be forbidden, its call may hang, while those of others fare well.
    pub fn may_concern_one_set(self) -> bool {
        matches!(
            self,
            Self::NotAuthorized | Self::UnknownOutcome | Self::Stalled | Self::Upstream
        )
    }

    /// Stable code, for metrics, logs and status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota_exceeded",
            Self::NameTaken => "name_taken",
            Self::LabelPolicy => "label_policy",
            Self::NotAuthorized => "not_authorized",
            Self::InvalidRequest => "invalid_request",
            Self::Configuration => "configuration",
            Self::BindingUnsupported => "binding_unsupported",
            Self::Credentials => "credentials",
            Self::ClockSkew => "clock_skew",
            Self::IssuerDown => "issuer_down",
            Self::RateLimited => "rate_limited",
            Self::Upstream => "upstream",
            Self::UnknownOutcome => "unknown_outcome",
            Self::Stalled => "stalled",
            Self::Unreachable => "unreachable",
        }
    }
}

/// How far a refusal reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concerns {
    /// It is about this scale set's own labels, names or settings: other sets may fare better.
    Set,
    /// It is about the account (identity and team) in whose name the set asks.
    Account,
    /// Whoever asks the service would hear the same.
    Service,
}

/// No JIT configuration. `message` holds the server's own words, cut and redacted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub class: Class,
    pub status: Option<u16>,
    /// The server's error code, where it has one.
    pub code: Option<String>,
    pub message: String,
    pub retry_after: Option<Duration>,
    /// GitHub's answer to us, while the provisioner is another service: that one is not to blame.
    pub by_github: bool,
    /// Something was registered all the same, and could not be taken back yet.
    pub left_behind: bool,
}

/// What a provisioner's service says of itself and of us where no runner is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// For a person: one sentence.
    pub says: String,
    /// Whose quota the runners count against: sets with the same one share it, however the file names it.
    /// `None`: the service does not tell.
    pub payer: Option<String>,
}

/// What became of a call that takes a registration back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// It was there and is gone now.
    Removed,
    /// It was not there (any more): success for the bookkeeping, no proof of idleness.
    AlreadyGone,
}

/// Why a registration could not be taken back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// The runner executes a job: leave its pod alone.
    #[error("the runner is busy")]
    Busy,
    #[error("{0}")]
    Failed(Refusal),
}

/// Turns names into JIT configurations and takes registrations back.
pub trait Provisioner: Send + Sync + fmt::Debug {
    /// Registers a runner. Never cancelled by the caller: cancelling leaks.
    fn provision<'a>(&'a self, request: &'a JitRequest) -> BoxFuture<'a, Result<Granted, Refusal>>;

    /// Asks the service who we are to it and what it can do, registering nothing. A provisioner without a service of
    /// its own has nothing to ask.
    fn probe(&self) -> BoxFuture<'_, Result<Standing, Refusal>> {
        Box::pin(async { Ok(Standing::default()) })
    }

    /// Takes back what the provisioner's own service recorded (GHARTS). Idempotent. Without a
    /// `gharts_id` the record is looked up by name. The registration at GitHub is removed through
    /// `scaleset`, not here; a provisioner without records of its own answers `AlreadyGone`.
    fn release<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, Result<Released, ReleaseError>>;

    /// Where the GHARTS behind it is, if there is one: for logs and for the metrics that speak of GHARTS.
    fn gharts_url(&self) -> Option<&str> {
        None
    }

    /// Every record that the service holds for this identity; `None` when it keeps none.
    fn records(&self) -> BoxFuture<'_, Result<Option<Vec<Record>>, Refusal>>;
}

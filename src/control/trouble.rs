//! What GitHub's errors mean to a scale set: the reason that it gives, what mends it, and when to look again.

use std::time::Duration;

use crate::{
    identity::{Denial, TokenError},
    plan::{
        Moment,
        reason::{Code, Reason},
    },
    provision::Class,
    scaleset::{Error, Missing},
};

/// Pauses after failures that pass by themselves: doubling within these bounds.
const PASSING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// What only an operator can mend is looked at again ever later, up to the slow re-check of everything else.
const STUBBORN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_mins(5));
/// Sets that wait for the end of one limit do not all come back in the same moment.
const AFTER_LIMIT: Duration = Duration::from_secs(3);

/// Why the set cannot be served, by an error of `now`; it is tried again after `pause`.
pub(super) fn reason(error: &Error, now: Moment, pause: Duration) -> Reason {
    let (code, remedy) = match error {
        Error::Credential(error) => no_token(error),
        Error::Unauthorized(_) => (Code::Credentials, Some(CREDENTIAL)),
        Error::Forbidden(_) => (Code::NotAuthorized, Some(RIGHTS)),
        Error::NotFound { what, .. } => (Code::Configuration, missing(*what)),
        Error::Invalid(_) => (Code::InvalidRequest, Some(REFUSED)),
        Error::RateLimited { .. } => (Code::RateLimited, Some(LIMIT)),
        Error::Transport { .. } => (Code::Unreachable, Some(NETWORK)),
        _ => (Code::SessionFailed, None),
    };
    let reason = Reason::new(code, error.to_string());
    Reason {
        remedy: remedy.or(reason.remedy),
        until: Some(now + error.retry_after().unwrap_or(pause)),
        ..reason
    }
}

const CREDENTIAL: &str = "check github.auth: client id, installation id and private key, or the token and its expiry; \
                          and this machine's clock";
const RIGHTS: &str = "let the GitHub App read and write the organization's self-hosted runners (for a repository: its \
                      administration), or give the token the scope admin:org (repo, manage_runners:enterprise)";
const REFUSED: &str = "GitHub refuses the scale set as the file describes it: see its own words, and mend the set's \
                       name, labels or runner group";
const LIMIT: &str = "nothing to do once: it is tried again when the limit is over. Where it comes often, find out who \
                     else calls GitHub with this credential, or give this daemon one of its own";
const NETWORK: &str = "check github.configUrl, github.proxy, github.tls and the network's way out";

/// What mends a refusal of GitHub's to configure a runner, where the general remedy speaks of GHARTS.
pub(super) fn remedy_at_github(class: Class) -> Option<&'static str> {
    match class {
        Class::Credentials => Some(CREDENTIAL),
        Class::NotAuthorized => Some(RIGHTS),
        Class::InvalidRequest => Some(REFUSED),
        Class::RateLimited => Some(LIMIT),
        Class::Unreachable => Some(NETWORK),
        _ => None,
    }
}

fn no_token(error: &TokenError) -> (Code, Option<&'static str>) {
    match error {
        TokenError::Refused { .. } => (Code::Credentials, Some(CREDENTIAL)),
        TokenError::Unavailable { .. } => (Code::Unreachable, None),
        TokenError::Limited { .. } => (Code::RateLimited, Some(LIMIT)),
        TokenError::Denied { denial, .. } => (
            match denial {
                Denial::Quota => Code::QuotaExceeded,
                Denial::LabelPolicy => Code::LabelPolicy,
                Denial::NotAuthorized => Code::NotAuthorized,
                Denial::Credentials => Code::Credentials,
                Denial::Configuration => Code::Configuration,
            },
            None,
        ),
    }
}

fn missing(what: Missing) -> Option<&'static str> {
    match what {
        Missing::Scope => Some("check configUrl, and that the credential is for it: the App must be installed there"),
        Missing::RunnerGroup => Some("create the runner group at GitHub, or correct github.runnerGroup"),
        Missing::ScaleSet | Missing::Agent => None,
    }
}

/// How long to leave GitHub alone after the `failures`th failure in a row.
pub(super) fn pause(error: &Error, failures: u32, rng: &mut fastrand::Rng) -> Duration {
    let pause = doubling(if error.is_transient() { PASSING } else { STUBBORN }, failures, rng);
    match error.retry_after() {
        Some(told) => pause.max(told + AFTER_LIMIT.mul_f64(rng.f64())),
        None => pause,
    }
}

/// The same where another try may well succeed.
pub(super) fn passing(failures: u32, rng: &mut fastrand::Rng) -> Duration {
    doubling(PASSING, failures, rng)
}

fn doubling((first, longest): (Duration, Duration), failures: u32, rng: &mut fastrand::Rng) -> Duration {
    let base = first
        .saturating_mul(1 << failures.saturating_sub(1).min(10))
        .min(longest);
    base.mul_f64(0.5 + 0.5 * rng.f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaleset::Details;

    fn words() -> Details {
        Details {
            operation: "create scale set",
            status: 400,
            type_name: None,
            message: "no".to_owned(),
            ids: "ActivityId a, X-GitHub-Request-Id r".to_owned(),
        }
    }

    #[test]
    fn b25_what_only_an_operator_can_mend_is_looked_at_ever_more_slowly_and_never_in_step() {
        let mut rng = fastrand::Rng::with_seed(1);
        let error = Error::Invalid(Box::new(words()));
        let mut pauses = |failures| -> Vec<u64> {
            let all = (0..50).map(|_| pause(&error, failures, &mut rng).as_millis());
            all.map(|ms| u64::try_from(ms).unwrap()).collect()
        };
        for (failures, least, most) in [(1, 30_000, 60_000), (2, 60_000, 120_000), (9, 150_000, 300_000)] {
            let mut seen = pauses(failures);
            assert!(seen.iter().all(|ms| (least..=most).contains(ms)), "{seen:?}");
            seen.sort_unstable();
            seen.dedup();
            assert!(seen.len() > 40, "{seen:?}");
        }
    }

    #[test]
    fn what_github_asks_for_is_waited_for_and_hardly_longer() {
        let mut rng = fastrand::Rng::with_seed(1);
        let wait = Duration::from_secs(900);
        let limited = |retry_after| Error::RateLimited {
            retry_after,
            details: Box::new(words()),
        };
        for failures in [1, 5, 40] {
            let pause = pause(&limited(Some(wait)), failures, &mut rng);
            assert!(pause >= wait && pause <= wait + AFTER_LIMIT, "{pause:?}");
        }
        assert!(pause(&limited(None), 40, &mut rng) <= Duration::from_secs(30));
        let now = Moment::START + Duration::from_secs(5);
        let told = reason(&limited(Some(wait)), now, wait + AFTER_LIMIT);
        assert_eq!((told.code, told.until), (Code::RateLimited, Some(now + wait)));
    }

    #[test]
    fn b27_every_reason_has_githubs_ids_and_what_only_people_can_mend_a_remedy() {
        for error in [
            Error::Unauthorized(Box::new(words())),
            Error::Forbidden(Box::new(words())),
            Error::Invalid(Box::new(words())),
            Error::NotFound {
                what: Missing::Scope,
                details: Box::new(words()),
            },
            Error::NotFound {
                what: Missing::RunnerGroup,
                details: Box::new(words()),
            },
            Error::Server {
                retry_after: None,
                details: Box::new(words()),
            },
            Error::RateLimited {
                retry_after: None,
                details: Box::new(words()),
            },
        ] {
            let reason = reason(&error, Moment::START, AFTER_LIMIT);
            for part in ["create scale set", "ActivityId a", "X-GitHub-Request-Id r"] {
                assert!(reason.message.contains(part), "{reason:?}");
            }
            assert!(error.is_transient() || reason.remedy().is_some(), "{reason:?}");
        }
    }
}

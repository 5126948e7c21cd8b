//! Rate limits, in the forms in which GitHub shows them.

use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use serde_json::json;

use super::answer;
use crate::sim::github::{
    settings::{Limit, Limited},
    world::{Now, World},
};

/// Operations of api.github.com; the runner processes' own calls meet no limit.
const REST: [&str; 4] = [
    "access token",
    "registration token",
    "runner registration",
    "runner groups",
];
const SERVICE_EXCEPT: [&str; 2] = ["unknown", "runner"];

/// What a limit makes of this operation now.
pub(super) fn refusal(world: &World, operation: &str, now: Now) -> Option<Response> {
    let (limited, how, until) = world.limit?;
    let is_rest = REST.contains(&operation) || operation.starts_with("rest ");
    let meets = match limited {
        Limited::Rest => is_rest,
        Limited::Service => !is_rest && !SERVICE_EXCEPT.iter().any(|free| operation.starts_with(free)),
    };
    (meets && now.wall < until).then(|| limit(how, until, now))
}

fn limit(how: Limit, until: Timestamp, now: Now) -> Response {
    let status = match how {
        Limit::TooMany => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::FORBIDDEN,
    };
    let message = match how {
        Limit::Primary => "API rate limit exceeded for installation ID 815.",
        Limit::Secondary | Limit::SecondaryUntold => {
            "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
        }
        Limit::TooMany => "Too many requests.",
    };
    let mut response = answer(status, &json!({"message": message}));
    let left = u64::try_from(until.duration_since(now.wall).as_secs()).unwrap_or(0) + 1;
    let mut put = |name: &'static str, value: u64| {
        let name = HeaderName::from_static(name);
        response.headers_mut().insert(name, HeaderValue::from(value));
    };
    match how {
        Limit::Primary => {
            put("x-ratelimit-remaining", 0);
            put("x-ratelimit-reset", u64::try_from(until.as_second()).unwrap_or(0));
        }
        Limit::Secondary | Limit::TooMany => put("retry-after", left),
        Limit::SecondaryUntold => {}
    }
    response
}

//! What the answers of all peers have in common: bodies that may begin with a byte order mark, ids that
//! support asks for, and the time that a server asks us to wait.

use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;

/// A server that asks for more is not obeyed to the letter: state changes, and so do its limits.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
const BOM: &[u8] = b"\xef\xbb\xbf";

/// The body without its byte order mark and surrounding white space.
pub fn trimmed(body: &[u8]) -> &[u8] {
    body.trim_ascii_start().strip_prefix(BOM).unwrap_or(body).trim_ascii()
}

/// `ActivityId ..., X-GitHub-Request-Id ...` as far as the headers have them; empty otherwise.
pub fn request_ids(headers: &HeaderMap) -> String {
    let ids: Vec<String> = ["ActivityId", "X-GitHub-Request-Id"]
        .iter()
        .filter_map(|name| Some(format!("{name} {}", super::redact(headers.get(*name)?.to_str().ok()?))))
        .collect();
    ids.join(", ")
}

/// The time by the peer's own clock.
pub fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(http::header::DATE)?.to_str().ok()?;
    Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp())
}

/// How long the server asks us to wait: `Retry-After` (seconds or a date), else the reset of a used-up
/// `x-ratelimit`.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
    let wait = match text("retry-after") {
        Some(value) => match value.parse::<u64>() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => jiff::fmt::rfc2822::parse(value).ok().map(|at| until(at.timestamp())),
        },
        None if text("x-ratelimit-remaining") == Some("0") => text("x-ratelimit-reset")
            .and_then(|reset| reset.parse().ok())
            .and_then(|seconds| Timestamp::from_second(seconds).ok())
            .map(until),
        None => None,
    };
    wait.map(|w| w.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| {
                (
                    http::HeaderName::from_bytes(k.as_bytes()).unwrap(),
                    http::HeaderValue::from_static(v),
                )
            })
            .collect()
    }

    #[test]
    fn waits_are_read_in_every_form() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let wait = |pairs: &[_]| retry_after(&headers(pairs), now).map(|d| d.as_secs());
        assert_eq!(wait(&[("retry-after", "7")]), Some(7));
        assert_eq!(wait(&[("retry-after", "Thu, 01 Jan 2026 00:01:30 GMT")]), Some(90));
        assert_eq!(
            wait(&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1767225630")]),
            Some(30)
        );
        assert_eq!(
            wait(&[("x-ratelimit-remaining", "5"), ("x-ratelimit-reset", "1767225630")]),
            None
        );
        assert_eq!(wait(&[("retry-after", "999999")]), Some(3600));
        assert_eq!(wait(&[("retry-after", "soon")]), None);
    }

    #[test]
    fn b03_a_byte_order_mark_is_no_part_of_the_body() {
        assert_eq!(trimmed(b"\xef\xbb\xbf{} \n"), b"{}");
        assert_eq!(trimmed(b" {}"), b"{}");
        assert_eq!(trimmed(b"\xef\xbb\xbf"), b"");
    }

    #[test]
    fn b27_both_ids_are_named() {
        let ids = request_ids(&headers(&[("activityid", "a-1"), ("x-github-request-id", "R:2")]));
        assert_eq!(ids, "ActivityId a-1, X-GitHub-Request-Id R:2");
    }
}

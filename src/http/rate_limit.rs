//! GitHub's rate limits, pure: whether an answer is one, and how long it asks us to wait.
//!
//! A primary limit says when it ends (`x-ratelimit-remaining: 0` and `x-ratelimit-reset`), a secondary one mostly
//! how long to wait (`Retry-After`); one that says neither wants a minute. Both come as 403 as well as 429, where a
//! bare 403 is a missing right. The reset is a time of GitHub's clock, so it is compared with the answer's own
//! `Date` where there is one.

use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;

use super::date;

/// Named by GitHub for a secondary limit that tells no time.
const UNTOLD: Duration = Duration::from_mins(1);
/// Limits count by the hour; who asks for more than that is not obeyed to the letter.
const LONGEST: Duration = Duration::from_hours(1);
/// A limit that is over at once would make a hot loop.
const SHORTEST: Duration = Duration::from_secs(1);

/// An answer that asks us to slow down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// From now on. `None`: nothing was told, so that the caller's own back-off has to do.
    pub wait: Option<Duration>,
}

/// Reads an answer; `now` is our own clock. `None`: no limit is the matter.
pub fn rate_limit<B: AsRef<[u8]>>(answer: &Response<B>, now: Timestamp) -> Option<RateLimit> {
    let headers = answer.headers();
    let says_limit = says_limit(answer.body().as_ref());
    let told = told(headers, now);
    let is_limit = match answer.status() {
        StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::FORBIDDEN => told.is_some() || says_limit || is_used_up(headers),
        _ => false,
    };
    is_limit.then(|| RateLimit {
        wait: told
            .or((says_limit || is_used_up(headers)).then_some(UNTOLD))
            .map(|wait| wait.clamp(SHORTEST, LONGEST)),
    })
}

fn told(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let theirs = date(headers).unwrap_or(now);
    let until = |at: Timestamp| Duration::try_from(at.duration_since(theirs)).unwrap_or_default();
    if let Some(value) = text("retry-after") {
        return match value.parse() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => jiff::fmt::rfc2822::parse(value).ok().map(|at| until(at.timestamp())),
        };
    }
    if !is_used_up(headers) {
        return None;
    }
    let reset = Timestamp::from_second(text("x-ratelimit-reset")?.parse().ok()?).ok()?;
    // The second that is named is still the old hour's.
    Some(until(reset) + Duration::from_secs(1))
}

fn is_used_up(headers: &HeaderMap) -> bool {
    headers.get("x-ratelimit-remaining").is_some_and(|left| left == "0")
}

fn says_limit(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    ["rate limit", "abuse detection"]
        .iter()
        .any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01T00:00:00Z, by our own clock.
    const NOW: i64 = 1_767_225_600;
    const PRIMARY: &str = r#"{"message":"API rate limit exceeded for installation ID 1."}"#;
    const SECONDARY: &str = r#"{"message":"You have exceeded a secondary rate limit. Please wait a few minutes."}"#;
    const RIGHTS: &str = r#"{"message":"Resource not accessible by integration"}"#;

    #[test]
    fn every_form_of_a_limit_and_of_what_is_none() {
        let used_up = ("x-ratelimit-remaining", "0");
        let left = ("x-ratelimit-remaining", "17");
        let reset = ("x-ratelimit-reset", "1767225630");
        let none = None;
        let untold = Some(None);
        let wait = |seconds| Some(Some(seconds));
        type Row<'a> = (u16, &'a [(&'a str, &'a str)], &'a str, Option<Option<u64>>);
        let rows: &[Row<'_>] = &[
            (429, &[], "", untold),
            (429, &[], "<html>too many</html>", untold),
            (429, &[], SECONDARY, wait(60)),
            (429, &[("retry-after", "7")], "", wait(7)),
            (429, &[("retry-after", "0")], "", wait(1)),
            (429, &[("retry-after", "soon")], "", untold),
            (429, &[("retry-after", "soon")], PRIMARY, wait(60)),
            (429, &[("retry-after", "999999")], "", wait(3600)),
            (429, &[("retry-after", "Thu, 01 Jan 2026 00:01:30 GMT")], "", wait(90)),
            (429, &[("retry-after", "7"), used_up, reset], "", wait(7)),
            (403, &[used_up, reset], PRIMARY, wait(31)),
            (403, &[used_up, reset], "", wait(31)),
            (429, &[used_up, reset], PRIMARY, wait(31)),
            // Their clock is 20 s behind ours, or as much before it; the reset is over by ours.
            (
                403,
                &[used_up, reset, ("date", "Wed, 31 Dec 2025 23:59:40 GMT")],
                PRIMARY,
                wait(51),
            ),
            (
                403,
                &[used_up, reset, ("date", "Thu, 01 Jan 2026 00:00:20 GMT")],
                PRIMARY,
                wait(11),
            ),
            (403, &[used_up, ("x-ratelimit-reset", "1767225000")], PRIMARY, wait(1)),
            (
                403,
                &[used_up, ("x-ratelimit-reset", "9999999999")],
                PRIMARY,
                wait(3600),
            ),
            (403, &[used_up, ("x-ratelimit-reset", "later")], PRIMARY, wait(60)),
            (403, &[used_up], "", wait(60)),
            (403, &[left, reset], RIGHTS, none),
            (403, &[left, reset], SECONDARY, wait(60)),
            (403, &[], SECONDARY, wait(60)),
            (
                403,
                &[],
                r#"{"message":"You have triggered an abuse detection mechanism."}"#,
                wait(60),
            ),
            (403, &[("retry-after", "9")], RIGHTS, wait(9)),
            (403, &[], RIGHTS, none),
            (403, &[], "", none),
            (401, &[used_up, reset], PRIMARY, none),
            (503, &[("retry-after", "9")], "", none),
            (200, &[used_up, reset], "", none),
        ];
        for (status, headers, body, expected) in rows {
            let mut answer = Response::builder().status(*status);
            for (name, value) in *headers {
                answer = answer.header(*name, *value);
            }
            let limit = rate_limit(&answer.body(*body).unwrap(), Timestamp::from_second(NOW).unwrap());
            let found = limit.map(|limit| limit.wait.map(|wait| wait.as_secs()));
            assert_eq!(found, *expected, "{status} {headers:?} {body}");
        }
    }
}

//! What an answer of GHARTS means: one pure function, one table.
//!
//! The status alone decides nothing here: 400 means quota, name taken, GitHub's failure or a wrong team; 401
//! means a bad token, a skewed clock or an ill issuer; 500 on a deletion means that the runner is busy. So
//! the error codes of the written contract come first (few servers send them), then the recorded texts, then
//! the status. It is tested against every recorded answer (`tests/it/gharts_recorded`).
//!
//! It does not decide what to do: `provision` makes a class of the verdict, and the loop decides.

use super::wire::ErrorBody;
use crate::http::redact;

/// What was asked; the same answer means different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `POST /runners/jit`
    Jit,
    /// `POST /runners/provision`
    Provision,
    /// `DELETE /runners/{id}`
    Delete,
    /// Any GET.
    Read,
}

impl Operation {
    /// Makes a record, if it is granted.
    fn registers(self) -> bool {
        matches!(self, Self::Jit | Self::Provision)
    }
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was done; the body is JSON (or nothing, after a deletion).
    Done,
    /// The record is not there (any more).
    Gone,
    /// GitHub refused to remove the runner: it executes a job.
    Busy,
    Failed(Trouble),
}

/// Why not. One to one with what the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// The quota is used up.
    Quota,
    /// The runner name is in use, in GHARTS or at GitHub.
    NameTaken,
    /// The labels are not what the policy permits or demands.
    LabelPolicy,
    /// This identity may not, or not for this team.
    NotAuthorized,
    /// The request is malformed in the server's eyes; it does not say where.
    InvalidRequest,
    /// Team, scale set, URL or version is wrong.
    Configuration,
    /// The token was refused.
    Credentials,
    /// The token is not valid yet.
    ClockSkew,
    /// The server could not check the token, or none could be had.
    IssuerDown,
    /// Told to slow down.
    RateLimited,
    /// GHARTS or GitHub behind it failed; a runner may exist all the same.
    Upstream,
    /// No usable answer: what happened is unknown.
    UnknownOutcome,
    /// None for so long that the service stands still: what happened is unknown, and each further call makes it stand
    /// still for longer.
    Stalled,
    /// The request never reached the service.
    Unreachable,
}

/// A classified answer. `message` is fit for logs and status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub verdict: Verdict,
    /// The server's own error code.
    pub code: Option<String>,
    /// The server's own words, cut and redacted, with what mends it where that is known.
    pub message: String,
}

/// The server's own code as a metric's label: what a server sends is anybody's text, and labels must be few.
pub fn label(code: &str) -> &'static str {
    const KNOWN: [&str; 6] = [
        "QUOTA_EXCEEDED",
        "LABEL_POLICY_VIOLATION",
        "USER_NOT_AUTHORIZED",
        "INVALID_LABELS",
        "VALIDATION_ERROR",
        "INTERNAL_ERROR",
    ];
    KNOWN.into_iter().find(|known| *known == code).unwrap_or("other")
}

/// The table. First match wins.
pub fn classify(operation: Operation, status: u16, content_type: Option<&str>, body: &[u8]) -> Answer {
    let json = content_type.is_some_and(is_json);
    let said = Said::read(json, body);
    let verdict = verdict(operation, status, &said);
    Answer {
        message: message(operation, status, verdict, &said),
        verdict,
        code: said.code,
    }
}

/// What there is to go by in a body.
struct Said {
    json: bool,
    empty: bool,
    code: Option<String>,
    detail: String,
}

impl Said {
    fn read(json: bool, body: &[u8]) -> Self {
        let parsed: ErrorBody = if json {
            serde_json::from_slice(body).unwrap_or_default()
        } else {
            ErrorBody::default()
        };
        let detail = match parsed.detail {
            serde_json::Value::String(text) => text,
            serde_json::Value::Null => String::new(),
            other => other.to_string(),
        };
        Self {
            json,
            empty: body.is_empty(),
            code: parsed.error_code.map(|c| words(&c)),
            detail,
        }
    }

    fn code_is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    fn has(&self, text: &str) -> bool {
        self.detail.to_ascii_lowercase().contains(text)
    }

    fn begins(&self, text: &str) -> bool {
        self.detail.to_ascii_lowercase().starts_with(text)
    }

    /// `Labels {..} not permitted by team 'x' policy`, `Missing required labels for team`; but not
    /// `Access to JIT API not permitted for this user`.
    fn is_label_policy(&self) -> bool {
        self.begins("missing required labels") || (self.has("labels ") && self.has("not permitted"))
    }

    /// GitHub's own words for a runner at work: those of its REST API, and of its Actions service.
    fn names_running_job(&self) -> bool {
        self.has("still running a job") || self.has("jobstillrunning")
    }

    /// httpx' text about GitHub's 422; a bare `422` could as well be part of an id in the URL.
    fn is_busy(&self) -> bool {
        self.has("422 unprocessable") || self.names_running_job()
    }

    /// GitHub's 404 to GHARTS: no such organization for its App, or no such runner group. Nothing was registered, and only
    /// people can mend it.
    fn is_unknown_to_github(&self) -> bool {
        self.detail.eq_ignore_ascii_case("github api error: not found")
    }

    fn is_quota(&self) -> bool {
        self.has("quota exceeded") || self.has("max runners exceeded")
    }
}

fn verdict(operation: Operation, status: u16, said: &Said) -> Verdict {
    use Trouble as T;
    use Verdict::{Busy, Done, Failed, Gone};

    match status {
        200..=299 if said.json || (operation == Operation::Delete && said.empty) => Done,
        404 if !operation.registers() && said.has("not found or not owned") => Gone,
        404 if operation == Operation::Delete && said.json => Gone,
        // Also a web page under a wrong path, or a redirect that is not followed.
        200..=399 | 404 | 405 => Failed(T::Configuration),
        401 => Failed(unauthorized(said)),
        403 if said.code_is("LABEL_POLICY_VIOLATION") => Failed(T::LabelPolicy),
        403 if said.code_is("USER_NOT_AUTHORIZED") => Failed(T::NotAuthorized),
        403 if said.is_label_policy() => Failed(T::LabelPolicy),
        403 => Failed(T::NotAuthorized),
        400 if operation == Operation::Delete && said.has("is already deleted") => Gone,
        400 | 409 | 422 if operation == Operation::Delete && said.names_running_job() => Busy,
        400 if operation.registers() && said.is_unknown_to_github() => Failed(T::Configuration),
        400 => Failed(bad_request(said)),
        409 if operation.registers() => Failed(T::NameTaken),
        422 => Failed(T::InvalidRequest),
        429 if said.code_is("QUOTA_EXCEEDED") || said.is_quota() => Failed(T::Quota),
        429 => Failed(T::RateLimited),
        500 if operation == Operation::Delete && said.is_busy() => Busy,
        500 if operation.registers() && said.is_label_policy() => Failed(T::LabelPolicy),
        _ if operation == Operation::Read => Failed(T::Upstream),
        408 | 500..=599 => Failed(T::UnknownOutcome),
        _ if !said.json => Failed(T::UnknownOutcome),
        _ => Failed(T::Upstream),
    }
}

fn unauthorized(said: &Said) -> Trouble {
    if said.begins("authentication failed: 503:") {
        Trouble::IssuerDown
    } else if said.has("not yet valid (nbf)") {
        Trouble::ClockSkew
    } else {
        Trouble::Credentials
    }
}

fn bad_request(said: &Said) -> Trouble {
    if said.code_is("QUOTA_EXCEEDED") || said.is_quota() {
        Trouble::Quota
    } else if said.code_is("INVALID_LABELS") {
        Trouble::InvalidRequest
    } else if said.has("is currently active") || said.begins("github api error: already exists") {
        Trouble::NameTaken
    } else if said.begins("user is not a member of") {
        Trouble::NotAuthorized
    } else if said.json {
        Trouble::Upstream
    } else {
        Trouble::UnknownOutcome
    }
}

fn message(operation: Operation, status: u16, verdict: Verdict, said: &Said) -> String {
    let said_words = words(&said.detail);
    let mut text = format!("GHARTS answered {status}");
    if !said_words.is_empty() {
        text.push_str(": ");
        text.push_str(&said_words);
    } else if !said.json && !said.empty {
        text.push_str(" with something that is not JSON");
    }
    let remedy = match verdict {
        Verdict::Failed(Trouble::Configuration) if operation == Operation::Provision && said.json => {
            " (this version has no /runners/provision: only the older, user-based GHARTS hands out registration tokens)"
        }
        Verdict::Failed(Trouble::Configuration) if said.is_unknown_to_github() => {
            " (the GitHub App of this GHARTS must be installed in its organization, and gharts.runnerGroupId be a runner group there)"
        }
        Verdict::Failed(Trouble::Configuration) if !said.has("team") && !said.has("scale set") => {
            " (wrong URL or version: gharts.baseUrl must be the address under which /api/v1 is served, without a path to the web page)"
        }
        Verdict::Failed(Trouble::Configuration) if said.has("scale set") => {
            " (the GHARTS must serve the same organization as github.configUrl)"
        }
        Verdict::Failed(Trouble::InvalidRequest) => {
            " (GHARTS takes names and labels of letters, digits, - and _ only, names of at most 64)"
        }
        Verdict::Failed(Trouble::Credentials) => " (audience, issuer and key set of GHARTS must fit gharts.oidc)",
        Verdict::Failed(Trouble::ClockSkew) => " (the clocks of issuer and GHARTS differ)",
        _ => "",
    };
    text + remedy
}

/// The server's words for a person: a database's statement says nothing to one, and much to a stranger.
pub(crate) fn words(text: &str) -> String {
    let text = text.split("[SQL:").next().unwrap_or_default();
    redact(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json") || essence.to_ascii_lowercase().ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(operation: Operation, status: u16, body: &str) -> Answer {
        classify(
            operation,
            status,
            Some("application/json; charset=utf-8"),
            body.as_bytes(),
        )
    }

    fn trouble(operation: Operation, status: u16, body: &str) -> Trouble {
        match json(operation, status, body).verdict {
            Verdict::Failed(trouble) => trouble,
            other => panic!("{status} {body}: {other:?}"),
        }
    }

    #[test]
    fn b18_the_written_contracts_codes_and_texts_come_before_the_recorded_texts() {
        use Trouble as T;
        for (status, body, expected) in [
            (
                429,
                r#"{"detail":"Max runners exceeded","error_code":"QUOTA_EXCEEDED"}"#,
                T::Quota,
            ),
            (
                403,
                r#"{"detail":"No","error_code":"LABEL_POLICY_VIOLATION"}"#,
                T::LabelPolicy,
            ),
            (
                403,
                r#"{"detail":"Labels not permitted","error_code":"LABEL_POLICY_VIOLATION"}"#,
                T::LabelPolicy,
            ),
            (
                403,
                r#"{"detail":"Labels not permitted","error_code":"USER_NOT_AUTHORIZED"}"#,
                T::NotAuthorized,
            ),
            (
                400,
                r#"{"detail":"No","error_code":"INVALID_LABELS"}"#,
                T::InvalidRequest,
            ),
            (
                404,
                r#"{"detail":"Team 'backend-team' does not exist"}"#,
                T::Configuration,
            ),
            (
                403,
                r#"{"detail":"User not authorized for team 'backend-team'"}"#,
                T::NotAuthorized,
            ),
            (
                403,
                r#"{"detail":"Team 'b' is deactivated: restructuring"}"#,
                T::NotAuthorized,
            ),
            (
                403,
                r#"{"detail":"Labels ['x'] not permitted. Allowed patterns: ['b-.*']"}"#,
                T::LabelPolicy,
            ),
            (404, r#"{"detail":"Runner scale set 42 not found"}"#, T::Configuration),
            (400, r#"{"detail":"GitHub API error: Not Found"}"#, T::Configuration),
            // Of something else, for a while or for ever: GitHub's words, not its status.
            (
                400,
                r#"{"detail":"GitHub API error: Not Found: try again later"}"#,
                T::Upstream,
            ),
        ] {
            assert_eq!(trouble(Operation::Jit, status, body), expected, "{body}");
        }
    }

    #[test]
    fn b18_the_servers_own_words_and_code_reach_the_message() {
        let answer = json(
            Operation::Jit,
            403,
            r#"{"detail":"Team 'b' is deactivated: restructuring","error_code":"X"}"#,
        );
        assert_eq!(
            answer.message,
            "GHARTS answered 403: Team 'b' is deactivated: restructuring"
        );
        assert_eq!(answer.code.as_deref(), Some("X"));
    }

    #[test]
    fn b40_codes_that_servers_are_known_to_send_are_labels_and_all_others_are_one() {
        assert_eq!(label("QUOTA_EXCEEDED"), "QUOTA_EXCEEDED");
        for odd in ["", "quota_exceeded", "E-4711-2026-11-28T17:00:00Z"] {
            assert_eq!(label(odd), "other");
        }
    }

    #[test]
    fn b19_quota_is_recognised_in_every_form() {
        for (status, body) in [
            (429, r#"{"detail":"x","error_code":"QUOTA_EXCEEDED"}"#),
            (429, r#"{"detail":"Max runners exceeded"}"#),
            (400, r#"{"detail":"x","error_code":"QUOTA_EXCEEDED"}"#),
            (
                400,
                r#"{"detail":"Team 'q' runner quota exceeded. Maximum allowed: 2, current: 2"}"#,
            ),
            (
                400,
                r#"{"detail":"Runner quota exceeded. Maximum allowed: 0, current: 3"}"#,
            ),
        ] {
            assert_eq!(trouble(Operation::Jit, status, body), Trouble::Quota, "{body}");
        }
        assert_eq!(
            trouble(Operation::Jit, 429, r#"{"detail":"slow down"}"#),
            Trouble::RateLimited
        );
    }

    #[test]
    fn b20_what_an_ingress_says_is_an_unknown_outcome_or_a_wrong_url_never_success() {
        let html = |operation, status| classify(operation, status, Some("text/html"), b"<html>").verdict;
        for status in [500, 502, 503, 504, 400, 418] {
            assert_eq!(
                html(Operation::Jit, status),
                Verdict::Failed(Trouble::UnknownOutcome),
                "{status}"
            );
        }
        for status in [200, 201, 301, 307, 404, 405] {
            for operation in [Operation::Jit, Operation::Delete, Operation::Read] {
                let answer = classify(operation, status, Some("text/html"), b"<html>");
                assert_eq!(
                    answer.verdict,
                    Verdict::Failed(Trouble::Configuration),
                    "{operation:?} {status}"
                );
                assert!(answer.message.contains("wrong URL or version"), "{}", answer.message);
            }
        }
        assert_eq!(html(Operation::Read, 502), Verdict::Failed(Trouble::Upstream));
        assert_eq!(html(Operation::Jit, 429), Verdict::Failed(Trouble::RateLimited));
    }

    #[test]
    fn b12_busy_is_githubs_422_and_not_an_id_that_holds_these_digits() {
        let body = r#"{"detail":"Failed to deprovision runner: Client error '422 Unprocessable Entity' for url 'http://x/runners/1'"}"#;
        assert_eq!(json(Operation::Delete, 500, body).verdict, Verdict::Busy);
        for (status, body) in [
            (400, r#"{"detail":"GitHub API error: JobStillRunningException"}"#),
            (
                500,
                r#"{"detail":"Failed to deprovision runner: Runner is still running a job"}"#,
            ),
        ] {
            assert_eq!(json(Operation::Delete, status, body).verdict, Verdict::Busy, "{body}");
        }
        let body = r#"{"detail":"Failed to deprovision runner: Server error '500 Internal Server Error' for url 'http://x/runners/4220'"}"#;
        assert_eq!(trouble(Operation::Delete, 500, body), Trouble::UnknownOutcome);
    }

    #[test]
    fn b29_messages_are_one_line_cut_and_free_of_tokens() {
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";
        let config = "QUJD".repeat(40);
        let text = format!(
            "failed\n with {jwt} and {config} at http://u:p@h/p?token=s [SQL: INSERT secret] {}",
            "x ".repeat(900)
        );
        let words = words(&text);
        assert_eq!(words, "failed with [redacted] and [redacted] at http://h/p");
        let long = super::words(&"ab ".repeat(500));
        assert!(long.chars().count() <= 301 && long.ends_with('…'));
    }
}

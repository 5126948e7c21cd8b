//! Every way in which GHARTS says no, and what ten minutes of each cost: calls, tokens, capacity, the reason given,
//! the metric, and how soon jobs run again once the cause is gone. One reviewed table, and bounds that no review
//! can talk away.

mod measure;

use std::{fmt, time::Duration};

use bytes::Bytes;
use gharts_listener::sim::{
    gharts::Flavour,
    network::Trouble,
    world::{Binding, Options, Provisioner, TEAM},
};
use http::{Response, StatusCode, header};
use serde_json::json;

use self::measure::{Outcome, measure};
use super::harness::{Running, with_provisioner};

const JIT: &str = "POST /api/v1/runners/jit";
const PROVISION: &str = "POST /api/v1/runners/provision";
const GENERATE: &str = "/generatejitconfig";
const RECORDS: &str = "DELETE /api/v1/runners/";
const ALL: &str = "";

/// One trouble, and what it may cost.
struct Row {
    name: &'static str,
    cause: Cause,
    options: fn() -> Options,
    code: &'static str,
    bounds: Bounds,
}

enum Cause {
    /// Something between the daemon and a peer.
    OnTheWay {
        peer: Peer,
        /// Which calls meet it: part of `METHOD /path`.
        calls: &'static str,
        answer: String,
        trouble: Trouble,
    },
    /// GHARTS itself.
    AtTheServer {
        answer: &'static str,
        begin: fn(&Running),
        end: fn(&Running),
    },
}

#[derive(Clone, Copy)]
enum Peer {
    Gharts,
    GitHub,
}

impl Peer {
    fn host(self) -> &'static str {
        match self {
            Self::Gharts => "gharts.test",
            Self::GitHub => "github.test",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnTheWay {
                peer, calls, answer, ..
            } => {
                let to = if calls.is_empty() { "every call" } else { calls };
                let by = match peer {
                    Peer::Gharts => "",
                    Peer::GitHub => ", by GitHub",
                };
                write!(f, "{answer} to {to}{by}")
            }
            Self::AtTheServer { answer, .. } => f.write_str(answer),
        }
    }
}

/// How a class of refusals is met.
#[derive(Clone, Copy)]
struct Bounds {
    /// Calls of any kind in ten minutes, and in any minute of them.
    calls: usize,
    per_minute: usize,
    tokens: u64,
    /// No new runner may be asked for by GitHub meanwhile.
    capacity_falls: bool,
    cured_within: Duration,
}

/// Tried again within half a minute: a service or its issuer fails, clocks differ.
const FAULT: Bounds = Bounds {
    calls: 90,
    per_minute: 30,
    tokens: 0,
    capacity_falls: true,
    cured_within: Duration::from_secs(35),
};
/// Somebody else's place may become free at any moment.
const SCARCE: Bounds = Bounds {
    calls: 40,
    per_minute: 12,
    tokens: 0,
    capacity_falls: true,
    cured_within: Duration::from_secs(35),
};
/// Repeating cannot cure it: tried every five minutes.
const STUBBORN: Bounds = Bounds {
    calls: 14,
    per_minute: 10,
    tokens: 0,
    capacity_falls: true,
    cured_within: Duration::from_secs(305),
};

/// The same, and each refusal is looked into: what the team's own entry says.
const ABOUT_TEAM: Bounds = Bounds {
    calls: 20,
    per_minute: 12,
    ..STUBBORN
};

fn through_gharts() -> Options {
    with_provisioner(Provisioner::Gharts)
}

fn by_registration_tokens() -> Options {
    let mut options = through_gharts();
    options.flavour = Flavour::User;
    options.sets[0].binding = Binding::RegistrationToken;
    options
}

fn with_label() -> Options {
    let mut options = through_gharts();
    options.sets[0].gharts_labels = vec!["size-xl".to_owned()];
    options
}

impl Row {
    fn new(name: &'static str, code: &'static str, bounds: Bounds, cause: Cause) -> Self {
        Self {
            name,
            cause,
            options: through_gharts,
            code,
            bounds,
        }
    }

    fn answered(
        name: &'static str,
        calls: &'static str,
        status: u16,
        detail: &str,
        code: &'static str,
        bounds: Bounds,
    ) -> Self {
        Self::new(name, code, bounds, said(calls, status, json!({ "detail": detail })))
    }

    fn coded(name: &'static str, status: u16, detail: &str, error: &str, code: &'static str, bounds: Bounds) -> Self {
        let body = json!({ "detail": detail, "error_code": error });
        Self::new(name, code, bounds, said(JIT, status, body))
    }

    fn broken(
        name: &'static str,
        calls: &'static str,
        answer: &str,
        trouble: Trouble,
        code: &'static str,
        bounds: Bounds,
    ) -> Self {
        let cause = Cause::OnTheWay {
            peer: Peer::Gharts,
            calls,
            answer: answer.to_owned(),
            trouble,
        };
        Self::new(name, code, bounds, cause)
    }

    fn at_github(self) -> Self {
        let cause = match self.cause {
            Cause::OnTheWay {
                calls, answer, trouble, ..
            } => Cause::OnTheWay {
                peer: Peer::GitHub,
                calls,
                answer,
                trouble,
            },
            other @ Cause::AtTheServer { .. } => other,
        };
        Self { cause, ..self }
    }

    fn at_the_server(
        name: &'static str,
        answer: &'static str,
        code: &'static str,
        bounds: Bounds,
        begin: fn(&Running),
        end: fn(&Running),
    ) -> Self {
        Self::new(name, code, bounds, Cause::AtTheServer { answer, begin, end })
    }

    fn with(self, options: fn() -> Options) -> Self {
        Self { options, ..self }
    }
}

fn said(calls: &'static str, status: u16, body: serde_json::Value) -> Cause {
    let status = StatusCode::from_u16(status).unwrap();
    Cause::OnTheWay {
        peer: Peer::Gharts,
        calls,
        answer: format!("{} {body}", status.as_u16()),
        trouble: Trouble::Answered(status, body.to_string()),
    }
}

/// A page of something in between, or a bare status.
fn page(status: u16, body: &'static str, headers: &[(header::HeaderName, &'static str)]) -> Trouble {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(name, *value);
    }
    Trouble::Replied(answer.body(Bytes::from_static(body.as_bytes())).unwrap())
}

const HTML: (header::HeaderName, &str) = (header::CONTENT_TYPE, "text/html");
const JSON: (header::HeaderName, &str) = (header::CONTENT_TYPE, "application/json");

fn tokens_and_callers() -> Vec<Row> {
    vec![
        Row::answered(
            "401, the token itself",
            ALL,
            401,
            "Token validation failed: Invalid audience",
            "credentials",
            // It may be too new: it is tried again within the first minute.
            Bounds {
                calls: 16,
                tokens: 4,
                ..STUBBORN
            },
        ),
        Row::answered(
            "401, the issuer's keys cannot be had",
            ALL,
            401,
            "Authentication failed: 503: Failed to fetch JWKS: All connection attempts failed",
            "issuer_down",
            FAULT,
        ),
        Row::answered(
            "401, clocks differ",
            ALL,
            401,
            "Token validation failed: The token is not yet valid (nbf)",
            "clock_skew",
            FAULT,
        ),
        Row::answered(
            "403, subject not registered",
            ALL,
            403,
            "User not authorized. Contact administrator to request access.",
            "not_authorized",
            STUBBORN,
        ),
        Row::at_the_server(
            "403, user deactivated",
            "the user is deactivated",
            "not_authorized",
            STUBBORN,
            |running| {
                running
                    .world
                    .gharts
                    .set_user_active(&running.world.services.gharts_user, false);
            },
            |running| {
                running
                    .world
                    .gharts
                    .set_user_active(&running.world.services.gharts_user, true);
            },
        ),
        Row::answered(
            "403, user without can_use_jit",
            JIT,
            403,
            "Access to JIT API not permitted for this user.",
            "not_authorized",
            STUBBORN,
        ),
        Row::answered(
            "403, machine client disabled",
            ALL,
            403,
            "M2M client 'm2m-1c3ba6' is disabled. Contact an administrator to re-enable it.",
            "not_authorized",
            STUBBORN,
        ),
        Row::coded(
            "403 USER_NOT_AUTHORIZED",
            403,
            "User account is not authorized to provision runners",
            "USER_NOT_AUTHORIZED",
            "not_authorized",
            STUBBORN,
        ),
    ]
}

fn teams() -> Vec<Row> {
    vec![
        Row::at_the_server(
            "400, not a member of the team",
            "the user leaves the team",
            "not_authorized",
            ABOUT_TEAM,
            |running| {
                let gharts = &running.world.gharts;
                let team = gharts.team(TEAM).unwrap().id;
                gharts.remove_member(&team, &running.world.services.gharts_user);
            },
            |running| {
                let gharts = &running.world.gharts;
                let team = gharts.team(TEAM).unwrap().id;
                gharts.add_member(&team, &running.world.services.gharts_user);
            },
        ),
        Row::at_the_server(
            "400, team deactivated (its reason is told elsewhere)",
            "the team is deactivated",
            "not_authorized",
            ABOUT_TEAM,
            |running| running.world.gharts.deactivate_team(TEAM, "budget"),
            |running| running.world.gharts.reactivate_team(TEAM),
        ),
        Row::answered(
            "403, not a team member (seed)",
            JIT,
            403,
            "User not authorized for team 'platform'",
            "not_authorized",
            ABOUT_TEAM,
        ),
        Row::answered(
            "403, team deactivated, with its reason (seed)",
            JIT,
            403,
            "Team 'platform' is deactivated: budget",
            "not_authorized",
            ABOUT_TEAM,
        ),
        Row::answered(
            "404, team not found (seed)",
            JIT,
            404,
            "Team 'platform' does not exist",
            "configuration",
            ABOUT_TEAM,
        ),
        Row::answered(
            "404, no such scale set there (extension)",
            JIT,
            404,
            "Runner scale set 42 not found",
            "configuration",
            STUBBORN,
        ),
    ]
}

fn policies_and_requests() -> Vec<Row> {
    vec![
        Row::at_the_server(
            "403, required label missing",
            "the team requires the label gpu",
            "label_policy",
            STUBBORN,
            |running| running.world.gharts.set_policy(TEAM, &["gpu"], &[".*"]),
            |running| running.world.gharts.set_policy(TEAM, &[], &[".*"]),
        ),
        Row::at_the_server(
            "403, label not permitted",
            "the team permits windows-.* only",
            "label_policy",
            STUBBORN,
            |running| running.world.gharts.set_policy(TEAM, &[], &["windows-.*"]),
            |running| running.world.gharts.set_policy(TEAM, &[], &[".*"]),
        ),
        Row::coded(
            "403 LABEL_POLICY_VIOLATION",
            403,
            "Labels ['linux'] not permitted. Allowed patterns: ['backend-.*']",
            "LABEL_POLICY_VIOLATION",
            "label_policy",
            STUBBORN,
        ),
        Row::answered(
            "500, label policy (older version's provision)",
            PROVISION,
            500,
            "Failed to provision runner: Labels {'linux'} not permitted by policy. Allowed labels: {'arc'}.",
            "label_policy",
            STUBBORN,
        )
        .with(by_registration_tokens),
        Row::coded(
            "422, the request is malformed",
            422,
            "Validation error",
            "VALIDATION_ERROR",
            "invalid_request",
            STUBBORN,
        )
        .with(with_label),
        Row::coded(
            "400 INVALID_LABELS",
            400,
            "Invalid labels: ['size-xl']",
            "INVALID_LABELS",
            "invalid_request",
            STUBBORN,
        )
        .with(with_label),
    ]
}

fn quotas() -> Vec<Row> {
    vec![
        Row::at_the_server(
            "400, quota, in words",
            "the team's quota is 0",
            "quota_exceeded",
            SCARCE,
            |running| running.world.gharts.set_quota(TEAM, Some(0)),
            |running| running.world.gharts.set_quota(TEAM, None),
        ),
        Row::coded(
            "429 QUOTA_EXCEEDED",
            429,
            "Max runners exceeded: 10 of 10",
            "QUOTA_EXCEEDED",
            "quota_exceeded",
            SCARCE,
        ),
        Row::broken(
            "429, slow down, Retry-After 120",
            ALL,
            "429 {\"detail\":\"slow down\"}",
            page(429, r#"{"detail":"slow down"}"#, &[JSON, (header::RETRY_AFTER, "120")]),
            "rate_limited",
            Bounds {
                calls: 14,
                per_minute: 8,
                cured_within: Duration::from_secs(125),
                ..FAULT
            },
        ),
        Row::answered("429, slow down", ALL, 429, "slow down", "rate_limited", FAULT),
    ]
}

fn names() -> Vec<Row> {
    vec![
        Row::answered(
            "400, name in use in GHARTS",
            JIT,
            400,
            "Runner with name 'x' is currently active. Use a different name or wait until it's deleted.",
            "name_taken",
            FAULT,
        ),
        Row::answered(
            "400, name known to GitHub only",
            JIT,
            400,
            "GitHub API error: Already exists - A runner with the name x already exists.",
            "name_taken",
            FAULT,
        ),
    ]
}

fn failures() -> Vec<Row> {
    vec![
        Row::answered(
            "400, GitHub knows no such organization or runner group",
            JIT,
            400,
            "GitHub API error: Not Found",
            "configuration",
            STUBBORN,
        ),
        Row::answered(
            "400, GitHub failed",
            JIT,
            400,
            "GitHub API error: Server Error",
            "upstream",
            FAULT,
        ),
        Row::answered(
            "400, a text that nobody knows",
            JIT,
            400,
            "Expecting value: line 1 column 1 (char 0)",
            "upstream",
            FAULT,
        ),
        Row::answered(
            "500, GitHub did not answer",
            JIT,
            500,
            "Failed to provision JIT runner: ",
            "unknown_outcome",
            FAULT,
        ),
        Row::coded(
            "500, INTERNAL_ERROR, on requests for runners alone",
            500,
            "Internal server error",
            "INTERNAL_ERROR",
            "unknown_outcome",
            FAULT,
        ),
        Row::answered(
            "500, whatever is asked",
            ALL,
            500,
            "Internal server error",
            "unknown_outcome",
            FAULT,
        ),
        Row::broken(
            "502, a page",
            ALL,
            "502 <html>",
            page(502, "<html>bad gateway</html>", &[HTML]),
            "unknown_outcome",
            FAULT,
        ),
        Row::broken(
            "503, a page, Retry-After 90",
            ALL,
            "503 <html>",
            page(503, "<html>maintenance</html>", &[HTML, (header::RETRY_AFTER, "90")]),
            "unknown_outcome",
            Bounds {
                calls: 30,
                cured_within: Duration::from_secs(95),
                ..FAULT
            },
        ),
        Row::broken(
            "504, a page",
            JIT,
            "504 <html>",
            page(504, "<html>gateway time-out</html>", &[HTML]),
            "unknown_outcome",
            FAULT,
        ),
        Row::broken(
            "no answer at all",
            JIT,
            "silence",
            Trouble::Silence,
            "stalled",
            // Asked ever more rarely, at most every five minutes; and one question is given up after 45 s.
            Bounds {
                cured_within: Duration::from_secs(345),
                ..FAULT
            },
        ),
        Row::broken(
            "the connection breaks before the request arrives",
            ALL,
            "reset",
            Trouble::LostBefore,
            "unknown_outcome",
            FAULT,
        ),
        Row::broken(
            "the connection breaks before the answer arrives",
            JIT,
            "done, then reset",
            Trouble::LostAfter,
            "unknown_outcome",
            FAULT,
        ),
        Row::broken(
            "201 that cannot be read",
            JIT,
            "201 {\"runner_id\":7}",
            Trouble::Altered(std::sync::Arc::new(|_| Bytes::from_static(br#"{"runner_id":7}"#))),
            "unknown_outcome",
            FAULT,
        ),
        Row::at_the_server(
            "nobody listens",
            "GHARTS is away",
            "unreachable",
            FAULT,
            |running| {
                let _ = running.world.network.detach("gharts.test");
            },
            |running| {
                let router = running.world.gharts.router();
                running.world.network.attach("gharts.test", router);
            },
        ),
    ]
}

fn wrong_places() -> Vec<Row> {
    vec![
        Row::broken(
            "200, a web page",
            JIT,
            "200 <html>",
            page(200, "<html>", &[HTML]),
            "configuration",
            STUBBORN,
        ),
        Row::broken(
            "307, a redirect",
            JIT,
            "307",
            page(307, "", &[(header::LOCATION, "http://gharts.test/api/v1/runners/jit")]),
            "configuration",
            STUBBORN,
        ),
        Row::broken(
            "404, a web page",
            JIT,
            "404 <html>",
            page(404, "<html>", &[HTML]),
            "configuration",
            STUBBORN,
        ),
        Row::answered(
            "405, wrong version",
            JIT,
            405,
            "Method Not Allowed",
            "configuration",
            STUBBORN,
        ),
    ]
}

/// The older GHARTS hands out a registration token for each runner, and GitHub takes it.
fn registration_tokens() -> Vec<Row> {
    let rows = [
        Row::answered(
            "400, GitHub gave GHARTS no token",
            PROVISION,
            400,
            "GitHub API error: Server Error",
            "upstream",
            FAULT,
        ),
        Row::answered(
            "500, GitHub gave GHARTS no answer",
            PROVISION,
            500,
            "Failed to provision runner: ",
            "unknown_outcome",
            FAULT,
        ),
        Row::broken(
            "token handed out, and GitHub fails at the configuration",
            GENERATE,
            "500 <html>",
            page(500, "<html>unicorn</html>", &[HTML]),
            "unknown_outcome",
            FAULT,
        )
        .at_github(),
        Row::broken(
            "token handed out, and GitHub's answer is lost",
            GENERATE,
            "done, then reset",
            Trouble::LostAfter,
            "unknown_outcome",
            FAULT,
        )
        .at_github(),
        Row::broken(
            "token handed out, and GitHub forbids what is asked with it",
            "/actions/runner-registration",
            "403 {\"message\":\"Resource not accessible by integration\"}",
            page(403, r#"{"message":"Resource not accessible by integration"}"#, &[JSON]),
            "upstream",
            FAULT,
        )
        .at_github(),
        Row::answered(
            "400, quota (registration tokens)",
            PROVISION,
            400,
            "Runner quota exceeded. Maximum allowed: 2, current: 2",
            "quota_exceeded",
            SCARCE,
        ),
        Row::answered(
            "403, user without can_use_registration_token",
            PROVISION,
            403,
            "Access to registration token API not permitted for this user.",
            "not_authorized",
            STUBBORN,
        ),
        Row::answered(
            "405, a version that hands out no tokens",
            PROVISION,
            405,
            "Method Not Allowed",
            "binding_unsupported",
            STUBBORN,
        ),
        Row::broken(
            "token handed out, and GitHub does not take it",
            "/actions/runner-registration",
            "401 {\"message\":\"Bad credentials\"}",
            page(401, r#"{"message":"Bad credentials"}"#, &[JSON]),
            "upstream",
            FAULT,
        )
        .at_github(),
    ];
    rows.map(|row| row.with(by_registration_tokens)).into()
}

/// A deletion that finds nothing is a success: nothing stands in the way of any job.
const WELL: Bounds = Bounds {
    calls: 30,
    per_minute: 30,
    tokens: 0,
    capacity_falls: false,
    cured_within: Duration::from_secs(1),
};

fn deletions() -> Vec<Row> {
    vec![
        Row::answered(
            "404 to a deletion",
            RECORDS,
            404,
            "Runner with ID 'x' not found or not owned by you",
            "demand_met",
            WELL,
        ),
        Row::answered(
            "400 to a deletion, deleted already",
            RECORDS,
            400,
            "Runner 'x' is already deleted",
            "demand_met",
            WELL,
        ),
        Row::answered(
            "500 to a deletion",
            RECORDS,
            500,
            "Failed to deprovision runner: ",
            "demand_met",
            Bounds { calls: 60, ..WELL },
        ),
    ]
}

fn rows() -> Vec<Row> {
    [
        tokens_and_callers(),
        teams(),
        policies_and_requests(),
        quotas(),
        names(),
        failures(),
        wrong_places(),
        registration_tokens(),
        deletions(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Row {
    fn judge(&self, outcome: &Outcome) {
        let (name, bounds) = (self.name, &self.bounds);
        let (code, message, remedy) = &outcome.reason;
        assert_eq!(code, self.code, "{name}: {message}");
        let calls = &outcome.calls;
        assert!(calls.total() <= bounds.calls, "{name}: {:?}", calls.by_kind);
        let most = calls.most_in_a_minute;
        assert!(most <= bounds.per_minute, "{name}: {most} calls in one minute");
        assert!(outcome.tokens <= bounds.tokens, "{name}: {} tokens", outcome.tokens);
        let last = outcome.capacity.last().map(|(_, capacity)| *capacity);
        assert_eq!(last == Some(0), bounds.capacity_falls, "{name}: {:?}", outcome.capacity);
        let cured = outcome.cured_after;
        assert!(cured <= bounds.cured_within, "{name}: {cured:?}");
        let stubborn = bounds.cured_within > Duration::from_secs(300);
        assert!(!stubborn || remedy.is_some(), "{name}: no remedy");
    }
}

/// `INSTA_UPDATE=always` writes the table anew.
#[tokio::test(start_paused = true)]
async fn b15_b17_b18_b19_b20_b49_every_refusal_is_met_without_a_storm_and_is_over_when_its_cause_is() {
    let mut blocks = Vec::new();
    let mut outcomes = Vec::new();
    for row in rows() {
        let outcome = measure(&row).await;
        blocks.push(outcome.block(&row));
        outcomes.push((row, outcome));
    }
    insta::assert_snapshot!("refusals", blocks.join("\n"));
    for (row, outcome) in &outcomes {
        row.judge(outcome);
    }
}

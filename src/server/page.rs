//! The status page: what `/api/v1/status` says, for people. One document without scripts that loads nothing; texts
//! of strangers (names of scale sets, peers' words) are escaped by the template.

use http::{HeaderName, header};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::status::{ConfigurationStatus, ReasonStatus, SetStatus, Status};

const STYLE: &str = include_str!("page.css");
/// Between two looks, in seconds: the browser asks again by itself.
const REFRESH: u32 = 5;

/// Nothing is loaded, nothing runs, nobody frames it, and what it says is never old.
pub(super) const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

/// The page. Sets that need somebody come first.
pub(super) fn render(status: &Status) -> Markup {
    let mut sets: Vec<&SetStatus> = status.scale_sets.iter().collect();
    sets.sort_by_key(|set| set.flags().is_empty());
    let ailing = sets.iter().filter(|set| !set.flags().is_empty()).count();
    let title = match ailing {
        0 => format!("gharts-listener: {}", status.condition()),
        n => format!("gharts-listener: {n} of {} scale sets need a look", sets.len()),
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content=(REFRESH);
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "gharts-listener" }
                    span.state.ok[status.ready && !status.draining].bad[!status.ready] { (status.condition()) }
                    span { "version " (status.version) ", since " (time(&status.started_at)) }
                    @if let Some(words) = status.leader.words() { span { (words) } }
                    @if !status.not_ready.is_empty() {
                        ul { @for line in &status.not_ready { li { (line) } } }
                    }
                    (of_the_file(&status.configuration))
                }
                main {
                    @if sets.is_empty() { p.dim { "No scale sets yet." } }
                    @for set in sets { (section(set)) }
                }
                footer {
                    "Looks again every " (REFRESH) " s. For machines: "
                    a href="api/v1/status" { "status" } ", " a href="metrics" { "metrics" } "."
                }
            }
        }
    }
}

/// Nothing, while what the file says is in effect.
fn of_the_file(configuration: &ConfigurationStatus) -> Markup {
    html! {
        @if let Some(since) = &configuration.refused_since {
            p.bad { "The file has been refused since " (time(since)) "; older settings stay in effect." }
            ul { @for problem in &configuration.problems { li { (problem.path) ": " (problem.message) " (" (problem.remedy) ")" } } }
        }
        @if !configuration.needs_restart.is_empty() {
            p { "Changes of the file that need a restart:" }
            ul { @for change in &configuration.needs_restart { li { (change) } } }
        }
    }
}

fn section(set: &SetStatus) -> Markup {
    let (flags, demand) = (set.flags(), &set.demand);
    let runners: Vec<String> = set
        .runners_by_state()
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    html! {
        section.bad-set[!flags.is_empty()] {
            div.head {
                h2 { (set.name) }
                @if flags.is_empty() { span.ok { "ok" } } @else { span.bad { (flags.join(", ")) } }
                span.dim {
                    (set.provisioner) ", binding " (set.binding) ", session " (set.session)
                    @if let Some(seconds) = set.seconds_since_last_poll { ", heard " (seconds) " s ago" }
                }
            }
            div.figures {
                span { "jobs: " b { (demand.assigned) } " assigned, " b { (demand.running) } " running"
                    @if demand.available > 0 { ", " b { (demand.available) } " wait at GitHub" } }
                span { "runners: " b { @if runners.is_empty() { "none" } @else { (runners.join(", ")) } } }
                span { "capacity: " b { (set.capacity) } " of " (set.min_runners) ".." (set.max_runners) }
            }
            (bar(set))
            dl {
                @for (n, reason) in set.reasons.iter().enumerate() { (why(n, reason)) }
                @for note in &set.notes { dt { (note.code) } dd.dim { (note.message) } }
                @if let Some(error) = set.standing_error().filter(|error| !is_said(set, error)) {
                    dt { "last error" }
                    dd {
                        (error)
                        @if let Some(class) = &set.last_provision_error_class { " (" (class) ")" }
                        @if let Some(at) = &set.last_provision_error_at { span.dim { " at " (time(at)) } }
                    }
                }
            }
        }
    }
}

/// A reason says it already.
fn is_said(set: &SetStatus, error: &str) -> bool {
    set.reasons.iter().any(|reason| reason.message.contains(error))
}

/// Runners by state as a share of `maxRunners`.
fn bar(set: &SetStatus) -> Markup {
    let mut x = 0;
    let parts: Vec<(u32, u32, &str)> = set
        .runners_by_state()
        .map(|(count, word)| {
            let class = match word {
                "busy" | "idle" => word,
                _ => "other",
            };
            let from = x;
            x += count;
            (from, count, class)
        })
        .collect();
    let whole = set.max_runners.max(x).max(1);
    html! {
        div.bar {
            svg viewBox=(format!("0 0 {whole} 1")) preserveAspectRatio="none" role="img"
                aria-label=(format!("{x} of {} runners", set.max_runners)) {
                @for (x, width, class) in parts { rect.(class) x=(x) width=(width) height="1" {} }
            }
        }
    }
}

/// One reason; the remedy only of the first: mending another changes nothing yet.
fn why(n: usize, reason: &ReasonStatus) -> Markup {
    html! {
        dt { (reason.code) }
        dd {
            (reason.message)
            @if let Some(since) = &reason.since { span.dim { ", since " (time(since)) } }
            @if let Some(until) = &reason.until { span.dim { ", tried again at " (time(until)) } }
            @if let (0, Some(remedy)) = (n, &reason.remedy) { span.help.dim { "help: " (remedy) } }
        }
    }
}

/// Without the fraction of the second.
fn time(rfc3339: &str) -> Markup {
    let shown = match rfc3339.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => rfc3339.to_owned(),
    };
    html! { time datetime=(rfc3339) { (shown) } }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::status::DemandStatus;

    fn set(name: &str) -> SetStatus {
        SetStatus {
            name: name.to_owned(),
            session: "polling".to_owned(),
            max_runners: 10,
            reasons: vec![ReasonStatus {
                code: "demand_met".to_owned(),
                message: "every job has its runner".to_owned(),
                ..ReasonStatus::default()
            }],
            ..SetStatus::default()
        }
    }

    #[test]
    fn b39_texts_of_strangers_are_escaped_wherever_they_stand() {
        let evil = "<script>alert('x')</script>\"&";
        let mut set = set(evil);
        set.reasons[0].message = evil.to_owned();
        set.reasons[0].remedy = Some(evil.to_owned());
        set.last_provision_error = Some(format!("again {evil}"));
        set.last_provision_error_at = Some(evil.to_owned());
        set.provisioner = evil.to_owned();
        let status = Status {
            not_ready: vec![evil.to_owned()],
            started_at: evil.to_owned(),
            scale_sets: vec![set],
            ..Status::default()
        };
        let page = render(&status).into_string();
        assert!(!page.contains("<script") && !page.contains("\"&\""), "{page}");
        assert_eq!(page.matches("&lt;script&gt;").count(), 10, "{page}");
    }

    #[test]
    fn b39_the_page_says_what_runs_and_why_not_more_and_shows_ailing_sets_first() {
        let mut ailing = set("zulu");
        ailing.quota_exceeded = true;
        ailing.demand = DemandStatus {
            assigned: 9,
            running: 6,
            available: 4,
            ..DemandStatus::default()
        };
        ailing.runners = BTreeMap::from([("busy".to_owned(), 6), ("idle".to_owned(), 1)]);
        ailing.reasons = vec![ReasonStatus {
            code: "gharts_quota".to_owned(),
            message: "GHARTS: Maximum allowed: 7".to_owned(),
            remedy: Some("ask for a higher quota".to_owned()),
            since: Some("2026-11-23T08:10:00.123Z".to_owned()),
            until: None,
        }];
        let status = Status {
            ready: true,
            scale_sets: vec![set("alpha"), ailing],
            ..Status::default()
        };
        let page = render(&status).into_string();
        assert!(page.find(">zulu<") < page.find(">alpha<"), "{page}");
        for said in [
            "1 of 2 scale sets need a look",
            "quota exceeded",
            "1 idle, 6 busy",
            "wait at GitHub",
            "gharts_quota",
            "help: ask for a higher quota",
            ">2026-11-23T08:10:00Z<",
        ] {
            assert!(page.contains(said), "{said}: {page}");
        }
    }
}

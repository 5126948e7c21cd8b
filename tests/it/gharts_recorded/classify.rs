//! The client's half: each recorded answer has an explicit verdict, and each verdict a recorded answer.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a table that cannot be read must fail the test"
)]

use std::collections::{BTreeMap, BTreeSet};

use gharts_listener::gharts::{
    Operation, Trouble, Verdict,
    classify::{Answer, classify},
    wire,
};

const RECORDED: &str = include_str!("../fixtures/gharts-recorded.md");
const VERDICTS: &str = include_str!("../fixtures/gharts-recorded-verdicts.tsv");

type Key<'a> = (&'a str, &'a str);

struct Recorded<'a> {
    key: Key<'a>,
    status: u16,
    body: String,
}

/// Rows that are answers; observations have no status.
fn recorded() -> Vec<Recorded<'static>> {
    let rows = RECORDED
        .lines()
        .filter(|l| l.starts_with("| ") && !l.starts_with("| id "));
    rows.filter_map(|line| {
        let inner = line.strip_prefix("| ").and_then(|l| l.strip_suffix(" |")).expect(line);
        let (id, rest) = inner.split_once(" | ").expect(line);
        let (rest, version) = rest.rsplit_once(" | ").expect(line);
        if rest.starts_with("*observation*") {
            return None;
        }
        // The condition may hold anything but ` | NNN | `, the body anything at all.
        let at = (0..rest.len())
            .find(|at| rest.is_char_boundary(*at) && status_at(&rest[*at..]).is_some())
            .expect(line);
        let (status, body) = status_at(&rest[at..]).expect(line);
        let body = body.trim_matches('`').replace("\\|", "|");
        let body = if body == "(empty)" { String::new() } else { body };
        Some(Recorded {
            key: (id, version),
            status,
            body,
        })
    })
    .collect()
}

fn status_at(text: &str) -> Option<(u16, &str)> {
    let (status, body) = text.strip_prefix(" | ")?.split_once(" | ")?;
    Some((status.parse().ok().filter(|_| status.len() == 3)?, body))
}

fn verdicts() -> BTreeMap<Key<'static>, (Operation, Verdict)> {
    let mut table = BTreeMap::new();
    for line in VERDICTS.lines().filter(|l| !l.starts_with('#')) {
        let fields: Vec<_> = line.split('\t').collect();
        let [id, version, operation, verdict] = fields[..] else {
            panic!("four fields: {line}")
        };
        let operation = match operation {
            "jit" => Operation::Jit,
            "provision" => Operation::Provision,
            "delete" => Operation::Delete,
            "read" => Operation::Read,
            other => panic!("no such operation: {other}"),
        };
        let expected = match verdict {
            "done" => Verdict::Done,
            "gone" => Verdict::Gone,
            "busy" => Verdict::Busy,
            name => Verdict::Failed(trouble(name)),
        };
        let twice = table.insert((id, version), (operation, expected));
        assert!(twice.is_none(), "two expectations for {id} of {version}");
    }
    table
}

fn trouble(name: &str) -> Trouble {
    let all = [
        Trouble::Quota,
        Trouble::NameTaken,
        Trouble::LabelPolicy,
        Trouble::NotAuthorized,
        Trouble::InvalidRequest,
        Trouble::Configuration,
        Trouble::Credentials,
        Trouble::ClockSkew,
        Trouble::IssuerDown,
        Trouble::Upstream,
        Trouble::UnknownOutcome,
    ];
    let found = all.into_iter().find(|t| format!("{t:?}") == name);
    found.unwrap_or_else(|| panic!("no such trouble among recorded answers: {name}"))
}

fn read(row: &Recorded<'_>, operation: Operation) -> Answer {
    let content_type = (!row.body.is_empty()).then_some("application/json");
    classify(operation, row.status, content_type, row.body.as_bytes())
}

#[test]
fn b18_b19_b22_every_recorded_answer_means_what_the_table_says() {
    let mut table = verdicts();
    let rows = recorded();
    assert!(rows.len() > 250, "only {} rows were read", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        let Some((operation, expected)) = table.remove(&row.key) else {
            wrong.push(format!("{:?}: no expectation", row.key));
            continue;
        };
        let answer = read(row, operation);
        if answer.verdict != expected {
            wrong.push(format!(
                "{:?}: {:?} instead of {expected:?}: {}",
                row.key, answer.verdict, row.body
            ));
        }
    }
    wrong.extend(table.keys().map(|key| format!("{key:?}: expected, but not recorded")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn b18_every_recorded_refusal_reaches_the_user_in_the_servers_words_on_one_line() {
    let table = verdicts();
    for row in recorded() {
        let (operation, expected) = table[&row.key];
        if !matches!(expected, Verdict::Failed(_)) {
            continue;
        }
        let answer = read(&row, operation);
        assert!(
            !answer.message.contains('\n') && answer.message.chars().count() < 600,
            "{:?}",
            row.key
        );
        let Ok(body) = serde_json::from_str::<serde_json::Value>(&row.body) else {
            continue;
        };
        let first: String = body["detail"]
            .as_str()
            .unwrap()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        let begin: String = first.chars().take(60).collect();
        assert!(
            answer.message.contains(begin.trim_end()),
            "{:?}: {}",
            row.key,
            answer.message
        );
    }
}

#[test]
fn every_kind_of_trouble_that_answers_can_mean_was_recorded() {
    let seen: BTreeSet<String> = verdicts().values().map(|(_, v)| format!("{v:?}")).collect();
    // RateLimited and Unreachable never came from the service itself.
    assert_eq!(seen.len(), 3 + 11, "{seen:?}");
}

/// Rows whose body was recorded in full and holds `field`.
fn whole_bodies(field: &str) -> Vec<(Key<'static>, String)> {
    let holds = |body: &str| {
        let value: Result<serde_json::Value, _> = serde_json::from_str(body);
        value.is_ok_and(|v| v.get(field).is_some())
    };
    let rows = recorded()
        .into_iter()
        .filter(|row| row.status < 300 && holds(&row.body));
    rows.map(|row| (row.key, row.body)).collect()
}

#[test]
fn b22_every_recorded_grant_decodes_and_none_claims_to_be_bound_to_a_scale_set() {
    let grants = whole_bodies("encoded_jit_config");
    assert!(grants.len() > 50, "only {} grants", grants.len());
    for (key, body) in grants {
        let answer: wire::JitAnswer = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{key:?}: {e}"));
        assert_eq!(answer.runner_scale_set_id, None, "{key:?}");
        assert!(answer.labels.iter().any(|l| l == "self-hosted"), "{key:?}");
    }
}

#[test]
fn b22_every_recorded_identity_and_list_decodes_in_both_versions() {
    let identities = whole_bodies("oidc_sub");
    assert!(identities.len() >= 6, "only {} identities", identities.len());
    for ((id, version), body) in identities {
        let me: wire::Me = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{id}: {e}"));
        assert!(!me.binds_to_scale_sets());
        assert_eq!(me.is_machine(), id == "m2m.me", "{id}");
        let has_teams = me.teams.is_some();
        assert_eq!(
            has_teams,
            version == "main",
            "{id}: only the team-based version has teams"
        );
    }
    let lists = whole_bodies("runners");
    assert!(lists.len() >= 5, "only {} lists", lists.len());
    for (key, body) in lists {
        let page: wire::Page = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{key:?}: {e}"));
        assert!(matches!(page, wire::Page::Counted { total: Some(_), .. }), "{key:?}");
    }
    let records = whole_bodies("github_runner_id");
    assert!(records.len() >= 10, "only {} records", records.len());
    for (key, body) in records {
        let runner: wire::Runner = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{key:?}: {e}"));
        assert!(
            runner.created().is_some() && runner.github_runner_id.is_some(),
            "{key:?}"
        );
    }
}

//! The recorded table as data, and what makes two answers comparable.

use std::sync::LazyLock;

use regex::{Captures, Regex};

const TABLE: &str = include_str!("../../fixtures/gharts-recorded.md");

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: String,
    /// None for an observation.
    pub(super) status: Option<u16>,
    pub(super) body: String,
    pub(super) version: String,
}

pub(super) fn rows() -> Vec<Row> {
    let line = Regex::new(r"^\| (\S+) \| (.*?) \| (\d*) ?\| (.*) \| (main|arc|both) \|$").unwrap();
    let lines = TABLE.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| id "));
    let rows: Vec<Row> = lines
        .map(|l| {
            let cells = line.captures(l).unwrap_or_else(|| panic!("not a row: {l}"));
            let body = cells[4].trim().trim_matches('`').replace("\\|", "|");
            Row {
                id: cells[1].to_owned(),
                status: cells[3].parse().ok(),
                body: if body == "(empty)" { String::new() } else { body },
                version: cells[5].to_owned(),
            }
        })
        .collect();
    assert!(rows.len() > 300, "the table has shrunk to {} rows", rows.len());
    rows
}

/// Whether an answer's body is the recorded one, but for what differs from run to run.
pub(super) fn same_body(recorded: &str, answer: &str) -> Result<(), String> {
    let (recorded, cut) = match recorded.strip_suffix('…') {
        // The table cuts long bodies anywhere; what stands before the last whole field counts.
        Some(start) => (&start[..start.rfind(",\"").unwrap()], true),
        None => (recorded, false),
    };
    let (recorded, answer) = (normalised(recorded), normalised(answer));
    let same = if cut {
        answer.starts_with(&recorded)
    } else {
        answer == recorded
    };
    if same {
        Ok(())
    } else {
        Err(format!("recorded {recorded}\n     got {answer}"))
    }
}

/// What differs from run to run, and what stands for it.
static VARYING: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        // The marks of the two runs and the ports of their GitHubs.
        ("1c3ba6|f5603a", "<run>"),
        (r"127\.0\.0\.1:18[01]8", "127.0.0.1:18x8"),
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uuid>"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?", "<time>"),
        (r"[A-Za-z0-9+/]{80,}=*", "<base64…>"),
        (r"-[0-9a-f]{6}\b", "-<hex>"),
        (r#""(id|github_runner_id)":"?\d+"?"#, "\"$1\":<number>"),
        (r#""registration_token":"[A-Z0-9]+""#, "\"registration_token\":<token>"),
        (r"/actions/runners/\d+", "/actions/runners/<number>"),
    ]
    .map(|(pattern, with)| (Regex::new(pattern).unwrap(), with))
    .into()
});

/// Label lists of answers and sets of texts, whose order is a matter of hashing.
static SETS: LazyLock<[Regex; 2]> = LazyLock::new(|| {
    [r#"("labels":\[)([^\]]*)(\])"#, r"(\{)('[^}]*')(\})"].map(|pattern| Regex::new(pattern).unwrap())
});

/// Numbers of runners blotted out.
pub(super) fn without_counts(text: &str) -> String {
    static COUNTS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#""(total|pending|active|offline)":\d+"#).unwrap());
    COUNTS.replace_all(text, "\"$1\":<count>").into_owned()
}

fn normalised(text: &str) -> String {
    let sorted = |found: &Captures<'_>| {
        let mut items: Vec<&str> = found[2].split(',').map(str::trim).collect();
        items.sort_unstable();
        format!("{}{}{}", &found[1], items.join(","), &found[3])
    };
    let text = VARYING.iter().fold(text.to_owned(), |text, (varying, with)| {
        varying.replace_all(&text, *with).into_owned()
    });
    SETS.iter()
        .fold(text, |text, set| set.replace_all(&text, sorted).into_owned())
}

#[test]
fn only_what_differs_from_run_to_run_is_forgiven() {
    let quota = r#"{"detail":"Team 't-1c3ba6' runner quota exceeded. Maximum allowed: 2, current: 2"}"#;
    assert!(same_body(quota, &quota.replace("current: 2", "current: 3")).is_err());
    assert!(same_body("{'b', 'a'}", "{'a', 'b'}").is_ok());
    assert!(same_body("{'b', 'a'}", "{'a', 'c'}").is_err());
    assert!(same_body(r#"{"a":1,"b":2,"c…"#, r#"{"a":1,"b":2,"d":3}"#).is_ok());
    assert!(same_body(r#"{"a":1,"b":2,"c…"#, r#"{"a":1,"b":3,"d":3}"#).is_err());
    assert!(
        same_body(
            r#"{"at":"2026-11-23T03:00:00.123456"}"#,
            r#"{"at":"2026-11-23T03:00:00.123456Z"}"#
        )
        .is_err()
    );
}

//! What a refusal costs and how long it lingers: ten minutes of one trouble, written down as a few lines.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use gharts_listener::sim::{
    cable::Sent,
    github::{JobHandle, JobState},
};
use tokio::time::Instant;

use super::super::{
    gharts::tokens_requested,
    harness::{Run, Running, jobs},
};
use super::{Cause, Peer, Row};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// How long the trouble lasts.
const TEN_MINUTES: Duration = Duration::from_secs(600);
/// Jobs that wait meanwhile.
const JOBS: usize = 5;

/// What ten minutes of one trouble came to.
pub struct Outcome {
    pub calls: Calls,
    pub tokens: u64,
    /// Capacity at GitHub, and after how long it came to that.
    pub capacity: Vec<(Duration, u32)>,
    /// Code, message, remedy of the hardest reason at the end.
    pub reason: (String, String, Option<String>),
    /// Attempts by `status/error_code`.
    pub attempts: BTreeMap<String, u64>,
    /// From the end of the trouble until every job had a runner.
    pub cured_after: Duration,
}

/// Calls that GHARTS was sent.
pub struct Calls {
    pub by_kind: BTreeMap<&'static str, usize>,
    pub most_in_a_minute: usize,
}

impl Calls {
    fn of(log: &[Sent], from: Instant, until: Instant) -> Self {
        let sent: Vec<&Sent> = log
            .iter()
            .filter(|sent| sent.authority == Peer::Gharts.host() && (from..until).contains(&sent.at))
            .collect();
        let mut by_kind = BTreeMap::new();
        for sent in &sent {
            *by_kind.entry(kind(&sent.line)).or_default() += 1;
        }
        let in_minute_from = |first: &&Sent| {
            sent.iter()
                .filter(|s| (first.at..first.at + MINUTE).contains(&s.at))
                .count()
        };
        Self {
            by_kind,
            most_in_a_minute: sent.iter().map(in_minute_from).max().unwrap_or(0),
        }
    }

    pub fn total(&self) -> usize {
        self.by_kind.values().sum()
    }
}

fn kind(line: &str) -> &'static str {
    match line {
        "POST /api/v1/runners/jit" => "jit",
        "POST /api/v1/runners/provision" => "provision",
        "GET /api/v1/runners" => "list",
        "GET /api/v1/auth/me" => "me",
        "GET /openapi.json" => "openapi",
        line if line.starts_with("DELETE /api/v1/runners/") => "delete",
        _ => "other",
    }
}

/// Ten minutes of the row's trouble under waiting jobs, then its end. Leaves nothing behind.
pub async fn measure(row: &Row) -> Outcome {
    let _run = Run::called(row.name.to_owned());
    let running = Running::start((row.options)()).await;
    let first = running.queue(&jobs("linux", 1).lasting(SECOND)).await;
    running.until_finished(&first, MINUTE).await;
    running.pass(5 * SECOND).await;

    let (tokens, attempts) = (tokens_requested(&running), attempts(&running));
    let began = running.world.clock.instant();
    let trouble = row.cause.begin(&running);
    let queued = running.queue(&jobs("linux", JOBS).lasting(SECOND)).await;
    let mut capacity = Vec::new();
    while running.world.clock.instant() - began < TEN_MINUTES {
        let announced = running.world.github.set("linux").and_then(|set| set.announced);
        if let Some(now) = announced.filter(|now| capacity.last().is_none_or(|(_, last)| last != now)) {
            capacity.push((running.world.clock.instant() - began, now));
        }
        running.pass(SECOND).await;
    }
    let ended = running.world.clock.instant();
    let said = running.said_of("linux").unwrap();
    let reason = &said.reasons[0];
    let outcome = Outcome {
        calls: Calls::of(&running.daemon.cable.log(), began, ended),
        tokens: tokens_requested(&running) - tokens,
        capacity,
        reason: (reason.code.clone(), reason.message.clone(), reason.remedy.clone()),
        attempts: difference(&self::attempts(&running), &attempts),
        cured_after: cured(&running, row, trouble, &queued).await,
    };
    running.end().await;
    outcome
}

async fn cured(
    running: &Running,
    row: &Row,
    trouble: Option<gharts_listener::sim::network::Disturbance>,
    queued: &[JobHandle],
) -> Duration {
    let ended = running.world.clock.instant();
    row.cause.end(running, trouble);
    running
        .until("a runner for every job", |_| {
            running.count(queued, JobState::Finished) + running.count(queued, JobState::Running) == JOBS
        })
        .await;
    let took = running.world.clock.instant() - ended;
    running.until_finished(queued, MINUTE * 60).await;
    running
        .until("the end of what was wrong", |_| {
            running.said_of("linux").is_some_and(|said| !said.degraded)
        })
        .await;
    took
}

/// Of `arc_gharts_provision_attempts_total`, by labels.
fn attempts(running: &Running) -> BTreeMap<String, u64> {
    let label = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=\""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let text = running.sources.metrics.render();
    text.lines()
        .filter(|line| line.starts_with("arc_gharts_provision_attempts_total{"))
        .filter_map(|line| {
            let key = format!("{}/{}", label(line, "status")?, label(line, "error_code")?);
            Some((key, line.rsplit(' ').next()?.parse().ok()?))
        })
        .collect()
}

fn difference(now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    now.iter()
        .map(|(key, count)| (key.clone(), count - before.get(key).copied().unwrap_or(0)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

impl Outcome {
    /// One block of the table.
    pub fn block(&self, row: &Row) -> String {
        let list = |items: &BTreeMap<String, u64>| {
            let items: Vec<String> = items.iter().map(|(key, count)| format!("{key} {count}")).collect();
            items.join(", ")
        };
        let kinds = self.calls.by_kind.iter();
        let kinds = kinds.map(|(kind, count)| ((*kind).to_owned(), *count as u64)).collect();
        let capacity: Vec<String> = self
            .capacity
            .iter()
            .map(|(after, capacity)| format!("{capacity} ({} s)", after.as_secs()))
            .collect();
        let (code, message, remedy) = &self.reason;
        let mut block = String::new();
        let _ = writeln!(block, "{}", row.name);
        let _ = writeln!(block, "  answer    {}", row.cause);
        let calls = if self.calls.total() == 0 {
            "none".to_owned()
        } else {
            list(&kinds)
        };
        let _ = writeln!(
            block,
            "  calls     {calls}; at most {} in 60 s",
            self.calls.most_in_a_minute
        );
        let _ = writeln!(block, "  tokens    {}", self.tokens);
        let _ = writeln!(block, "  capacity  {}", capacity.join(" -> "));
        let _ = writeln!(block, "  reason    {code}: {}", without_names(message));
        let _ = writeln!(block, "  remedy    {}", remedy.as_deref().unwrap_or("-"));
        let _ = writeln!(block, "  metric    {}", list(&self.attempts));
        let _ = writeln!(
            block,
            "  cured     every job has a runner after {} s",
            self.cured_after.as_secs()
        );
        block
    }
}

/// Names of runners and ids are drawn; what the table says must not hang on the draw.
fn without_names(text: &str) -> String {
    let words = text.split(' ').map(|word| if is_uuid(word) { "<uuid>" } else { word });
    let text = words.collect::<Vec<_>>().join(" ");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("linux-") {
        let (before, name) = rest.split_at(at);
        let end = name
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .unwrap_or(name.len());
        out.push_str(before);
        out.push_str(if end == "linux-12345-1234567890".len() {
            "<runner>"
        } else {
            &name[..end]
        });
        rest = &name[end..];
    }
    out + rest
}

fn is_uuid(word: &str) -> bool {
    word.len() == 36 && word.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}

impl Cause {
    fn begin(&self, running: &Running) -> Option<gharts_listener::sim::network::Disturbance> {
        match self {
            Self::OnTheWay {
                peer, calls, trouble, ..
            } => Some(running.world.network.disturb(peer.host(), calls, trouble.clone())),
            Self::AtTheServer { begin, .. } => {
                begin(running);
                None
            }
        }
    }

    fn end(&self, running: &Running, trouble: Option<gharts_listener::sim::network::Disturbance>) {
        if let Some(trouble) = trouble {
            trouble.end();
        }
        if let Self::AtTheServer { end, .. } = self {
            end(running);
        }
    }
}

//! What a hunt came to, in words and as JSON.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use serde::Serialize;
use serde_json::json;

use super::seconds;
use crate::{
    plan::reason::Code,
    sim::hunt::{Breach, KINDS, Outcome, Plan},
};

/// One seed that fails.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    pub seed: u64,
    pub breaches: Vec<Breach>,
    /// The shortest plan found that fails in the same way.
    pub plan: Plan,
}

impl Failure {
    /// In one line.
    pub(super) fn brief(&self) -> String {
        let what = self.breaches.first().map(ToString::to_string).unwrap_or_default();
        format!("seed {} fails: {what}", self.seed)
    }
}

/// All seeds together.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub seeds: u64,
    pub took: Duration,
    pub failures: Vec<Failure>,
    /// In how many seeds each fault was met, by kind, and by kind and sort.
    pub met: BTreeMap<String, u64>,
    /// In how many seeds the daemon gave each reason.
    pub reasons: BTreeMap<String, u64>,
    /// The most calls to each peer in a minute.
    pub busiest: BTreeMap<String, usize>,
    /// The most that a daemon kept in memory, by kind.
    pub kept: BTreeMap<&'static str, usize>,
    pub jobs: usize,
    pub pods: usize,
    pub virtual_ms: u64,
    /// The longest that a world took until nothing was left.
    pub recovery_ms: u64,
    /// The hunt itself could not go on.
    pub broken: Option<String>,
}

impl Report {
    pub(super) fn count(&mut self, outcome: &Outcome, failure: Option<Failure>) {
        self.seeds += 1;
        self.failures.extend(failure);
        for met in &outcome.met {
            *self.met.entry(met.clone()).or_default() += 1;
        }
        for reason in &outcome.reasons {
            *self.reasons.entry(reason.clone()).or_default() += 1;
        }
        for (peer, most) in &outcome.busiest {
            let busiest = self.busiest.entry(peer.clone()).or_default();
            *busiest = (*busiest).max(*most);
        }
        for (what, most) in &outcome.kept {
            let kept = self.kept.entry(what).or_default();
            *kept = (*kept).max(*most);
        }
        self.jobs += outcome.jobs;
        self.pods += outcome.pods;
        self.virtual_ms += outcome.virtual_ms;
        self.recovery_ms = self.recovery_ms.max(outcome.recovery_ms);
    }

    /// Kinds of faults that no seed met.
    pub fn kinds_missed(&self) -> BTreeSet<&'static str> {
        KINDS.into_iter().filter(|kind| !self.met.contains_key(*kind)).collect()
    }

    /// Reasons that the daemon never gave.
    pub fn reasons_missed(&self) -> BTreeSet<&'static str> {
        let all = Code::ALL.into_iter().map(Code::as_str);
        all.filter(|code| !self.reasons.contains_key(*code)).collect()
    }

    fn per_second(&self) -> f64 {
        let seeds = u32::try_from(self.seeds).map_or(f64::MAX, f64::from);
        seeds / self.took.as_secs_f64().max(0.001)
    }

    /// How far a hunt through so many seeds is.
    pub(super) fn progress(&self, seeds: u64) -> String {
        let (done, rate, failed) = (self.seeds, self.per_second(), self.failures.len());
        format!("{done} of {seeds} seeds, {rate:.1} a second, {failed} fail")
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        for failure in &self.failures {
            let _ = writeln!(out, "seed {} fails", failure.seed);
            for breach in &failure.breaches {
                let _ = writeln!(out, "  {breach}");
            }
            let _ = writeln!(out, "shortest plan that fails so:\n{}", failure.plan);
            let plan = serde_json::to_string(&failure.plan).unwrap_or_default();
            let _ = writeln!(out, "  {plan}\nreplay: gharts-listener hunt --seed {}\n", failure.seed);
        }
        let _ = writeln!(
            out,
            "{} seeds in {} s ({:.1} a second), {} jobs, {} pods, {} hours of virtual time; the longest recovery took {} s",
            self.seeds,
            seconds(self.took),
            self.per_second(),
            self.jobs,
            self.pods,
            self.virtual_ms / 3_600_000,
            self.recovery_ms / 1000
        );
        let list = |counts: &BTreeMap<String, u64>| {
            let all = counts.iter().map(|(what, count)| format!("{what} {count}"));
            all.collect::<Vec<String>>().join(", ")
        };
        if self.seeds == 1 {
            return out;
        }
        let _ = writeln!(out, "faults met: {}", list(&self.met));
        let _ = writeln!(out, "reasons given: {}", list(&self.reasons));
        let _ = writeln!(out, "most calls in a minute: {:?}", self.busiest);
        let _ = writeln!(out, "most kept in memory: {:?}", self.kept);
        let words = |missed: BTreeSet<&str>| missed.into_iter().collect::<Vec<&str>>().join(", ");
        if !self.kinds_missed().is_empty() {
            let _ = writeln!(out, "faults that nobody met: {}", words(self.kinds_missed()));
        }
        if !self.reasons_missed().is_empty() {
            let _ = writeln!(out, "reasons never given: {}", words(self.reasons_missed()));
        }
        if let Some(error) = &self.broken {
            let _ = writeln!(out, "the hunt could not go on: {error}");
        }
        let _ = write!(
            out,
            "{}",
            match (self.failures.is_empty(), &self.broken) {
                (false, _) => "VIOLATIONS",
                (true, Some(_)) => "not all seeds were carried out",
                (true, None) => "no violation",
            }
        );
        if !self.failures.is_empty() {
            let seeds: Vec<String> = self.failures.iter().map(|failure| failure.seed.to_string()).collect();
            let _ = write!(out, " with {} seeds: {}", self.failures.len(), seeds.join(", "));
        }
        out
    }

    pub(super) fn json(&self) -> String {
        json!({
            "seeds": self.seeds, "seconds": self.took.as_secs_f64(), "seedsPerSecond": self.per_second(),
            "jobs": self.jobs, "pods": self.pods, "virtualSeconds": self.virtual_ms / 1000,
            "longestRecoverySeconds": self.recovery_ms / 1000,
            "faultsMet": self.met, "faultsMissed": self.kinds_missed(),
            "reasonsGiven": self.reasons, "reasonsMissed": self.reasons_missed(),
            "mostCallsInAMinute": self.busiest, "mostKept": self.kept, "failures": self.failures, "broken": self.broken,
        })
        .to_string()
    }
}

/// One run in a few lines.
pub(super) fn verdict(outcome: &Outcome) -> String {
    let mut out = String::new();
    for breach in &outcome.breaches {
        let _ = writeln!(out, "BROKEN {breach}");
    }
    let _ = write!(
        out,
        "{} jobs, {} pods, {} s of virtual time, recovered in {} s, digest {:016x}: {}",
        outcome.jobs,
        outcome.pods,
        outcome.virtual_ms / 1000,
        outcome.recovery_ms / 1000,
        outcome.digest,
        if outcome.breaches.is_empty() {
            "no violation"
        } else {
            "VIOLATIONS"
        }
    );
    out
}

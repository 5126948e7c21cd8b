//! What came of a demo: figures from the world, and a verdict.

use std::{collections::BTreeMap, fmt::Write as _};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    sim::{
        github::{JobState, JobView},
        serve::Served,
        world::{DaemonWrites, Excess, Leaks},
    },
    status::{ReasonStatus, Status},
};

/// What `--json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    jobs: usize,
    finished: usize,
    leaked: Leaks,
    max_live_runners: usize,
    limit_exceeded: Vec<Excess>,
    /// The daemon's own pod and Secret writes over finished jobs.
    writes_per_job: Option<f64>,
    writes: BTreeMap<String, u64>,
    /// In milliseconds.
    stages: BTreeMap<&'static str, Quantiles>,
    gharts: &'static str,
    binding: Vec<String>,
    reasons: Vec<ReasonStatus>,
    /// `ok`, or `bad`.
    pub(super) verdict: &'static str,
    /// Why it is bad.
    why: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Quantiles {
    p50: f64,
    p99: f64,
}

impl Report {
    pub(super) async fn new(
        served: &Served,
        jobs: usize,
        status: Option<&Status>,
        unserved: &[ReasonStatus],
        trouble: Option<String>,
    ) -> Self {
        let world = &served.world;
        let github = &world.services.github;
        let ended: Vec<JobView> = github
            .jobs()
            .into_iter()
            .filter(|job| job.state == JobState::Finished && job.started.is_some())
            .collect();
        let mut why: Vec<String> = trouble.into_iter().collect();
        let leaked = match Leaks::count(&world.services, &world.admin).await {
            Ok(leaked) => leaked,
            Err(error) => {
                why.push(error.to_string());
                Leaks::default()
            }
        };
        let limit_exceeded = world.counters.exceeded();
        if ended.len() < jobs {
            why.push(format!("{} of {jobs} jobs did not run", jobs - ended.len()));
        }
        why.extend(unserved.iter().map(|reason| reason.code.clone()));
        if !leaked.is_clean() {
            why.push("something was left behind".to_owned());
        }
        if !limit_exceeded.is_empty() {
            why.push(format!("{} runners were made beyond a limit", limit_exceeded.len()));
        }
        why.extend(github.violations().iter().map(|violation| format!("{violation:?}")));
        let writes = world.kubernetes.as_ref().map(DaemonWrites::of).unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "counts of a demo are small")]
        let per_job = |total: u64| (!ended.is_empty()).then(|| total as f64 / ended.len() as f64);
        let sets = status.map_or(&[][..], |status| &status.scale_sets);
        let mut binding: Vec<String> = sets.iter().map(|set| set.binding.clone()).collect();
        binding.dedup();
        Self {
            jobs,
            finished: ended.len(),
            leaked,
            max_live_runners: world.counters.max_live(),
            limit_exceeded,
            writes_per_job: per_job(writes.total()),
            writes: writes.by_kind,
            stages: stages(served, &ended),
            gharts: world.services.gharts.flavour().name(),
            binding,
            reasons: if unserved.is_empty() {
                sets.iter().flat_map(|set| set.reasons.clone()).collect()
            } else {
                unserved.to_vec()
            },
            verdict: if why.is_empty() { "ok" } else { "bad" },
            why,
        }
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "\n{} of {} jobs finished; at most {} runners at once\n",
            self.finished, self.jobs, self.max_live_runners
        );
        if let Some(writes) = self.writes_per_job {
            let _ = writeln!(text, "{writes:.2} Kubernetes writes per job");
        }
        for (stage, times) in &self.stages {
            let _ = writeln!(
                text,
                "  {stage:<22} p50 {:8.1} ms   p99 {:8.1} ms",
                times.p50, times.p99
            );
        }
        if self.verdict == "ok" {
            text.push_str("\nVerdict: every job finished, nothing leaked, no limit was exceeded.\n");
            return text;
        }
        let _ = writeln!(text, "\nVerdict: bad: {}.", self.why.join("; "));
        if !self.leaked.is_clean() {
            let _ = writeln!(text, "  left behind: {:?}", self.leaked);
        }
        text
    }
}

fn stages(served: &Served, jobs: &[JobView]) -> BTreeMap<&'static str, Quantiles> {
    let mut samples: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for job in jobs {
        let runner = job.runner.as_deref().unwrap_or_default();
        let asked = served.witness.runner(runner);
        let pod = served.world.counters.pod(runner);
        let requested = asked.map(|asked| asked.requested);
        let granted = asked.and_then(|asked| asked.granted);
        let created = pod.map(|pod| pod.created);
        let registered = served.world.services.github.connected(runner);
        let spans = [
            ("queuedToRequested", Some(job.queued), requested),
            ("requestedToGranted", requested, granted),
            ("grantedToPod", granted, created),
            ("podToRegistered", created, registered),
            ("registeredToRunning", registered, job.started),
            ("queuedToPod", Some(job.queued), created),
            ("queuedToRunning", Some(job.queued), job.started),
            ("runningToFinished", job.started, job.finished),
            (
                "endedToRemoved",
                pod.and_then(|pod| pod.ended),
                pod.and_then(|pod| pod.gone),
            ),
        ];
        for (stage, from, to) in spans {
            if let (Some(from), Some(to)) = (from, to) {
                samples.entry(stage).or_default().push(milliseconds(from, to));
            }
        }
    }
    samples
        .into_iter()
        .map(|(stage, times)| (stage, quantiles(times)))
        .collect()
}

/// A runner may be there before its job: then nobody waited.
fn milliseconds(from: Timestamp, to: Timestamp) -> f64 {
    (to.duration_since(from).as_secs_f64() * 1000.0).max(0.0)
}

fn quantiles(mut times: Vec<f64>) -> Quantiles {
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(index).map_or(0.0, |ms| (ms * 1000.0).round() / 1000.0)
    };
    Quantiles {
        p50: at(50),
        p99: at(99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let quantiles = quantiles((1..=200).rev().map(f64::from).collect());
        assert_eq!((quantiles.p50, quantiles.p99), (100.0, 198.0));
    }
}

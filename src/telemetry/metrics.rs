//! Metrics (B40), in words of the domain. The only module that knows `prometheus`.
//!
//! Three families: `gha_*` with the established controller's names, label keys and buckets, so that
//! dashboards keep working; `arc_gharts_*` as the seed drew them; `gharts_listener_*` for what both lack.
//! Nothing here decides anything. Series of a scale set go when the set goes ([`Metrics::remove_set`]).

use std::{collections::HashMap, sync::Arc, time::Duration};

use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
    core::{Collector, MetricVec, MetricVecBuilder},
    proto::MetricFamily,
};

/// The established controller's buckets, in seconds.
const JOB_BUCKETS: &[f64] = &[
    0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 15.0, 18.0, 20.0, 25.0, 30.0, 40.0,
    50.0, 60.0, 70.0, 80.0, 90.0, 100.0, 110.0, 120.0, 150.0, 180.0, 210.0, 240.0, 300.0, 360.0, 420.0, 480.0, 540.0,
    600.0, 900.0, 1200.0, 1800.0, 2400.0, 3000.0, 3600.0,
];
/// Calls to a token service: up to their deadline of 45 s.
const CALL_BUCKETS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];

const SET: &[&str] = &["enterprise", "organization", "repository", "name", "namespace"];
const JOB: &[&str] = &["enterprise", "organization", "repository", "job_name", "event_name"];
const JOB_RESULT: &[&str] = &[
    "enterprise",
    "organization",
    "repository",
    "job_name",
    "event_name",
    "job_result",
];

/// Media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Which scale set a `gha_*` gauge speaks of. Organization and repository come from the configured URL.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetLabels<'a> {
    pub enterprise: &'a str,
    pub organization: &'a str,
    pub repository: &'a str,
    /// The scale set.
    pub name: &'a str,
    /// Namespace of the runners.
    pub namespace: &'a str,
}

impl SetLabels<'_> {
    fn values(&self) -> [&str; 5] {
        [
            self.enterprise,
            self.organization,
            self.repository,
            self.name,
            self.namespace,
        ]
    }
}

/// Which job a message speaks of. Organization and repository come from the message.
#[derive(Clone, Copy, Debug, Default)]
pub struct JobLabels<'a> {
    pub enterprise: &'a str,
    pub organization: &'a str,
    pub repository: &'a str,
    /// Left out of the labels unless job names are switched on: their number has no bound.
    pub job_name: &'a str,
    pub event_name: &'a str,
}

/// What the control loop keeps in memory and grows with what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Runners of whom something is still to be done or known.
    Runners,
    /// Starts that may still be given up.
    Starts,
    /// Runners that were begun under another configuration.
    FormerRunners,
    /// Jobs that are known by their messages alone.
    JobsHeardOf,
    /// Refusals that hold creation back.
    Limits,
    /// Registrations whose age nobody tells.
    AgentsSeen,
    /// Pods seen while standing by.
    StandbyPods,
    /// Subjects of Kubernetes Events.
    Notices,
    /// What waits for the loop.
    Events,
    /// Calls under way.
    Calls,
}

impl Kept {
    pub const ALL: [Self; 10] = [
        Self::Runners,
        Self::Starts,
        Self::FormerRunners,
        Self::JobsHeardOf,
        Self::Limits,
        Self::AgentsSeen,
        Self::StandbyPods,
        Self::Notices,
        Self::Events,
        Self::Calls,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runners => "runners",
            Self::Starts => "starts",
            Self::FormerRunners => "former_runners",
            Self::JobsHeardOf => "jobs_heard_of",
            Self::Limits => "limits",
            Self::AgentsSeen => "agents_seen",
            Self::StandbyPods => "standby_pods",
            Self::Notices => "notices",
            Self::Events => "events",
            Self::Calls => "calls",
        }
    }

    /// It is forgotten with the runners that it is about.
    pub fn is_of_runners(self) -> bool {
        matches!(
            self,
            Self::Runners | Self::Starts | Self::FormerRunners | Self::JobsHeardOf
        )
    }

    /// It is as much as there are pods of any installation with our labels.
    pub fn is_of_pods(self) -> bool {
        self == Self::StandbyPods
    }
}

/// GitHub's statistics of one scale set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Jobs {
    pub available: i64,
    pub acquired: i64,
    pub assigned: i64,
    pub running: i64,
    pub registered_runners: i64,
    pub busy_runners: i64,
    pub idle_runners: i64,
}

/// Every metric of the process, in a registry of its own. Clones share it.
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    job_names: bool,

    assigned_jobs: IntGaugeVec,
    running_jobs: IntGaugeVec,
    registered_runners: IntGaugeVec,
    busy_runners: IntGaugeVec,
    idle_runners: IntGaugeVec,
    min_runners: IntGaugeVec,
    max_runners: IntGaugeVec,
    desired_runners: IntGaugeVec,
    started_jobs: IntCounterVec,
    completed_jobs: IntCounterVec,
    job_startup: HistogramVec,
    job_execution: HistogramVec,

    provision_attempts: IntCounterVec,
    provision_duration: HistogramVec,
    token_refreshes: IntCounter,

    available_jobs: IntGaugeVec,
    acquired_jobs: IntGaugeVec,
    queue_time: HistogramVec,
    stage: HistogramVec,
    capacity: IntGaugeVec,
    runners: IntGaugeVec,
    reasons: IntGaugeVec,
    notes: IntGaugeVec,
    failures: IntCounterVec,
    poll_age: GaugeVec,
    session_conflicts: IntCounterVec,
    sets_recreated: IntCounterVec,
    token_renewals: IntCounterVec,
    undecodable: IntCounterVec,
    orphans: IntCounterVec,
    leader: IntGauge,
    kept: IntGaugeVec,
    config_generation: IntGauge,
    config_refused: IntGauge,
    config_failures: IntCounter,
    config_success: Gauge,
}

impl Metrics {
    /// `job_names`: whether `job_name` carries the jobs' names.
    pub fn new(job_names: bool) -> Self {
        let registry = Registry::new();
        let r = &registry;
        let set = &["set"];
        build_info(r);
        let inner = Inner {
            job_names,
            assigned_jobs: gauges(r, "gha_assigned_jobs", "Jobs assigned to this scale set.", SET),
            running_jobs: gauges(
                r,
                "gha_running_jobs",
                "Jobs running or queued to run on its runners.",
                SET,
            ),
            registered_runners: gauges(
                r,
                "gha_registered_runners",
                "Runners registered with the scale set.",
                SET,
            ),
            busy_runners: gauges(r, "gha_busy_runners", "Registered runners that run a job.", SET),
            idle_runners: gauges(r, "gha_idle_runners", "Registered runners that run no job.", SET),
            min_runners: gauges(r, "gha_min_runners", "Idle runners kept ready, as configured.", SET),
            max_runners: gauges(r, "gha_max_runners", "Most runners, as configured.", SET),
            desired_runners: gauges(r, "gha_desired_runners", "Runners that demand and limits ask for.", SET),
            started_jobs: counters(r, "gha_started_jobs_total", "Jobs started.", JOB),
            completed_jobs: counters(r, "gha_completed_jobs_total", "Jobs completed.", JOB_RESULT),
            job_startup: histograms(
                r,
                "gha_job_startup_duration_seconds",
                "From a job's assignment to the scale set until a runner had it.",
                JOB,
                JOB_BUCKETS,
            ),
            job_execution: histograms(
                r,
                "gha_job_execution_duration_seconds",
                "From the moment a runner had a job until it finished.",
                JOB_RESULT,
                JOB_BUCKETS,
            ),
            provision_attempts: counters(
                r,
                "arc_gharts_provision_attempts_total",
                "Total number of GHARTS provision attempts.",
                &["status", "error_code"],
            ),
            provision_duration: histograms(
                r,
                "arc_gharts_provision_duration_seconds",
                "Duration of GHARTS provision requests.",
                &["status"],
                CALL_BUCKETS,
            ),
            token_refreshes: registered(
                r,
                IntCounter::new(
                    "arc_gharts_token_refreshes_total",
                    "Total number of OIDC token refreshes.",
                ),
            ),
            available_jobs: gauges(
                r,
                "gharts_listener_available_jobs",
                "Jobs offered to the scale set.",
                set,
            ),
            acquired_jobs: gauges(
                r,
                "gharts_listener_acquired_jobs",
                "Jobs acquired by the scale set.",
                set,
            ),
            queue_time: histograms(
                r,
                "gharts_listener_job_queue_seconds",
                "From a job's queueing until a runner had it.",
                set,
                JOB_BUCKETS,
            ),
            stage: histograms(
                r,
                "gharts_listener_stage_seconds",
                "From the decision to make a runner until it reached this stage of its start.",
                &["set", "stage"],
                JOB_BUCKETS,
            ),
            capacity: gauges(r, "gharts_listener_capacity", "Capacity announced to GitHub.", set),
            runners: gauges(
                r,
                "gharts_listener_runners",
                "Live runners by state.",
                &["set", "state"],
            ),
            reasons: gauges(
                r,
                "gharts_listener_reason",
                "1 while this is a reason why the set has not more runners.",
                &["set", "reason"],
            ),
            notes: gauges(
                r,
                "gharts_listener_note",
                "1 while this is not as the file wants it at GitHub, though the set works.",
                &["set", "note"],
            ),
            failures: counters(
                r,
                "gharts_listener_failures_total",
                "Runners that failed, by reason.",
                &["set", "reason"],
            ),
            poll_age: registered(
                r,
                GaugeVec::new(
                    Opts::new(
                        "gharts_listener_poll_age_seconds",
                        "Since the last answer of the message queue.",
                    ),
                    set,
                ),
            ),
            session_conflicts: counters(
                r,
                "gharts_listener_session_conflicts_total",
                "Sessions refused because somebody else holds one.",
                set,
            ),
            sets_recreated: counters(
                r,
                "gharts_listener_sets_recreated_total",
                "Scale sets that were gone at GitHub and were created again.",
                set,
            ),
            token_renewals: counters(
                r,
                "gharts_listener_token_renewals_total",
                "Tokens asked for, by what they are for and what came of it.",
                &["token", "result"],
            ),
            undecodable: counters(
                r,
                "gharts_listener_undecodable_messages_total",
                "Entries of messages that could not be read.",
                set,
            ),
            orphans: counters(
                r,
                "gharts_listener_orphans_removed_total",
                "Pods, agents and records that belonged to no runner.",
                &["set", "kind"],
            ),
            leader: registered(
                r,
                IntGauge::new(
                    "gharts_listener_leader",
                    "1 while this replica leads, 0 while it stands by.",
                ),
            ),
            kept: gauges(
                r,
                "gharts_listener_kept",
                "What the control loop keeps in memory, by kind. It follows the runners and sets of now.",
                &["what"],
            ),
            config_generation: registered(
                r,
                IntGauge::new(
                    "gharts_listener_config_generation",
                    "Counts the configurations that have been in effect; 1 is the one of the start.",
                ),
            ),
            config_refused: registered(
                r,
                IntGauge::new(
                    "gharts_listener_config_refused",
                    "1 while the file is refused and older settings are in effect.",
                ),
            ),
            config_failures: registered(
                r,
                IntCounter::new(
                    "gharts_listener_config_reload_failures_total",
                    "Changes of the file that were refused.",
                ),
            ),
            config_success: registered(
                r,
                Gauge::new(
                    "gharts_listener_config_reload_success_timestamp_seconds",
                    "Unix time when the file, or a secret that it names, was last taken over.",
                ),
            ),
            registry,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Newest statistics of GitHub.
    pub fn statistics(&self, set: &SetLabels<'_>, jobs: Jobs) {
        let m = &self.inner;
        for (gauge, value) in [
            (&m.assigned_jobs, jobs.assigned),
            (&m.running_jobs, jobs.running),
            (&m.registered_runners, jobs.registered_runners),
            (&m.busy_runners, jobs.busy_runners),
            (&m.idle_runners, jobs.idle_runners),
        ] {
            gauge.with_label_values(&set.values()).set(value);
        }
        m.available_jobs.with_label_values(&[set.name]).set(jobs.available);
        m.acquired_jobs.with_label_values(&[set.name]).set(jobs.acquired);
    }

    /// The file was taken over, `at` in seconds of Unix time; its settings are the `generation`th in effect.
    #[expect(clippy::cast_precision_loss, reason = "no time of this age comes near 2^53 seconds")]
    pub fn config_taken(&self, generation: u64, at: i64) {
        self.inner
            .config_generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.inner.config_refused.set(0);
        self.inner.config_success.set(at as f64);
    }

    /// The file has changed and is refused.
    pub fn config_refused(&self) {
        self.inner.config_refused.set(1);
        self.inner.config_failures.inc();
    }

    /// As configured.
    pub fn bounds(&self, set: &SetLabels<'_>, min: u32, max: u32) {
        self.inner.min_runners.with_label_values(&set.values()).set(min.into());
        self.inner.max_runners.with_label_values(&set.values()).set(max.into());
    }

    pub fn desired(&self, set: &SetLabels<'_>, runners: u32) {
        let gauge = self.inner.desired_runners.with_label_values(&set.values());
        gauge.set(runners.into());
    }

    /// `startup`: from the assignment to the set until the assignment to a runner, where both are known.
    pub fn job_started(&self, job: &JobLabels<'_>, startup: Option<Duration>) {
        let labels = self.job_values(job);
        self.inner.started_jobs.with_label_values(&labels).inc();
        if let Some(startup) = startup {
            let histogram = self.inner.job_startup.with_label_values(&labels);
            histogram.observe(whole_seconds(startup));
        }
    }

    /// `execution`: from the assignment to a runner until the end, where both are known.
    pub fn job_completed(&self, job: &JobLabels<'_>, result: &str, execution: Option<Duration>) {
        let [enterprise, organization, repository, name, event] = self.job_values(job);
        let labels = [enterprise, organization, repository, name, event, result];
        self.inner.completed_jobs.with_label_values(&labels).inc();
        if let Some(execution) = execution {
            let histogram = self.inner.job_execution.with_label_values(&labels);
            histogram.observe(whole_seconds(execution));
        }
    }

    fn job_values<'a>(&self, job: &JobLabels<'a>) -> [&'a str; 5] {
        let name = if self.inner.job_names { job.job_name } else { "" };
        [job.enterprise, job.organization, job.repository, name, job.event_name]
    }

    /// One try at a runner. `error_code` is the server's, our class where it has none, empty on success.
    pub fn provision_attempt(&self, status: &str, error_code: &str, took: Duration) {
        let attempts = self.inner.provision_attempts.with_label_values(&[status, error_code]);
        attempts.inc();
        let histogram = self.inner.provision_duration.with_label_values(&[status]);
        histogram.observe(took.as_secs_f64());
    }

    /// A fresh token for GHARTS.
    pub fn token_refreshed(&self) {
        self.inner.token_refreshes.inc();
    }

    /// `token`: what it is for (`gharts`, `github` or `registration`); `ok`: whether one was had.
    pub fn token_renewal(&self, token: &str, ok: bool) {
        let result = if ok { "ok" } else { "failed" };
        self.inner.token_renewals.with_label_values(&[token, result]).inc();
    }

    pub fn queue_time(&self, set: &str, waited: Duration) {
        let histogram = self.inner.queue_time.with_label_values(&[set]);
        histogram.observe(waited.as_secs_f64());
    }

    /// One stage of a runner's start: `jit`, `pod`, `registered`, `started`. `took`: since it was decided.
    pub fn stage(&self, set: &str, stage: &str, took: Duration) {
        let histogram = self.inner.stage.with_label_values(&[set, stage]);
        histogram.observe(took.as_secs_f64());
    }

    pub fn capacity(&self, set: &str, capacity: u32) {
        self.inner.capacity.with_label_values(&[set]).set(capacity.into());
    }

    /// All states of one set at once; a state that is no longer named reads 0.
    pub fn runners<'a>(&self, set: &str, states: impl IntoIterator<Item = (&'a str, u32)>) {
        for series in series(&self.inner.runners, "set", set) {
            set_series(&self.inner.runners, &series, 0);
        }
        for (state, count) in states {
            let gauge = self.inner.runners.with_label_values(&[set, state]);
            gauge.set(count.into());
        }
    }

    /// All reasons of one set at once; the others disappear.
    pub fn reasons<'a>(&self, set: &str, reasons: impl IntoIterator<Item = &'a str>) {
        only(&self.inner.reasons, "reason", set, reasons);
    }

    /// All notes of one set at once; the others disappear.
    pub fn notes<'a>(&self, set: &str, notes: impl IntoIterator<Item = &'a str>) {
        only(&self.inner.notes, "note", set, notes);
    }

    pub fn failure(&self, set: &str, reason: &str) {
        self.inner.failures.with_label_values(&[set, reason]).inc();
    }

    pub fn poll_age(&self, set: &str, age: Duration) {
        self.inner.poll_age.with_label_values(&[set]).set(age.as_secs_f64());
    }

    /// Whether this replica leads.
    pub fn leader(&self, leads: bool) {
        self.inner.leader.set(i64::from(leads));
    }

    /// What the loop keeps in memory.
    pub fn keeps(&self, kept: impl Iterator<Item = (Kept, usize)>) {
        for (what, count) in kept {
            let gauge = self.inner.kept.with_label_values(&[what.as_str()]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// What was last said of one kind by [`Self::keeps`].
    pub fn kept(&self, what: Kept) -> usize {
        let gauge = self.inner.kept.with_label_values(&[what.as_str()]);
        usize::try_from(gauge.get()).unwrap_or(0)
    }

    pub fn session_conflict(&self, set: &str) {
        self.inner.session_conflicts.with_label_values(&[set]).inc();
    }

    /// The scale set was gone at GitHub and is there again.
    pub fn set_recreated(&self, set: &str) {
        self.inner.sets_recreated.with_label_values(&[set]).inc();
    }

    pub fn undecodable_message(&self, set: &str) {
        self.inner.undecodable.with_label_values(&[set]).inc();
    }

    /// `kind`: `pod`, `agent` or `record`.
    pub fn orphan_removed(&self, set: &str, kind: &str) {
        self.inner.orphans.with_label_values(&[set, kind]).inc();
    }

    /// Ends every series of a scale set. Job series carry no set and stay.
    pub fn remove_set(&self, set: &str) {
        let m = &self.inner;
        for gauge in [
            &m.assigned_jobs,
            &m.running_jobs,
            &m.registered_runners,
            &m.busy_runners,
            &m.idle_runners,
            &m.min_runners,
            &m.max_runners,
            &m.desired_runners,
        ] {
            forget(gauge, "name", set);
        }
        for gauge in [
            &m.available_jobs,
            &m.acquired_jobs,
            &m.capacity,
            &m.runners,
            &m.reasons,
            &m.notes,
        ] {
            forget(gauge, "set", set);
        }
        for counter in [
            &m.failures,
            &m.session_conflicts,
            &m.sets_recreated,
            &m.undecodable,
            &m.orphans,
        ] {
            forget(counter, "set", set);
        }
        for histogram in [&m.queue_time, &m.stage] {
            forget(histogram, "set", set);
        }
        forget(&m.poll_age, "set", set);
    }

    /// Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.inner.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be rendered");
        }
        text
    }
}

fn whole_seconds(duration: Duration) -> f64 {
    Duration::from_secs(duration.as_secs()).as_secs_f64()
}

fn build_info(registry: &Registry) {
    let opts = Opts::new("gharts_listener_build_info", "Always 1; the labels say what runs.")
        .const_label("version", env!("CARGO_PKG_VERSION"))
        .const_label("commit", super::COMMIT);
    registered(registry, Gauge::with_opts(opts)).set(1.0);
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn histograms(registry: &Registry, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
    let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    registered(registry, HistogramVec::new(opts, labels))
}

#[expect(
    clippy::expect_used,
    reason = "names, labels and buckets are constants of this file, and every test that makes Metrics tries all of them"
)]
fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: prometheus::Result<C>) -> C {
    let collector = collector.expect("constant names, labels and buckets are valid");
    registry
        .register(Box::new(collector.clone()))
        .expect("constant names are unique");
    collector
}

type Series = HashMap<String, String>;

/// The series of `set` whose `label` is one of `values` read 1; its others end.
fn only<'a>(metric: &IntGaugeVec, label: &str, set: &str, values: impl IntoIterator<Item = &'a str>) {
    let values: Vec<&str> = values.into_iter().collect();
    for gone in series(metric, "set", set) {
        if gone.get(label).is_none_or(|value| !values.contains(&value.as_str())) {
            remove_series(metric, &gone);
        }
    }
    for value in values {
        metric.with_label_values(&[set, value]).set(1);
    }
}

/// The label sets of one metric whose `label` is `value`.
fn series<B: MetricVecBuilder>(metric: &MetricVec<B>, label: &str, value: &str) -> Vec<Series>
where
    MetricVec<B>: Collector,
{
    let families = metric.collect();
    let all = families.iter().flat_map(MetricFamily::get_metric);
    all.map(|m| {
        m.get_label()
            .iter()
            .map(|pair| (pair.name().to_owned(), pair.value().to_owned()))
            .collect::<Series>()
    })
    .filter(|labels| labels.get(label).is_some_and(|v| v == value))
    .collect()
}

fn forget<B: MetricVecBuilder>(metric: &MetricVec<B>, label: &str, value: &str)
where
    MetricVec<B>: Collector,
{
    for gone in series(metric, label, value) {
        remove_series(metric, &gone);
    }
}

fn remove_series<B: MetricVecBuilder>(metric: &MetricVec<B>, labels: &Series) {
    let labels: HashMap<&str, &str> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    // An error says that somebody else removed it first: as good.
    let _ = metric.remove(&labels);
}

fn set_series(metric: &IntGaugeVec, labels: &Series, value: i64) {
    let labels: HashMap<&str, &str> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    metric.with(&labels).set(value);
}

#[cfg(test)]
mod tests;

//! What a simulated GitHub is made of, and what a test may change while it runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// How the service hands jobs to scale sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Flow {
    /// github.com: jobs are assigned within the announced capacity; acquirejobs answers 404, request ids are 0.
    #[serde(rename = "github")]
    GitHub,
    /// Older GHES: jobs are offered and must be acquired.
    Ghes,
}

/// Who may run a job that a scale set was assigned. Nobody published a test, so both worlds exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AssignedJobsRunOn {
    /// Only runners that were registered with that set.
    SetRunners,
    /// Ordinary runners with matching labels too.
    MatchingLabels,
}

/// How a rate limit shows itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Limit {
    /// 403, nothing remaining, and when the hour is over.
    Primary,
    /// 403 with `Retry-After`.
    Secondary,
    /// 403 whose text alone says it.
    SecondaryUntold,
    /// 429 with `Retry-After`.
    TooMany,
}

/// Whom it limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Limited {
    /// Every REST call.
    Rest,
    /// Every call to the Actions service.
    Service,
}

/// What statistics say instead of the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Lie {
    /// What they said when it began.
    Stuck,
    /// Nothing is there.
    Zero,
    /// So many assigned jobs more than there are.
    Ghosts(usize),
}

/// Which jobs a runner group lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupAccess {
    pub public_repositories: bool,
    pub repositories: Repositories,
    /// Only jobs of these workflows.
    pub workflows: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repositories {
    All,
    Private,
    /// `owner/name`; in an enterprise the organizations.
    Selected(Vec<String>),
}

impl Default for GroupAccess {
    fn default() -> Self {
        Self {
            public_repositories: true,
            repositories: Repositories::All,
            workflows: None,
        }
    }
}

/// A GitHub App that is installed somewhere.
#[derive(Clone, Debug)]
pub struct App {
    pub client_id: String,
    pub app_id: u64,
    pub installation_id: u64,
    /// SubjectPublicKeyInfo in PEM.
    pub public_pem: String,
}

/// A personal access token.
#[derive(Clone, Debug)]
pub struct Pat {
    pub token: String,
    /// Without it every runner endpoint answers 403.
    pub manages_runners: bool,
    /// The one scope that it opens; every other one is not found. `None`: all.
    pub only_in: Option<String>,
}

/// What exists before the first call.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where configuration URLs live, no slash at the end: `https://github.com`, `http://127.0.0.1:8080`.
    pub web_url: String,
    /// Where the Actions service lives, no slash at the end; the same router answers there.
    pub service_url: String,
    /// Organizations (`acme`), repositories (`acme/web`), enterprises (`enterprises/corp`).
    pub scopes: Vec<String>,
    /// Runner groups beside `Default`, which every scope has with id 1; these have ids from 2 on.
    pub runner_groups: Vec<String>,
    pub apps: Vec<App>,
    pub pats: Vec<Pat>,
    pub settings: Settings,
    /// Every random choice (ids, secrets, which idle runner, how long a dead session blocks) stems from it.
    pub seed: u64,
}

impl Setup {
    /// One organization and one PAT with all rights; everything else at its default.
    pub fn new(web_url: &str, scope: &str, pat: &str) -> Self {
        Self {
            web_url: web_url.trim_end_matches('/').to_owned(),
            service_url: web_url.trim_end_matches('/').to_owned(),
            scopes: vec![scope.to_owned()],
            runner_groups: Vec::new(),
            apps: Vec::new(),
            pats: vec![Pat {
                token: pat.to_owned(),
                manages_runners: true,
                only_in: None,
            }],
            settings: Settings::default(),
            seed: 1,
        }
    }
}

/// What may change at any moment. Defaults are what was recorded of github.com.
#[derive(Clone, Debug)]
pub struct Settings {
    pub flow: Flow,
    pub assigned_jobs_run_on: AssignedJobsRunOn,
    /// How long a poll with nothing to say is held.
    pub poll_hold: Duration,
    pub admin_token_ttl: Duration,
    pub queue_token_ttl: Duration,
    /// How long a fresh registration token is not yet accepted (it spreads slowly).
    pub registration_token_delay: Duration,
    /// How long an abandoned session blocks its set: drawn once per session from this range.
    pub session_ttl: (Duration, Duration),
    /// An assigned job that no runner took within this is taken back.
    pub assignment_ttl: Duration,
    /// How often a job that was taken back is queued again.
    pub max_requeues: u32,
    /// Before the n-th re-queue the job rests n times this.
    pub requeue_delay: Duration,
    /// A busy runner that does not renew for this long has lost its job.
    pub job_lock_ttl: Duration,
    /// A runner that does not poll for this long is offline.
    pub runner_offline_after: Duration,
    /// An ephemeral runner that stays offline for this long is cleared away.
    pub offline_runner_ttl: Duration,
    /// Every request arrives so much later.
    pub latency: Duration,
    /// Every answer arrives later, each by a time of its own: drawn, so long at most.
    pub answer_latency: Duration,
    /// False: only the first label of a set is kept (older services).
    pub multi_label: bool,
    /// A message that is delivered again tells the statistics of its first delivery. What was recorded says nothing of it.
    pub frozen_statistics: bool,
    /// Operations (names as in the call counters) whose JSON begins with a byte order mark.
    pub byte_order_mark: BTreeSet<String>,
    /// Scale sets of these names are refused with these words, as GitHub does with names that it does not like.
    pub refused_names: BTreeMap<String, String>,
    /// REST calls per hour and credential.
    pub rest_limit: u32,
    /// The entries of a message come in any order.
    pub shuffled: bool,
    /// From a job's start or end on its runner until the queue knows of it, by statistics and by message: drawn, so long
    /// at most.
    pub told_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            flow: Flow::GitHub,
            assigned_jobs_run_on: AssignedJobsRunOn::SetRunners,
            poll_hold: Duration::from_secs(50),
            admin_token_ttl: Duration::from_secs(3600),
            queue_token_ttl: Duration::from_secs(3000),
            registration_token_delay: Duration::ZERO,
            session_ttl: (Duration::from_secs(60), Duration::from_secs(92)),
            assignment_ttl: Duration::from_secs(300),
            max_requeues: 3,
            requeue_delay: Duration::from_secs(10),
            job_lock_ttl: Duration::from_secs(600),
            runner_offline_after: Duration::from_secs(60),
            offline_runner_ttl: Duration::from_secs(24 * 3600),
            latency: Duration::ZERO,
            answer_latency: Duration::ZERO,
            multi_label: true,
            frozen_statistics: false,
            byte_order_mark: ["group by name", "set by name", "open session", "poll"]
                .map(str::to_owned)
                .into(),
            refused_names: BTreeMap::new(),
            rest_limit: 15_000,
            shuffled: false,
            told_after: Duration::ZERO,
        }
    }
}

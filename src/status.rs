//! What the daemon says about itself: one snapshot, made by the control loop, read by `/api/v1/status`,
//! the readiness check and the `status` command. Holds no secret; texts of strangers are cut.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The whole daemon.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    /// RFC 3339.
    pub started_at: String,
    pub ready: bool,
    /// Why not ready, one line each.
    pub not_ready: Vec<String>,
    pub draining: bool,
    /// Which replica leads.
    #[serde(default)]
    pub leader: LeaderStatus,
    /// The file, and what it is now.
    #[serde(default)]
    pub configuration: ConfigurationStatus,
    pub scale_sets: Vec<SetStatus>,
}

/// The Lease, and where this replica stands by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaderStatus {
    /// `NAMESPACE/NAME`.
    pub lease: String,
    /// This replica.
    pub identity: String,
    pub leads: bool,
    /// Who leads, where that is known.
    pub leader: Option<String>,
}

/// Which configuration is in effect, and what became of the file since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStatus {
    /// Counts configurations: 1 is the one that the daemon started with.
    pub generation: u64,
    /// RFC 3339: since when it is in effect.
    pub since: String,
    /// RFC 3339: since when the file has been refused, with what is wrong with it; the older settings stand.
    pub refused_since: Option<String>,
    pub problems: Vec<ProblemStatus>,
    /// Changes of the file that only a restart brings into effect: `path: old -> new`.
    pub needs_restart: Vec<String>,
}

/// One thing wrong with the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProblemStatus {
    /// `scaleSets[2].labels[0]`
    pub path: String,
    pub message: String,
    /// What mends it.
    pub remedy: String,
}

/// One scale set.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetStatus {
    pub name: String,
    pub scale_set_id: Option<i64>,
    /// The way to GitHub that the set takes: its scope, and the credential where several lead there.
    #[serde(default)]
    pub github: String,
    pub provisioner: String,
    /// The binding at work; `auto` until the evidence is in.
    pub binding: String,
    /// `standby`, `registering`, `opening`, `conflict`, `polling`, `failed`, ...
    pub session: String,
    pub seconds_since_last_poll: Option<u64>,
    pub min_runners: u32,
    pub max_runners: u32,
    pub demand: DemandStatus,
    /// Live runners by state: provisioning, pending, idle, busy, jobDone, retiring.
    pub runners: BTreeMap<String, u32>,
    pub capacity: u32,
    /// Why there are not more runners: never empty. The first one is what cuts hardest.
    pub reasons: Vec<ReasonStatus>,
    /// What is not as the file wants it at GitHub, though the set works.
    #[serde(default)]
    pub notes: Vec<NoteStatus>,
    /// Failed pods that are kept for people to look at.
    #[serde(default)]
    pub kept_pods: Vec<KeptPodStatus>,
    /// As the seed asked: the last try at a runner, the last that succeeded, and the last that did not. RFC 3339.
    pub last_provision_attempt: Option<String>,
    #[serde(default)]
    pub last_provision_success: Option<String>,
    #[serde(default)]
    pub last_provision_error_at: Option<String>,
    /// One sentence, in the peer's own words where a peer refused.
    pub last_provision_error: Option<String>,
    /// Our class of it: stable, snake case.
    pub last_provision_error_class: Option<String>,
    /// The server's own code; the class where it has none.
    #[serde(default)]
    pub last_provision_error_code: Option<String>,
    pub quota_exceeded: bool,
    pub policy_violation: bool,
    pub degraded: bool,
}

/// States in the order of a runner's life, each with its word.
const STATES: [(&str, &str); 6] = [
    ("provisioning", "provisioning"),
    ("pending", "pending"),
    ("idle", "idle"),
    ("busy", "busy"),
    ("jobDone", "job done"),
    ("retiring", "retiring"),
];

impl LeaderStatus {
    /// One line for people; none before the Lease is looked for.
    pub fn words(&self) -> Option<String> {
        let Self { lease, identity, .. } = self;
        if lease.is_empty() {
            return None;
        }
        Some(match &self.leader {
            _ if self.leads => format!("leads as {identity}, by the Lease {lease}"),
            Some(leader) if leader != identity => format!("stands by: {leader} leads, by the Lease {lease}"),
            _ => format!("stands by: nobody leads yet, by the Lease {lease}"),
        })
    }
}

impl Status {
    /// `ready`, `not ready` or `draining`.
    pub fn condition(&self) -> &'static str {
        match (self.draining, self.ready) {
            (true, _) => "draining",
            (false, true) => "ready",
            (false, false) => "not ready",
        }
    }
}

impl SetStatus {
    /// How many runners are in each state, in the order of their life; states without any are left out.
    pub fn runners_by_state(&self) -> impl Iterator<Item = (u32, &'static str)> {
        let count = |(key, word): (&str, &'static str)| Some((*self.runners.get(key)?, word));
        STATES.into_iter().filter_map(count).filter(|(count, _)| *count > 0)
    }

    /// What is wrong, in a few words each; empty where nothing is.
    pub fn flags(&self) -> Vec<&'static str> {
        let all = [
            (self.degraded, "degraded"),
            (self.quota_exceeded, "quota exceeded"),
            (self.policy_violation, "policy violation"),
        ];
        all.into_iter().filter(|(on, _)| *on).map(|(_, flag)| flag).collect()
    }

    /// The last refusal, unless it is history: then a later try succeeded.
    pub fn standing_error(&self) -> Option<&str> {
        // RFC 3339 in UTC orders as text.
        let is_history = self.last_provision_success > self.last_provision_error_at;
        self.last_provision_error.as_deref().filter(|_| !is_history)
    }
}

/// One failed pod that is kept (`keepFailed`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptPodStatus {
    /// The pod's name, and the runner's.
    pub runner: String,
    /// Stable code, snake case.
    pub reason: String,
    /// Kubernetes' own words.
    pub message: Option<String>,
    /// RFC 3339.
    pub until: String,
}

/// Newest statistics of GitHub.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DemandStatus {
    pub available: i64,
    pub acquired: i64,
    pub assigned: i64,
    pub running: i64,
    pub registered_runners: i64,
    pub busy_runners: i64,
    pub idle_runners: i64,
}

/// One thing to know about a set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NoteStatus {
    /// Stable code, snake case.
    pub code: String,
    /// One sentence for a person.
    pub message: String,
}

/// One limit at work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReasonStatus {
    /// Stable code, snake case.
    pub code: String,
    /// One sentence for a person, with the peer's own words where a peer refused.
    pub message: String,
    /// What mends it.
    pub remedy: Option<String>,
    /// RFC 3339: since when.
    pub since: Option<String>,
    /// RFC 3339: no try before, where that is known.
    #[serde(default)]
    pub until: Option<String>,
}

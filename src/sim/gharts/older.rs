//! The shapes of what only the older version answers.

use serde::Serialize;

use super::{
    Policy, SecurityEvent,
    flavour::Timestamps,
    model::{Model, Status},
};

/// What the older version says of a policy.
#[derive(Serialize)]
pub(super) struct PolicyView {
    user_identity: String,
    allowed_labels: Vec<String>,
    label_patterns: Vec<String>,
    max_runners: Option<u32>,
    description: Option<&'static str>,
}

impl From<Policy> for PolicyView {
    fn from(policy: Policy) -> Self {
        Self {
            user_identity: policy.identity,
            allowed_labels: policy.allowed_labels,
            label_patterns: policy.label_patterns,
            max_runners: policy.max_runners,
            description: None,
        }
    }
}

#[derive(Serialize)]
struct SecurityView {
    /// A number, as a text.
    id: String,
    timestamp: String,
    event_type: &'static str,
    severity: &'static str,
    user_identity: String,
    runner_id: Option<String>,
    runner_name: Option<String>,
    action_taken: String,
}

/// The older version's figures for everybody, without a token.
#[derive(Serialize)]
pub(super) struct Dashboard {
    total: usize,
    active: usize,
    offline: usize,
    pending: usize,
    recent_events: Vec<SecurityView>,
}

/// Events on the dashboard.
const RECENT: usize = 10;

impl Dashboard {
    pub(super) fn new(times: Timestamps, model: &Model) -> Self {
        let count = |status| model.records.live().filter(|record| record.status == status).count();
        let numbered = (1..).zip(&model.security);
        let recent: Vec<(u64, &SecurityEvent)> = numbered.collect();
        Self {
            total: model.records.live().count(),
            active: count(Status::Active),
            offline: count(Status::Offline),
            pending: count(Status::Pending),
            recent_events: recent
                .into_iter()
                .rev()
                .take(RECENT)
                .map(|(id, event)| SecurityView {
                    id: id.to_string(),
                    timestamp: times.print(event.at),
                    event_type: event.event,
                    severity: event.severity,
                    user_identity: event.identity.clone(),
                    runner_id: None,
                    runner_name: event.runner.clone(),
                    action_taken: event.action.clone(),
                })
                .collect(),
        }
    }
}

/// For administrators of the older version. What a sync found is not recorded.
#[derive(Serialize)]
pub(super) struct SyncStatus {
    pub(super) enabled: bool,
    pub(super) interval_seconds: u64,
    pub(super) last_sync_time: Option<String>,
    pub(super) last_sync_result: Option<()>,
}

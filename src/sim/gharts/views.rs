//! The shapes of the answers, fields in the recorded order.

use serde::Serialize;

use super::{
    account::Account,
    flavour::{Accounts, Capabilities, Timestamps},
    model::{AuditEntry, Caller, Model, Record, Status, Team, User},
    provision::Granted,
};

/// How long a JIT configuration lives, as the service guesses.
const JIT_LIFE: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

#[derive(Serialize)]
pub(super) struct JitAnswer {
    runner_id: String,
    runner_name: String,
    encoded_jit_config: String,
    labels: Vec<String>,
    expires_at: String,
    run_command: String,
    #[serde(flatten)]
    scale_set: Option<ScaleSetEcho>,
}

#[derive(Serialize)]
struct ScaleSetEcho {
    runner_scale_set_id: i64,
    runner_scale_set_name: String,
    github_runner_id: i64,
}

impl JitAnswer {
    pub(super) fn new(times: Timestamps, granted: Granted) -> Self {
        let Granted {
            record,
            encoded_jit_config,
        } = granted;
        let expires = record.created.saturating_add(JIT_LIFE).unwrap_or(record.created);
        Self {
            runner_id: record.id,
            runner_name: record.name,
            run_command: format!("./run.sh --jitconfig {encoded_jit_config}"),
            encoded_jit_config,
            labels: record.labels,
            expires_at: times.print(expires),
            scale_set: record.scale_set.zip(record.github_id).map(|(set, id)| ScaleSetEcho {
                runner_scale_set_id: set.id,
                runner_scale_set_name: set.name,
                github_runner_id: id,
            }),
        }
    }
}

#[derive(Serialize)]
pub(super) struct RunnerView {
    runner_id: String,
    runner_name: String,
    status: &'static str,
    github_runner_id: Option<i64>,
    runner_group_id: i64,
    labels: Vec<String>,
    ephemeral: bool,
    provisioned_by: String,
    created_at: String,
    updated_at: String,
    registered_at: Option<String>,
    deleted_at: Option<String>,
    /// Only of one runner, in the older version; nothing was ever seen in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_trail: Option<[(); 0]>,
}

impl RunnerView {
    pub(super) fn new(times: Timestamps, record: &Record) -> Self {
        Self {
            runner_id: record.id.clone(),
            runner_name: record.name.clone(),
            status: record.status.as_str(),
            github_runner_id: record.github_id,
            runner_group_id: record.group,
            labels: record.labels.clone(),
            ephemeral: record.ephemeral,
            provisioned_by: record.provisioned_by.clone(),
            created_at: times.print(record.created),
            updated_at: times.print(record.updated),
            registered_at: record.registered.map(|time| times.print(time)),
            deleted_at: record.deleted.map(|time| times.print(time)),
            audit_trail: None,
        }
    }

    /// As one runner alone is shown.
    pub(super) fn detail(capabilities: &Capabilities, record: &Record) -> Self {
        Self {
            audit_trail: capabilities.older_surface.then_some([]),
            ..Self::new(capabilities.timestamps, record)
        }
    }
}

#[derive(Serialize)]
pub(super) struct RunnerList {
    pub(super) runners: Vec<RunnerView>,
    pub(super) total: usize,
}

#[derive(Serialize)]
pub(super) struct Deprovisioned {
    runner_id: String,
    runner_name: String,
    success: bool,
    message: String,
}

impl Deprovisioned {
    pub(super) fn new(record: Record) -> Self {
        Self {
            message: format!("Runner '{}' successfully deprovisioned", record.name),
            runner_id: record.id,
            runner_name: record.name,
            success: true,
        }
    }
}

#[derive(Serialize)]
struct TeamName {
    id: String,
    name: String,
}

#[derive(Serialize)]
pub(super) struct Me {
    user_id: String,
    email: Option<String>,
    display_name: String,
    oidc_sub: Option<String>,
    is_admin: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    can_use_registration_token: Option<bool>,
    can_use_jit: bool,
    roles: [&'static str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    teams: Option<Vec<TeamName>>,
    /// The extension's sign.
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<[&'static str; 1]>,
}

impl Me {
    pub(super) fn new(capabilities: &Capabilities, model: &Model, caller: &Caller) -> Self {
        let features = capabilities.scale_sets.then_some(["runner_scale_set"]);
        let named = |team: &Team| TeamName {
            id: team.id.clone(),
            name: team.name.clone(),
        };
        match caller {
            Caller::Machine { client, team, .. } => Self {
                user_id: caller.identity(),
                email: None,
                display_name: caller.identity(),
                oidc_sub: Some(client.clone()),
                is_admin: false,
                can_use_registration_token: None,
                can_use_jit: true,
                roles: ["user"],
                teams: Some(model.team(team).map(named).into_iter().collect()),
                features,
            },
            Caller::User { user, email, sub, .. } => Self {
                user_id: user.id.clone(),
                email: email.clone().or_else(|| user.email.clone()),
                display_name: user.display_name().to_owned(),
                oidc_sub: sub.clone(),
                is_admin: user.admin,
                can_use_registration_token: capabilities.older_surface.then_some(user.can_use_registration_token),
                can_use_jit: user.can_use_jit,
                roles: [if user.admin { "admin" } else { "user" }],
                teams: match capabilities.accounts {
                    Accounts::Teams { .. } => Some(active(model.teams_of(&user.id)).map(named).collect()),
                    Accounts::Identities => None,
                },
                features,
            },
        }
    }
}

fn active(teams: Vec<&Team>) -> impl Iterator<Item = &Team> {
    teams.into_iter().filter(|team| team.deactivated.is_none())
}

#[derive(Serialize)]
pub(super) struct TeamView {
    id: String,
    name: String,
    description: Option<&'static str>,
    required_labels: Vec<String>,
    optional_label_patterns: Option<Vec<String>>,
    max_runners: Option<u32>,
    is_active: bool,
    created_at: String,
    updated_at: String,
    created_by: String,
    deactivated_at: Option<String>,
    deactivated_by: Option<String>,
    deactivation_reason: Option<String>,
    member_count: usize,
    active_runner_count: u32,
}

impl TeamView {
    pub(super) fn new(times: Timestamps, model: &Model, team: &Team) -> Self {
        let deactivation = team.deactivated.as_ref();
        let counted = |status| matches!(status, Status::Pending | Status::Active);
        Self {
            id: team.id.clone(),
            name: team.name.clone(),
            description: None,
            required_labels: team.required_labels.clone(),
            optional_label_patterns: Some(team.optional_label_patterns.clone()),
            max_runners: team.max_runners,
            is_active: deactivation.is_none(),
            created_at: times.print(team.created),
            updated_at: times.print(team.updated),
            created_by: super::ADMINISTRATOR.to_owned(),
            deactivated_at: deactivation.map(|d| times.print(d.at)),
            deactivated_by: deactivation.map(|d| d.by.clone()),
            deactivation_reason: deactivation.map(|d| d.reason.clone()),
            member_count: model.memberships.iter().filter(|m| m.team == team.id).count(),
            active_runner_count: model.count(&Account::Team(team.clone()), counted),
        }
    }

    /// The team of all administrators, which is in no table and the only one whose times have a zone.
    pub(super) fn admins(model: &Model) -> Self {
        Self {
            id: "00000000-0000-0000-0000-000000000001".to_owned(),
            name: "admins".to_owned(),
            description: Some("System team — all admin users"),
            required_labels: Vec::new(),
            optional_label_patterns: None,
            max_runners: None,
            is_active: true,
            created_at: "2000-01-01T00:00:00Z".to_owned(),
            updated_at: "2000-01-01T00:00:00Z".to_owned(),
            created_by: "system".to_owned(),
            deactivated_at: None,
            deactivated_by: None,
            deactivation_reason: None,
            member_count: model.users.iter().filter(|user| user.admin).count(),
            active_runner_count: 0,
        }
    }
}

#[derive(Serialize)]
pub(super) struct TeamList {
    pub(super) teams: Vec<TeamView>,
    pub(super) total: usize,
}

#[derive(Serialize)]
pub(super) struct UserTeams {
    pub(super) user_id: String,
    pub(super) teams: Vec<TeamView>,
    pub(super) total: usize,
}

#[derive(Serialize)]
struct Member {
    user_id: String,
    email: Option<String>,
    display_name: String,
    joined_at: String,
    added_by: &'static str,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the wire's names")]
pub(super) struct Members {
    team_id: String,
    team_name: String,
    members: Vec<Member>,
    total: usize,
}

impl Members {
    pub(super) fn new(times: Timestamps, model: &Model, team: &Team) -> Self {
        let user = |id: &str| -> Option<&User> { model.users.iter().find(|user| user.id == id) };
        let of_team = model.memberships.iter().filter(|m| m.team == team.id);
        let members: Vec<Member> = of_team
            .filter_map(|m| user(&m.user).map(|user| (m, user)))
            .map(|(m, user)| Member {
                user_id: user.id.clone(),
                email: user.email.clone(),
                display_name: user.display_name().to_owned(),
                joined_at: times.print(m.joined),
                added_by: super::ADMINISTRATOR,
            })
            .collect();
        Self {
            team_id: team.id.clone(),
            team_name: team.name.clone(),
            total: members.len(),
            members,
        }
    }
}

#[derive(Serialize)]
pub(super) struct AuditView {
    id: u64,
    event_type: &'static str,
    runner_id: Option<String>,
    runner_name: Option<String>,
    #[serde(flatten)]
    team: Option<AuditTeam>,
    user_identity: String,
    oidc_sub: Option<String>,
    request_ip: Option<String>,
    user_agent: Option<String>,
    event_data: EventData,
    success: bool,
    error_message: Option<String>,
    timestamp: String,
}

#[derive(Serialize)]
struct AuditTeam {
    team_id: Option<String>,
    team_name: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum EventData {
    Token {
        runner_group_id: Option<i64>,
        labels: Vec<String>,
        ephemeral: bool,
    },
    Other {
        #[serde(skip_serializing_if = "Option::is_none")]
        runner_group_id: Option<i64>,
        labels: Vec<String>,
        github_runner_id: Option<i64>,
    },
}

impl AuditView {
    pub(super) fn new(capabilities: &Capabilities, entry: &AuditEntry) -> Self {
        let (runner_id, runner_name) = entry.runner.clone().unzip();
        let (team_id, team_name) = entry.team.clone().unzip();
        let with_teams = matches!(capabilities.accounts, Accounts::Teams { .. });
        let labels = entry.labels.clone();
        Self {
            id: entry.id,
            event_type: entry.event,
            runner_id,
            runner_name,
            team: with_teams.then_some(AuditTeam { team_id, team_name }),
            user_identity: entry.identity.clone(),
            oidc_sub: entry.oidc_sub.clone(),
            request_ip: None,
            user_agent: None,
            event_data: match entry.ephemeral {
                Some(ephemeral) => EventData::Token {
                    runner_group_id: entry.group,
                    labels,
                    ephemeral,
                },
                None => EventData::Other {
                    runner_group_id: entry.group,
                    labels,
                    github_runner_id: entry.github_id,
                },
            },
            success: entry.error.is_none(),
            error_message: entry.error.clone(),
            timestamp: capabilities.timestamps.print(entry.at),
        }
    }
}

#[derive(Serialize)]
pub(super) struct AuditList {
    pub(super) logs: Vec<AuditView>,
    pub(super) total: usize,
}

#[derive(Serialize)]
pub(super) struct TeamAudit {
    pub(super) team_id: String,
    pub(super) team_name: String,
    pub(super) logs: Vec<AuditView>,
    pub(super) total: usize,
}

#[derive(Serialize)]
pub(super) struct Root {
    pub(super) service: &'static str,
    pub(super) version: &'static str,
    pub(super) docs: &'static str,
    pub(super) health: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) metrics: Option<&'static str>,
}

#[derive(Serialize)]
pub(super) struct Health {
    pub(super) status: &'static str,
    pub(super) version: &'static str,
    /// With a zone, unlike the rest.
    pub(super) timestamp: String,
}

//! Every way to say no, and the words for it: a refusal is a condition, a [`Wording`] makes an answer of it.

use http::StatusCode;
use serde_json::{Value, json};

use super::{flavour::Wording, python, upstream::Failure};

/// A condition under which a request is refused. Label lists are in the order in which they print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NotAuthenticated,
    /// The token is no good; the recorded text.
    Token(String),
    UnknownUser,
    UserDeactivated,
    JitNotPermitted,
    RegistrationNotPermitted,
    ClientUnregistered(String),
    ClientDisabled(String),
    ClientTeamGone,
    /// The request does not fit the schema; nothing says where.
    Malformed,
    InvalidLabels(Vec<String>),
    NameTaken(String),
    TeamUnknown(String),
    NotMember(String),
    TeamDeactivated {
        team: String,
        reason: String,
        sent: String,
    },
    NoTeam,
    MissingLabels {
        team: String,
        missing: Vec<String>,
    },
    /// Without a team it is the policy of an identity.
    ForbiddenLabels {
        team: Option<String>,
        forbidden: Vec<String>,
        allowed: Vec<String>,
        patterns: Vec<String>,
    },
    Quota {
        team: Option<String>,
        max: u32,
        current: u32,
    },
    ScaleSetUnknown(i64),
    Provisioning(Failure),
    /// No registration token, for this reason: label policy and GitHub's failures alike.
    Registering(String),
    Deprovisioning(Failure),
    /// GitHub did it and the database did not.
    Unrecorded,
    RunnerUnknown(String),
    AlreadyDeleted(String),
    NotTeamMember,
    TeamNotFound,
    InactiveTeamsForAdmins,
    TeamAdminOnly,
    AdminOnly,
    NoRoute,
    WrongMethod,
    Internal,
}

/// Status, text, code.
type Words = (StatusCode, String, Option<&'static str>);

impl Refusal {
    pub(super) fn answer(&self, wording: Wording) -> (StatusCode, Value) {
        let (status, detail, code) = match wording {
            Wording::Recorded => self.recorded(),
            Wording::Seed => self.seed(),
        };
        let mut body = json!({ "detail": detail });
        if let Some(code) = code {
            body["error_code"] = json!(code);
        }
        (status, body)
    }

    /// The recorded text alone.
    pub(super) fn text(&self) -> String {
        self.recorded().1
    }

    /// The seed's words where it has any; elsewhere those of the recorded service.
    fn seed(&self) -> Words {
        const UNAUTHORIZED: Option<&str> = Some("USER_NOT_AUTHORIZED");
        let forbidden = |text: String, code| (StatusCode::FORBIDDEN, text, code);
        match self {
            Self::Token(_) => (StatusCode::UNAUTHORIZED, "Invalid or expired token".to_owned(), None),
            Self::UnknownUser
            | Self::UserDeactivated
            | Self::JitNotPermitted
            | Self::ClientUnregistered(_)
            | Self::ClientDisabled(_)
            | Self::ClientTeamGone
            | Self::NoTeam => {
                let (_, text, _) = self.recorded();
                forbidden(text, UNAUTHORIZED)
            }
            Self::TeamUnknown(team) => (StatusCode::NOT_FOUND, format!("Team '{team}' does not exist"), None),
            Self::NotMember(team) => forbidden(format!("User not authorized for team '{team}'"), UNAUTHORIZED),
            Self::TeamDeactivated { team, reason, .. } => {
                forbidden(format!("Team '{team}' is deactivated: {reason}"), None)
            }
            Self::InvalidLabels(labels) => (
                StatusCode::BAD_REQUEST,
                format!("Invalid labels: {}", python::list(labels)),
                Some("INVALID_LABELS"),
            ),
            Self::ForbiddenLabels {
                forbidden: labels,
                patterns,
                ..
            } => forbidden(
                format!(
                    "Labels {} not permitted. Allowed patterns: {}",
                    python::list(labels),
                    python::list(patterns)
                ),
                Some("LABEL_POLICY_VIOLATION"),
            ),
            Self::Quota { max, current, .. } => (
                StatusCode::TOO_MANY_REQUESTS,
                format!("Max runners exceeded: {current} of {max}"),
                Some("QUOTA_EXCEEDED"),
            ),
            Self::Provisioning(Failure::Status { status, .. }) if status.is_server_error() => {
                let (_, text, _) = self.recorded();
                (StatusCode::BAD_GATEWAY, text, None)
            }
            Self::Provisioning(Failure::NoAnswer("")) => {
                let (_, text, _) = self.recorded();
                (StatusCode::GATEWAY_TIMEOUT, text, None)
            }
            _ => self.recorded(),
        }
    }

    fn recorded(&self) -> Words {
        let (status, text) = match self {
            Self::Malformed | Self::InvalidLabels(_) => {
                return (
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "Validation error".to_owned(),
                    Some("VALIDATION_ERROR"),
                );
            }
            Self::Internal => {
                return (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "Internal server error".to_owned(),
                    Some("INTERNAL_ERROR"),
                );
            }
            Self::NotAuthenticated => (StatusCode::UNAUTHORIZED, "Not authenticated".to_owned()),
            Self::Token(text) => (StatusCode::UNAUTHORIZED, text.clone()),
            Self::Provisioning(failure) => provisioning(failure),
            Self::Registering(reason) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("Failed to provision runner: {reason}"),
            ),
            Self::Deprovisioning(failure) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("Failed to deprovision runner: {}", failure.plain_text()),
            ),
            Self::Unrecorded => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "Failed to provision JIT runner: (psycopg2.OperationalError) server closed the connection unexpectedly\n\
                 [SQL: INSERT INTO runners (id, runner_name) VALUES (%(id)s, %(runner_name)s)]"
                    .to_owned(),
            ),
            Self::ScaleSetUnknown(id) => (StatusCode::NOT_FOUND, format!("Runner scale set {id} not found")),
            Self::RunnerUnknown(id) => (
                StatusCode::NOT_FOUND,
                format!("Runner with ID '{id}' not found or not owned by you"),
            ),
            Self::TeamNotFound => (StatusCode::NOT_FOUND, "Team not found".to_owned()),
            Self::NoRoute => (StatusCode::NOT_FOUND, "Not Found".to_owned()),
            Self::WrongMethod => (StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed".to_owned()),
            Self::NameTaken(_)
            | Self::TeamUnknown(_)
            | Self::NotMember(_)
            | Self::TeamDeactivated { .. }
            | Self::NoTeam
            | Self::Quota { .. }
            | Self::AlreadyDeleted(_) => (StatusCode::BAD_REQUEST, self.recorded_bad_request()),
            _ => (StatusCode::FORBIDDEN, self.recorded_forbidden()),
        };
        (status, text, None)
    }

    fn recorded_bad_request(&self) -> String {
        match self {
            Self::NameTaken(name) => format!(
                "Runner with name '{name}' is currently active. Use a different name or wait until it's deleted."
            ),
            Self::TeamUnknown(sent) | Self::NotMember(sent) | Self::TeamDeactivated { sent, .. } => {
                format!("User is not a member of team {sent} or team is not active")
            }
            Self::Quota { team, max, current } => {
                let whose = match team {
                    Some(team) => format!("Team '{team}' runner"),
                    None => "Runner".to_owned(),
                };
                format!("{whose} quota exceeded. Maximum allowed: {max}, current: {current}")
            }
            Self::AlreadyDeleted(name) => format!("Runner '{name}' is already deleted"),
            _ => "User is not a member of any active team. Please contact an administrator to be added to a team."
                .to_owned(),
        }
    }

    fn recorded_forbidden(&self) -> String {
        match self {
            Self::UserDeactivated => "User account is deactivated.".to_owned(),
            Self::JitNotPermitted => "Access to JIT API not permitted for this user.".to_owned(),
            Self::RegistrationNotPermitted => {
                "Access to registration token API not permitted for this user.".to_owned()
            }
            Self::ClientUnregistered(id) => format!(
                "M2M client '{id}' is not registered. Register the client ID via the admin API \
                 (POST /api/v1/admin/oauth-clients) before use."
            ),
            Self::ClientDisabled(id) => {
                format!("M2M client '{id}' is disabled. Contact an administrator to re-enable it.")
            }
            Self::ClientTeamGone => {
                "Team associated with this M2M client was not found or is inactive. Contact an administrator."
                    .to_owned()
            }
            Self::MissingLabels { team, missing } => {
                format!("Missing required labels for team '{team}': {}", python::set(missing))
            }
            Self::ForbiddenLabels {
                team,
                forbidden,
                allowed,
                patterns,
            } => forbidden_labels(team.as_deref(), forbidden, allowed, patterns),
            Self::NotTeamMember => "Access denied: not a team member".to_owned(),
            Self::InactiveTeamsForAdmins => "Only admins can view inactive teams".to_owned(),
            Self::TeamAdminOnly => "Admin privileges required for team management".to_owned(),
            Self::AdminOnly => "Admin privileges required".to_owned(),
            _ => "User not authorized. Contact administrator to request access.".to_owned(),
        }
    }
}

fn forbidden_labels(team: Option<&str>, forbidden: &[String], allowed: &[String], patterns: &[String]) -> String {
    let patterns = if patterns.is_empty() {
        "No optional patterns configured".to_owned()
    } else {
        format!("Allowed patterns: {}", python::list(patterns))
    };
    let (whose, named) = match team {
        Some(team) => (format!("team '{team}' policy"), "Required"),
        None => ("policy".to_owned(), "Allowed"),
    };
    format!(
        "Labels {} not permitted by {whose}. {named} labels: {}. {patterns}",
        python::set(forbidden),
        python::set(allowed)
    )
}

/// GitHub's refusals all become 400; only a missing answer is the server's own failure.
fn provisioning(failure: &Failure) -> (StatusCode, String) {
    match failure {
        Failure::NoAnswer(text) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("Failed to provision JIT runner: {text}"),
        ),
        Failure::Status {
            message: Some(message), ..
        } => (StatusCode::BAD_REQUEST, format!("GitHub API error: {message}")),
        Failure::Status { message: None, .. } | Failure::NoSuchScaleSet => (
            StatusCode::BAD_REQUEST,
            format!("GitHub API error: {}", failure.plain_text()),
        ),
        Failure::Nonsense(text) => (StatusCode::BAD_REQUEST, text.clone()),
    }
}

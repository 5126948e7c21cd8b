//! What goes over the line to GHARTS and back.
//!
//! Two deployed versions and one extension speak this, so everything that a version may lack is optional,
//! unknown fields and statuses pass, and times are taken as text: the service writes UTC without a zone,
//! with or without a fraction. A decode error after a 201 would leak a runner.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize};

/// The feature flag in `/auth/me` of a server that can bind a runner to a scale set.
pub const SCALE_SET_FEATURE: &str = "runner_scale_set";
/// The request field that the extension adds; also what betrays the extension in an OpenAPI document.
pub const SCALE_SET_FIELD: &str = "runner_scale_set_id";

/// `POST /api/v1/runners/jit`: a runner of a scale set where the extension's fields are sent, else an ordinary one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JitRequest {
    /// Exact, and fresh per attempt: a lost answer is cured by name.
    pub runner_name: String,
    /// What the policy checks; an ordinary runner gets them too.
    pub labels: Vec<String>,
    /// The team's UUID. Servers ignore it for machine clients, whose team is fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team_id: Option<String>,
    /// For servers that resolve names themselves; those that know only ids ignore it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team_name: Option<String>,
    pub work_folder: String,
    /// For ordinary runners only: a scale set has a group of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner_group_id: Option<i64>,
    #[serde(flatten)]
    pub scale_set: Option<ScaleSetFields>,
}

/// What the extension adds to a [`JitRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScaleSetFields {
    pub runner_scale_set_id: i64,
    pub runner_scale_set_name: String,
}

/// The 201 to a [`JitRequest`]. The configuration is given only here; no endpoint repeats it.
#[derive(Clone, Debug, Deserialize)]
pub struct JitAnswer {
    pub runner_id: String,
    #[serde(deserialize_with = "secret")]
    pub encoded_jit_config: SecretString,
    #[serde(default)]
    pub runner_name: Option<String>,
    /// A set: the order changes from process to process.
    #[serde(default)]
    pub labels: Vec<String>,
    /// The echo of a server that knows the extension.
    #[serde(default)]
    pub runner_scale_set_id: Option<i64>,
    #[serde(default)]
    pub runner_scale_set_name: Option<String>,
    #[serde(default, deserialize_with = "read_id")]
    pub github_runner_id: Option<i64>,
    /// The status that it came with.
    #[serde(skip)]
    pub status: u16,
}

impl JitAnswer {
    /// The agent's id at GitHub: told by the extension, else read out of the configuration itself, whose file
    /// `.runner` names it.
    pub fn agent_id(&self) -> Option<i64> {
        self.github_runner_id
            .or_else(|| agent_id(self.encoded_jit_config.expose_secret()))
    }
}

/// The configuration is base64 of a map from file names to base64 contents.
fn agent_id(encoded: &str) -> Option<i64> {
    let files: BTreeMap<String, String> = serde_json::from_slice(&BASE64.decode(encoded).ok()?).ok()?;
    let runner = BASE64.decode(files.get(".runner")?).ok()?;
    let runner = runner.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&runner);
    let runner: serde_json::Value = serde_json::from_slice(runner).ok()?;
    let id = runner.get("agentId").or_else(|| runner.get("AgentId"))?;
    somebodys(id.as_i64().or_else(|| id.as_str()?.parse().ok()))
}

/// 0 is nobody's id.
fn somebodys(id: Option<i64>) -> Option<i64> {
    id.filter(|id| *id > 0)
}

fn read_id<'de, D: Deserializer<'de>>(d: D) -> Result<Option<i64>, D::Error> {
    Ok(somebodys(Option::deserialize(d)?))
}

/// `POST /api/v1/runners/provision`, which only the older version has. No labels and no runner group: that version
/// deletes a runner whose own labels differ from those asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegistrationRequest {
    /// Exact, and fresh per attempt: a lost answer is cured by name.
    pub runner_name: String,
    /// What the policy checks.
    pub labels: Vec<String>,
    pub ephemeral: bool,
}

/// The 201 to a [`RegistrationRequest`]: a registration token of GitHub's, and a record that waits for a runner of
/// that name and counts until it is deleted.
#[derive(Clone, Debug, Deserialize)]
pub struct RegistrationAnswer {
    pub runner_id: String,
    #[serde(deserialize_with = "secret")]
    pub registration_token: SecretString,
    /// Text: see [`utc`].
    #[serde(default)]
    pub expires_at: Option<String>,
    /// The organization that the token is for.
    #[serde(default)]
    pub github_url: Option<String>,
    /// The status that it came with.
    #[serde(skip)]
    pub status: u16,
    /// When it was sent, by the server's clock.
    #[serde(skip)]
    pub sent: Option<Timestamp>,
}

impl RegistrationAnswer {
    /// How long the token lives, as far as the server says it in a form that can be read.
    pub fn life(&self) -> Option<Duration> {
        let until = self.expires_at.as_deref().and_then(utc)?;
        Some(Duration::try_from(until.duration_since(self.sent?)).unwrap_or_default())
    }
}

/// One record of `GET /api/v1/runners`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Runner {
    pub runner_id: String,
    pub runner_name: String,
    /// `pending`, `offline`, `online`, `active`, `deleted`, and whatever comes.
    #[serde(default)]
    pub status: String,
    #[serde(default, deserialize_with = "read_id")]
    pub github_runner_id: Option<i64>,
    /// Text: see [`utc`].
    #[serde(default)]
    pub created_at: Option<String>,
}

impl Runner {
    /// Deleted records stay readable; they are nobody's business any more.
    pub fn is_deleted(&self) -> bool {
        self.status == "deleted"
    }

    pub fn created(&self) -> Option<Timestamp> {
        self.created_at.as_deref().and_then(utc)
    }
}

/// One page of `GET /api/v1/runners`: an object in the deployed versions, a bare list in the seed's contract.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Page {
    Counted {
        /// Undecoded, so that one odd record does not hide the others.
        runners: Vec<serde_json::Value>,
        #[serde(default)]
        total: Option<usize>,
    },
    Bare(Vec<serde_json::Value>),
}

/// `GET /api/v1/auth/me`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Me {
    /// A UUID, or `m2m:<team>` for a machine client.
    #[serde(default)]
    pub user_id: String,
    #[serde(default)]
    pub display_name: Option<String>,
    #[serde(default)]
    pub oidc_sub: Option<String>,
    #[serde(default)]
    pub can_use_jit: Option<bool>,
    /// Told by the older version alone.
    #[serde(default)]
    pub can_use_registration_token: Option<bool>,
    /// Active teams; absent where the server has no teams.
    #[serde(default)]
    pub teams: Option<Vec<Team>>,
    /// Absent in servers without extensions.
    #[serde(default)]
    pub features: Vec<String>,
}

/// `GET /api/v1/admin/teams`: those that the caller is a member of, deactivated ones too. Machine clients see none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct TeamList {
    pub teams: Vec<TeamDetails>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TeamDetails {
    pub id: String,
    pub name: String,
    pub is_active: bool,
    #[serde(default)]
    pub deactivation_reason: Option<String>,
}

impl Me {
    /// Machine clients have one team, whatever a request says.
    pub fn is_machine(&self) -> bool {
        self.user_id.starts_with("m2m:")
    }

    pub fn binds_to_scale_sets(&self) -> bool {
        self.features.iter().any(|f| f == SCALE_SET_FEATURE)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Team {
    pub id: String,
    pub name: String,
}

/// Body of every refusal. `detail` is text in all recorded versions; a list (the framework's own form) passes.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ErrorBody {
    #[serde(default)]
    pub detail: serde_json::Value,
    #[serde(default)]
    pub error_code: Option<String>,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

/// Reads the service's times: ISO 8601 with a zone, or without one, which means UTC.
pub fn utc(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    text.parse::<Timestamp>().ok().or_else(|| {
        let naive: DateTime = text.parse().ok()?;
        Some(naive.to_zoned(TimeZone::UTC).ok()?.timestamp())
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn b22_times_are_read_with_and_without_zone_and_fraction() {
        let expected: Timestamp = "2026-11-23T04:23:44Z".parse().unwrap();
        for text in [
            "2026-11-23T04:23:44",
            "2026-11-23T04:23:44.000000",
            "2026-11-23T04:23:44Z",
            "2026-11-23T05:23:44+01:00",
        ] {
            assert_eq!(utc(text), Some(expected), "{text}");
        }
        assert_eq!(
            utc("2026-11-23T04:23:44.675692").unwrap().to_string(),
            "2026-11-23T04:23:44.675692Z"
        );
        assert_eq!(utc("soon"), None);
    }

    #[test]
    fn b22_an_answer_of_the_team_based_version_decodes_and_hides_its_configuration() {
        let answer: JitAnswer = serde_json::from_str(
            r#"{"runner_id":"3f90","runner_name":"arc-pool-aa3b06","encoded_jit_config":"eyIucnVubmVy",
                "labels":["arc","self-hosted","linux"],"expires_at":"2026-11-23T04:23:44.675692","run_command":"./run.sh"}"#,
        )
        .unwrap();
        assert_eq!(answer.encoded_jit_config.expose_secret(), "eyIucnVubmVy");
        assert_eq!(answer.runner_scale_set_id, None);
        assert!(!format!("{answer:?}").contains("eyIucnVubmVy"));
    }

    #[test]
    fn b16_a_token_lives_as_long_as_the_servers_own_clock_says() {
        let text = r#"{"runner_id":"1","registration_token":"AABB","expires_at":"2026-11-23T05:00:00"}"#;
        let mut answer: RegistrationAnswer = serde_json::from_str(text).unwrap();
        assert_eq!(answer.life(), None);
        answer.sent = utc("2026-11-23T04:45:00");
        assert_eq!(answer.life(), Some(Duration::from_mins(15)));
        answer.sent = utc("2026-11-23T06:00:00");
        assert_eq!(answer.life(), Some(Duration::ZERO));
    }

    #[test]
    fn b22_a_request_carries_both_extension_fields_and_no_runner_group() {
        let request = JitRequest {
            runner_name: "n".into(),
            labels: vec!["linux".into()],
            team_id: Some("id".into()),
            team_name: None,
            work_folder: "_work".into(),
            runner_group_id: None,
            scale_set: Some(ScaleSetFields {
                runner_scale_set_id: 42,
                runner_scale_set_name: "linux-large".into(),
            }),
        };
        assert_eq!(
            serde_json::to_value(request).unwrap(),
            serde_json::json!({"runner_name": "n", "labels": ["linux"], "team_id": "id", "work_folder": "_work",
                "runner_scale_set_id": 42, "runner_scale_set_name": "linux-large"})
        );
    }
}

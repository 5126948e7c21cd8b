//! What GitHub's Actions service sends, read tolerantly: unknown fields are ignored, `null` is absence, a
//! missing field is its zero.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

use crate::status::DemandStatus;

/// `null` as the type's zero.
pub(super) fn or_zero<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Option::deserialize(d).map(Option::unwrap_or_default)
}

/// `{"count": n, "value": [...]}`; the count is not trusted.
#[derive(Deserialize)]
#[serde(bound(deserialize = "T: DeserializeOwned"))]
pub(super) struct List<T> {
    #[serde(default, deserialize_with = "or_zero")]
    pub(super) value: Vec<T>,
}

/// A list whose emptiness would have a meaning: it must be there. Its entries are read one by one.
#[derive(Deserialize)]
pub(super) struct WholeList {
    pub(super) value: Vec<Value>,
}

/// A list whose entries are read one by one, by whoever knows what an unreadable one means.
pub(super) type RawList = List<Value>;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunnerGroup {
    pub id: i64,
    #[serde(default, deserialize_with = "or_zero")]
    pub name: String,
    #[serde(default, deserialize_with = "or_zero", rename = "isDefaultGroup")]
    pub is_default: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaleSet {
    pub id: i64,
    #[serde(default, deserialize_with = "or_zero")]
    pub name: String,
    #[serde(default, deserialize_with = "or_zero")]
    pub runner_group_id: i64,
    #[serde(default, deserialize_with = "or_zero")]
    pub runner_group_name: String,
    /// Names only: their type is `System` throughout.
    #[serde(default, deserialize_with = "label_names")]
    pub labels: Vec<String>,
    /// Whether runners may update themselves; `None` when the service does not tell.
    #[serde(
        default,
        rename = "RunnerSetting",
        alias = "runnerSetting",
        deserialize_with = "disable_update"
    )]
    pub disable_update: Option<bool>,
    #[serde(default, deserialize_with = "statistics")]
    pub statistics: Option<Statistics>,
    /// `online` or `offline`: whether GitHub sees a listener; not always told.
    #[serde(default)]
    pub status: Option<String>,
}

fn label_names<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    struct Label {
        #[serde(default, deserialize_with = "or_zero")]
        name: String,
    }
    let labels: Vec<Label> = or_zero(d)?;
    Ok(labels.into_iter().map(|l| l.name).collect())
}

fn disable_update<'de, D: Deserializer<'de>>(d: D) -> Result<Option<bool>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Setting {
        #[serde(default, alias = "DisableUpdate")]
        disable_update: Option<bool>,
    }
    Ok(Option::<Setting>::deserialize(d)?.and_then(|s| s.disable_update))
}

/// GitHub's own count of a scale set's jobs and runners: always current, unlike its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Statistics {
    #[serde(deserialize_with = "or_zero")]
    pub total_available_jobs: i64,
    #[serde(deserialize_with = "or_zero")]
    pub total_acquired_jobs: i64,
    /// Jobs that wait for a runner and jobs that run: the demand.
    #[serde(deserialize_with = "or_zero")]
    pub total_assigned_jobs: i64,
    #[serde(deserialize_with = "or_zero")]
    pub total_running_jobs: i64,
    #[serde(deserialize_with = "or_zero")]
    pub total_registered_runners: i64,
    #[serde(deserialize_with = "or_zero")]
    pub total_busy_runners: i64,
    #[serde(deserialize_with = "or_zero")]
    pub total_idle_runners: i64,
}

impl Statistics {
    /// An array would be taken for one of no fields, and all zeros for news.
    pub(super) fn read(value: &Value) -> Option<Self> {
        value.as_object().and_then(|_| Self::deserialize(value).ok())
    }
}

/// Nonsense is no news, and no reason to do without what it came with.
fn statistics<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Statistics>, D::Error> {
    Ok(Statistics::read(&Value::deserialize(d)?))
}

impl From<Statistics> for DemandStatus {
    fn from(s: Statistics) -> Self {
        Self {
            available: s.total_available_jobs,
            acquired: s.total_acquired_jobs,
            assigned: s.total_assigned_jobs,
            running: s.total_running_jobs,
            registered_runners: s.total_registered_runners,
            busy_runners: s.total_busy_runners,
            idle_runners: s.total_idle_runners,
        }
    }
}

/// A runner's registration, of ours or of anybody in scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    pub id: i64,
    #[serde(default, deserialize_with = "or_zero")]
    pub name: String,
    /// `None` for ordinary runners, outside any set.
    #[serde(default, deserialize_with = "set_id")]
    pub runner_scale_set_id: Option<i64>,
    /// `online` or `offline`.
    #[serde(default)]
    pub status: Option<String>,
    /// Whether it executes a job, as far as the service tells.
    #[serde(default)]
    pub busy: Option<bool>,
    #[serde(default)]
    pub ephemeral: Option<bool>,
    #[serde(default)]
    pub version: Option<String>,
    /// RFC 3339, as sent.
    #[serde(default)]
    pub created_on: Option<String>,
}

impl Agent {
    /// Whether GitHub sees it connected.
    pub fn is_online(&self) -> bool {
        self.status.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("online"))
    }
}

fn set_id<'de, D: Deserializer<'de>>(d: D) -> Result<Option<i64>, D::Error> {
    Ok(Option::deserialize(d)?.filter(|id| *id != 0))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct JitAnswer {
    pub(super) runner: Agent,
    #[serde(rename = "encodedJITConfig")]
    pub(super) encoded_jit_config: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionAnswer {
    pub(super) session_id: String,
    #[serde(default, deserialize_with = "or_zero")]
    pub(super) owner_name: String,
    pub(super) message_queue_url: String,
    pub(super) message_queue_access_token: String,
    #[serde(default, deserialize_with = "statistics")]
    pub(super) statistics: Option<Statistics>,
    #[serde(default)]
    pub(super) runner_scale_set: Option<ScaleSet>,
}

/// Of such an answer what it takes to close the session.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OpenedSession {
    pub(super) session_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b03_nulls_zeroes_and_strangers_are_taken() {
        let set: ScaleSet = serde_json::from_str(
            r#"{"id":3,"name":null,"labels":null,"RunnerSetting":null,"statistics":{"totalAssignedJobs":null},"new":1}"#,
        )
        .unwrap();
        assert_eq!((set.id, set.labels.len(), set.disable_update), (3, 0, None));
        let set: ScaleSet = serde_json::from_str(
            r#"{"id":3,"labels":[{"type":"System","name":"a"}],"RunnerSetting":{"disableUpdate":true}}"#,
        )
        .unwrap();
        assert_eq!((set.labels, set.disable_update), (vec!["a".to_owned()], Some(true)));
        for nonsense in [
            "[]",
            "7",
            r#"{"totalAssignedJobs":"many"}"#,
            r#"{"totalAssignedJobs":1.5}"#,
        ] {
            let set: ScaleSet = serde_json::from_str(&format!(r#"{{"id":3,"statistics":{nonsense}}}"#)).unwrap();
            assert_eq!(set.statistics, None, "{nonsense}");
            let session = format!(
                r#"{{"sessionId":"s","messageQueueUrl":"u","messageQueueAccessToken":"t","statistics":{nonsense}}}"#
            );
            let session: SessionAnswer = serde_json::from_str(&session).unwrap();
            assert_eq!(session.statistics, None, "{nonsense}");
        }
        let agent: Agent = serde_json::from_str(r#"{"id":1,"runnerScaleSetId":0,"status":"Online"}"#).unwrap();
        assert_eq!((agent.runner_scale_set_id, agent.is_online()), (None, true));
    }

    #[test]
    fn b46_no_list_is_not_an_empty_one() {
        assert!(serde_json::from_str::<WholeList>(r#"{"count":0,"value":[]}"#).is_ok());
        for nothing in ["{}", r#"{"count":0,"value":null}"#, r#"{"message":"ok"}"#] {
            assert!(serde_json::from_str::<WholeList>(nothing).is_err(), "{nothing}");
        }
    }

    #[test]
    fn a_list_may_be_null() {
        let list: List<Agent> = serde_json::from_str(r#"{"count":0,"value":null}"#).unwrap();
        assert!(list.value.is_empty());
    }
}

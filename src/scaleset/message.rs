//! Messages of a scale set's queue, decoded entry by entry: one that cannot be read neither discards its
//! batch nor vanishes in silence.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::wire::{Statistics, or_zero};
use crate::http::{redact, trimmed};

/// One message: acknowledge it by its id when every entry is handled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    pub id: i64,
    pub statistics: Option<Statistics>,
    pub entries: Vec<JobMessage>,
    /// What could not be read, redacted: to be logged and counted, then acknowledged with the rest.
    pub undecodable: Vec<String>,
}

/// What happened to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum JobMessage {
    /// Offered, until acquired (GHES).
    Available(Job),
    /// Given to this scale set; may be taken back and given again.
    Assigned(Job),
    /// A runner has it: the only statement of which one.
    Started { job: Job, runner: JobRunner },
    /// Over, or (`canceled` with no runner) queued again.
    Completed {
        job: Job,
        /// `succeeded`, `failed`, `canceled`, ...
        result: String,
        runner: Option<JobRunner>,
    },
    /// A kind that we do not know: harmless.
    Unknown { message_type: String },
}

impl JobMessage {
    pub fn job(&self) -> Option<&Job> {
        match self {
            Self::Available(job) | Self::Assigned(job) | Self::Started { job, .. } | Self::Completed { job, .. } => {
                Some(job)
            }
            Self::Unknown { .. } => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRunner {
    pub id: i64,
    pub name: String,
}

/// A workflow's job. Its texts are a stranger's: escape them wherever they are shown.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Job {
    /// The job's only stable identity: the service's `jobId`, or where an old server sends none, one made of
    /// request and run. Never empty.
    #[serde(deserialize_with = "or_zero")]
    pub job_id: String,
    /// 0 where the tenant assigns by itself.
    #[serde(deserialize_with = "or_zero")]
    pub runner_request_id: i64,
    #[serde(deserialize_with = "or_zero")]
    pub owner_name: String,
    #[serde(deserialize_with = "or_zero")]
    pub repository_name: String,
    #[serde(deserialize_with = "or_zero")]
    pub job_workflow_ref: String,
    #[serde(deserialize_with = "or_zero")]
    pub job_display_name: String,
    #[serde(deserialize_with = "or_zero")]
    pub workflow_run_id: i64,
    #[serde(deserialize_with = "or_zero")]
    pub event_name: String,
    #[serde(deserialize_with = "or_zero")]
    pub request_labels: Vec<String>,
    #[serde(deserialize_with = "time")]
    pub queue_time: Option<Timestamp>,
    #[serde(deserialize_with = "time")]
    pub scale_set_assign_time: Option<Timestamp>,
    #[serde(deserialize_with = "time")]
    pub runner_assign_time: Option<Timestamp>,
    #[serde(deserialize_with = "time")]
    pub finish_time: Option<Timestamp>,
}

/// The zero time and what is no time at all are no time.
fn time<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Timestamp>, D::Error> {
    const ZERO_YEAR: &str = "0001-";
    let text = Option::<Value>::deserialize(d)?;
    let text = text.as_ref().and_then(Value::as_str);
    Ok(text.filter(|t| !t.starts_with(ZERO_YEAR)).and_then(|t| t.parse().ok()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    message_id: i64,
    #[serde(default)]
    message_type: Value,
    #[serde(default)]
    body: Value,
    #[serde(default)]
    statistics: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Extra {
    #[serde(deserialize_with = "or_zero")]
    message_type: String,
    #[serde(deserialize_with = "or_zero")]
    runner_id: i64,
    #[serde(deserialize_with = "or_zero")]
    runner_name: String,
    #[serde(deserialize_with = "or_zero")]
    result: String,
}

/// The queue's 200: a message, or with an empty body none. `Err` when not even its id can be read.
pub(super) fn decode(body: &[u8]) -> Result<Option<Message>, serde_json::Error> {
    const KNOWN_TYPE: &str = "RunnerScaleSetJobMessages";
    let body = trimmed(body);
    if body.is_empty() || body == b"null" {
        return Ok(None);
    }
    let envelope: Envelope = serde_json::from_slice(body)?;
    let mut message = Message {
        id: envelope.message_id,
        ..Message::default()
    };
    match envelope.statistics {
        Value::Null => {}
        statistics => match Statistics::read(&statistics) {
            Some(read) => message.statistics = Some(read),
            None => message.undecodable.push(redact(&format!("statistics: {statistics}"))),
        },
    }
    let message_type = match envelope.message_type {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    };
    if message_type.eq_ignore_ascii_case(KNOWN_TYPE) || message_type.is_empty() {
        message.read_entries(&envelope.body);
    } else {
        message.entries.push(JobMessage::Unknown {
            message_type: redact(&message_type),
        });
    }
    Ok(Some(message))
}

impl Message {
    /// The body is JSON inside a JSON string; the bare array is taken as well.
    fn read_entries(&mut self, body: &Value) {
        let parsed;
        let list = match body {
            Value::Null => return,
            Value::String(text) => {
                let text = trimmed(text.as_bytes());
                if text.is_empty() {
                    return;
                }
                match serde_json::from_slice::<Value>(text) {
                    Ok(value) => {
                        parsed = value;
                        &parsed
                    }
                    Err(_) => return self.undecodable.push(redact(&String::from_utf8_lossy(text))),
                }
            }
            other => other,
        };
        match list {
            Value::Null => {}
            Value::Array(entries) => entries.iter().for_each(|entry| match read_entry(entry) {
                Some(read) => self.entries.push(read),
                None => self.undecodable.push(redact(&entry.to_string())),
            }),
            other => self.undecodable.push(redact(&other.to_string())),
        }
    }
}

fn read_entry(entry: &Value) -> Option<JobMessage> {
    let extra = Extra::deserialize(entry).ok()?;
    let runner = || {
        (!extra.runner_name.is_empty()).then(|| JobRunner {
            id: extra.runner_id,
            name: extra.runner_name.clone(),
        })
    };
    match extra.message_type.as_str() {
        "" => None,
        "JobAvailable" => Some(JobMessage::Available(read_job(entry)?)),
        "JobAssigned" => Some(JobMessage::Assigned(read_job(entry)?)),
        "JobStarted" => Some(JobMessage::Started {
            job: read_job(entry)?,
            runner: runner()?,
        }),
        "JobCompleted" => Some(JobMessage::Completed {
            job: read_job(entry)?,
            runner: runner(),
            result: extra.result,
        }),
        other => Some(JobMessage::Unknown {
            message_type: redact(other),
        }),
    }
}

/// `None` when it cannot be read or nothing in it tells the job from others.
pub(super) fn read_job(entry: &Value) -> Option<Job> {
    let mut job = Job::deserialize(entry).ok()?;
    if job.job_id.is_empty() {
        if job.runner_request_id == 0 {
            return None;
        }
        job.job_id = format!("run-{}-request-{}", job.workflow_run_id, job.runner_request_id);
    }
    Some(job)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(body: &Value) -> Message {
        let envelope = json!({"messageId": 7, "messageType": "RunnerScaleSetJobMessages", "body": body.to_string()});
        decode(envelope.to_string().as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn b03_one_garbage_entry_leaves_the_rest_of_its_batch() {
        let read = message(&json!([
            {"messageType": "JobAssigned", "jobId": "a", "runnerRequestId": 0, "requestLabels": null},
            {"messageType": "JobAssigned", "jobId": ["?"]},
            17,
            {"messageType": "JobTeleported", "jobId": "b"},
            {"messageType": "JobStarted", "jobId": "c", "runnerId": 5, "runnerName": "r-1", "unknown": {}},
            {"messageType": "JobStarted", "jobId": "d"},
        ]));
        assert_eq!(read.entries.len(), 3);
        assert_eq!(read.undecodable.len(), 3);
        assert!(matches!(&read.entries[1], JobMessage::Unknown { message_type } if message_type == "JobTeleported"));
        let JobMessage::Started { runner, .. } = &read.entries[2] else {
            panic!()
        };
        assert_eq!((runner.id, runner.name.as_str()), (5, "r-1"));
    }

    #[test]
    fn b03_bom_empty_bodies_and_foreign_types_are_no_errors() {
        assert_eq!(decode(b"").unwrap(), None);
        assert_eq!(decode(b"\xef\xbb\xbf").unwrap(), None);
        let bom = [b"\xef\xbb\xbf".as_slice(), br#"{"messageId":1,"body":""}"#].concat();
        assert_eq!(decode(&bom).unwrap().unwrap().id, 1);
        let nul = decode(br#"{"messageId":2,"body":null,"statistics":null}"#)
            .unwrap()
            .unwrap();
        assert_eq!((nul.entries.len(), nul.undecodable.len()), (0, 0));
        let cut = decode(br#"{"messageId":3,"body":"[{\"messageType\":"}"#)
            .unwrap()
            .unwrap();
        assert_eq!((cut.id, cut.undecodable.len()), (3, 1));
        let foreign = decode(br#"{"messageId":4,"messageType":"Other","body":"x"}"#)
            .unwrap()
            .unwrap();
        assert!(matches!(foreign.entries[0], JobMessage::Unknown { .. }));
        assert!(decode(b"<html>").is_err());
    }

    #[test]
    fn b03_an_envelope_with_nonsense_around_its_body_is_read_and_can_be_acknowledged() {
        let started = json!([{"messageType": "JobStarted", "jobId": "c", "runnerId": 5, "runnerName": "r-1"}]);
        for statistics in [json!(1.5), json!("many"), json!({"totalAssignedJobs": 1.5}), json!([])] {
            let envelope = json!({"messageId": 7, "body": started.to_string(), "statistics": statistics});
            let read = decode(envelope.to_string().as_bytes()).unwrap().unwrap();
            assert_eq!((read.id, read.statistics), (7, None), "{statistics}");
            assert_eq!((read.entries.len(), read.undecodable.len()), (1, 1), "{statistics}");
        }
        let envelope = json!({"messageId": 8, "messageType": 17, "body": started.to_string()});
        let read = decode(envelope.to_string().as_bytes()).unwrap().unwrap();
        assert!(matches!(&read.entries[..], [JobMessage::Unknown { message_type }] if message_type == "17"));
    }

    #[test]
    fn b03_times_may_be_zero_null_or_nonsense() {
        let read = message(&json!([{
            "messageType": "JobCompleted", "jobId": "a", "result": "canceled", "runnerName": "",
            "queueTime": "2026-01-01T00:00:01Z", "scaleSetAssignTime": "0001-01-01T00:00:00Z",
            "runnerAssignTime": null, "finishTime": 5,
        }]));
        let JobMessage::Completed { job, result, runner } = &read.entries[0] else {
            panic!("{read:?}")
        };
        assert!(job.queue_time.is_some());
        assert_eq!(
            (job.scale_set_assign_time, job.runner_assign_time, job.finish_time),
            (None, None, None)
        );
        assert_eq!((result.as_str(), runner), ("canceled", &None));
    }

    #[test]
    fn a_job_without_id_is_known_by_request_and_run() {
        let read = message(&json!([
            {"messageType": "JobAvailable", "runnerRequestId": 12, "workflowRunId": 9},
            {"messageType": "JobAvailable", "runnerRequestId": 0},
        ]));
        assert_eq!(read.entries[0].job().unwrap().job_id, "run-9-request-12");
        assert_eq!(read.undecodable.len(), 1);
    }
}

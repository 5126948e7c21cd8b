//! What is written on a pod that exists: its job, and why it failed.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::keys;
use crate::plan::runner::Job;

/// Kubernetes' own limit on a label's value.
const LABEL_MAX: usize = 63;
/// Annotations hold strangers' text; nobody needs more of it.
pub(super) const ANNOTATION_MAX: usize = 1024;

/// Merge patch for a runner that became busy: ids as labels, full values as annotations, not safe to evict.
pub fn busy_patch(job: Option<&Job>) -> Value {
    let mut labels = BTreeMap::new();
    let mut annotations: BTreeMap<String, String> = evictable(false).into_iter().collect();
    if let Some(job) = job {
        let ids = [
            (keys::JOB_ID, job.id.clone()),
            (keys::RUN_ID, job.workflow_run_id.to_string()),
            (keys::REQUEST_ID, job.request_id.to_string()),
        ];
        for (key, value) in ids.iter().filter(|(_, v)| is_label_value(v)) {
            labels.insert((*key).to_owned(), value.clone());
        }
        let texts = [
            (keys::REPOSITORY, job.repository.as_str()),
            (keys::JOB_NAME, job.display_name.as_str()),
            (keys::WORKFLOW_REF, job.workflow_ref.as_str()),
        ];
        annotations.extend(
            ids.iter()
                .map(|(k, v)| ((*k).to_owned(), cut(v, ANNOTATION_MAX).to_owned())),
        );
        annotations.extend(
            texts
                .iter()
                .map(|(k, v)| ((*k).to_owned(), cut(v, ANNOTATION_MAX).to_owned())),
        );
    }
    json!({ "metadata": { "labels": labels, "annotations": annotations } })
}

/// Merge patch for a failed pod that is kept: why it failed and until when it stays. `ends`: its containers run still, and
/// its kubelet shall end them.
pub fn keep_patch(reason: &str, said: Option<&str>, until: &str, ends: bool) -> Value {
    let mut annotations: BTreeMap<String, String> = evictable(true).into_iter().collect();
    annotations.insert(keys::FAILED.into(), reason.to_owned());
    annotations.insert(keys::KEPT_UNTIL.into(), until.to_owned());
    if let Some(said) = said {
        annotations.insert(keys::FAILED_MESSAGE.into(), cut(said, ANNOTATION_MAX).to_owned());
    }
    let metadata = json!({ "labels": { keys::FAILED: reason }, "annotations": annotations });
    if ends {
        // The one field of a pod's spec that ends its containers and leaves their logs.
        json!({ "metadata": metadata, "spec": { "activeDeadlineSeconds": 1 } })
    } else {
        json!({ "metadata": metadata })
    }
}

pub(super) fn evictable(safe: bool) -> [(String, String); 2] {
    [
        (keys::SAFE_TO_EVICT.to_owned(), safe.to_string()),
        (keys::DO_NOT_DISRUPT.to_owned(), (!safe).to_string()),
    ]
}

fn is_label_value(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= LABEL_MAX && bytes.iter().copied().all(inner) && edge(bytes.first()) && edge(bytes.last())
}

pub(super) fn cut(text: &str, max: usize) -> &str {
    match text.char_indices().nth(max) {
        Some((at, _)) => &text[..at],
        None => text,
    }
}

//! The Kubernetes Event of one notice, pure.
//!
//! Of the two faces that Events have, the core group's is written: `kubectl get events` and `describe` show its count.

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use super::keys;
use crate::plan::notices::{About, Notice};

/// No API server takes a longer note of the newer face.
const NOTE_MAX: usize = 1024;

/// The Event of `notice` in the runner namespace; `first` and `last`: when it happened.
pub fn event(notice: &Notice, namespace: &str, first: Time, last: Time) -> Event {
    let (kind, name, uid) = match &notice.about {
        About::Pod { name, uid } => ("Pod", name.to_string(), Some(uid.clone())),
        About::Namespace => ("Namespace", namespace.to_owned(), None),
    };
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}.")),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(kind.to_owned()),
            name: Some(name),
            // Of a namespace too: an Event must be in the namespace of what it is about.
            namespace: Some(namespace.to_owned()),
            uid: uid.filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        },
        type_: Some(if notice.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(notice.reason.clone()),
        message: Some(notice.note.chars().take(NOTE_MAX).collect()),
        count: Some(i32::try_from(notice.count).unwrap_or(i32::MAX)),
        first_timestamp: Some(first),
        last_timestamp: Some(last),
        source: Some(EventSource {
            component: Some(keys::MANAGED_BY_VALUE.to_owned()),
            host: None,
        }),
        reporting_component: Some(keys::MANAGED_BY_VALUE.to_owned()),
        ..Event::default()
    }
}

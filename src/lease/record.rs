//! What stands in the Lease: who leads, and which sessions are open at GitHub.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use serde::{Deserialize, Serialize};

use super::DURATION;
use crate::ids::SetName;

/// The annotation with the open sessions: a JSON object, `{"SET": [SCALE SET ID, "SESSION ID"]}`.
pub const SESSIONS: &str = "gharts-listener/sessions";
/// A Lease that somebody made endless by hand must not end the deployment.
const LONGEST: Duration = Duration::from_mins(1);

/// One open session at GitHub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRef(
    /// The scale set's id.
    pub i64,
    /// The session's.
    pub String,
);

/// Open sessions by scale set.
pub type Sessions = BTreeMap<SetName, SessionRef>;

/// One version of the Lease.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// As it was read: what others wrote into it stays.
    pub(super) object: Lease,
}

impl From<Lease> for Record {
    fn from(object: Lease) -> Self {
        Self { object }
    }
}

impl Record {
    /// Who leads; `None`: it was released.
    pub fn holder(&self) -> Option<&str> {
        let holder = self.spec()?.holder_identity.as_deref();
        holder.filter(|holder| !holder.is_empty())
    }

    /// How long it lasts without renewal.
    pub fn duration(&self) -> Duration {
        let seconds = self.spec().and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).clamp(DURATION, LONGEST)
    }

    /// Sessions that its holder had open; what cannot be read names none.
    pub fn sessions(&self) -> Sessions {
        let annotations = self.object.metadata.annotations.as_ref();
        let text = annotations.and_then(|all| all.get(SESSIONS));
        text.and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    }

    /// Whether `other` shows a sign of life that this one does not: another holder, or a renewal. Times are compared
    /// with each other alone, never with a clock.
    pub fn lives_on(&self, other: &Self) -> bool {
        self.object.spec != other.object.spec
    }

    /// The next version: held by `holder` (`None`: released) with these sessions. It replaces this one only.
    #[must_use]
    pub fn next(&self, holder: Option<&str>, sessions: &Sessions, now: Timestamp) -> Lease {
        let mut lease = self.object.clone();
        let old = lease.spec.take().unwrap_or_default();
        let changes_hands = holder.is_some() && holder != self.holder();
        let transitions = old.lease_transitions.unwrap_or(0);
        lease.spec = Some(LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            renew_time: Some(MicroTime(now)),
            acquire_time: if changes_hands {
                Some(MicroTime(now))
            } else {
                old.acquire_time
            },
            lease_transitions: Some(transitions.saturating_add(i32::from(changes_hands && self.is_stored()))),
            ..old
        });
        let annotations = lease.metadata.annotations.get_or_insert_default();
        match serde_json::to_string(sessions) {
            Ok(text) if !sessions.is_empty() => annotations.insert(SESSIONS.to_owned(), text),
            _ => annotations.remove(SESSIONS),
        };
        lease
    }

    fn is_stored(&self) -> bool {
        self.object.metadata.resource_version.is_some()
    }

    fn spec(&self) -> Option<&LeaseSpec> {
        self.object.spec.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn sessions() -> Sessions {
        BTreeMap::from([(SetName::new("linux"), SessionRef(7, "s-1".to_owned()))])
    }

    #[test]
    fn b42_what_a_leader_writes_its_successor_reads() {
        let lease = Record::default().next(Some("a"), &sessions(), at(0));
        let written = &lease.metadata.annotations.as_ref().unwrap()[SESSIONS];
        assert_eq!(written, r#"{"linux":[7,"s-1"]}"#);
        let record = Record::from(lease);
        assert_eq!((record.holder(), record.sessions()), (Some("a"), sessions()));
        assert_eq!(record.duration(), DURATION);

        let released = Record::from(record.next(None, &Sessions::new(), at(1)));
        assert_eq!((released.holder(), released.sessions()), (None, Sessions::new()));
        assert!(released.object.metadata.annotations.unwrap().is_empty());
    }

    #[test]
    fn what_others_wrote_into_it_stays_and_is_no_sign_of_life() {
        let mut lease = Record::default().next(Some("a"), &sessions(), at(0));
        let before = Record::from(lease.clone());
        lease.metadata.resource_version = Some("2".to_owned());
        lease
            .metadata
            .annotations
            .as_mut()
            .unwrap()
            .insert("x".to_owned(), "y".to_owned());
        let annotated = Record::from(lease);
        assert!(!annotated.lives_on(&before));
        let taken = Record::from(annotated.next(Some("b"), &sessions(), at(9)));
        assert!(taken.lives_on(&annotated));
        let taken = taken.object;
        assert_eq!(taken.metadata.resource_version.as_deref(), Some("2"));
        assert_eq!(taken.metadata.annotations.unwrap()["x"], "y");
        assert_eq!(taken.spec.unwrap().lease_transitions, Some(1));
    }

    #[test]
    fn what_is_written_by_hand_is_read_with_care() {
        let mut lease = Record::default().next(Some(""), &Sessions::new(), at(0));
        lease.spec.as_mut().unwrap().lease_duration_seconds = Some(86_400);
        lease
            .metadata
            .annotations
            .as_mut()
            .unwrap()
            .insert(SESSIONS.to_owned(), "[1]".to_owned());
        let record = Record::from(lease);
        assert_eq!((record.holder(), record.sessions()), (None, Sessions::new()));
        assert_eq!(record.duration(), LONGEST);
    }
}

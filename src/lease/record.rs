//! What stands in the Lease: who leads, which sessions are open at GitHub, and which sets are served.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

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

/// The annotation with the sets that may have runners: a JSON object, `{"SET": ["PROVISIONER", "GITHUB URL", ID]}`.
pub const SETS: &str = "gharts-listener/sets";

/// What ends the runners of a set, should the next leader's file name it no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedSet(
    /// `gharts` or `scaleSet`.
    pub String,
    /// Where it is registered.
    pub String,
    /// Its id there, once known.
    pub Option<i64>,
);

/// Sets that may have runners.
pub type ServedSets = BTreeMap<SetName, ServedSet>;

/// What one leader leaves to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Legacy {
    pub sessions: Sessions,
    pub sets: ServedSets,
}

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
        self.annotation(SESSIONS)
    }

    /// What its holder left; what cannot be read is nothing.
    pub fn legacy(&self) -> Legacy {
        Legacy {
            sessions: self.sessions(),
            sets: self.annotation(SETS),
        }
    }

    fn annotation<T: DeserializeOwned + Default>(&self, key: &str) -> T {
        let annotations = self.object.metadata.annotations.as_ref();
        let text = annotations.and_then(|all| all.get(key));
        text.and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    }

    /// Whether `other` shows a sign of life that this one does not: another holder, or a renewal. Times are compared
    /// with each other alone, never with a clock.
    pub fn lives_on(&self, other: &Self) -> bool {
        self.object.spec != other.object.spec
    }

    /// The next version: held by `holder` (`None`: released) with this legacy. It replaces this one only.
    #[must_use]
    pub fn next(&self, holder: Option<&str>, legacy: &Legacy, now: Timestamp) -> Lease {
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
        let Legacy { sessions, sets } = legacy;
        for (key, text, is_empty) in [
            (SESSIONS, serde_json::to_string(sessions), sessions.is_empty()),
            (SETS, serde_json::to_string(sets), sets.is_empty()),
        ] {
            match text {
                Ok(text) if !is_empty => annotations.insert(key.to_owned(), text),
                _ => annotations.remove(key),
            };
        }
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

    fn legacy() -> Legacy {
        let served = ServedSet("scaleSet".to_owned(), "https://github.com/acme".to_owned(), Some(7));
        Legacy {
            sessions: BTreeMap::from([(SetName::new("linux"), SessionRef(7, "s-1".to_owned()))]),
            sets: BTreeMap::from([(SetName::new("linux"), served)]),
        }
    }

    #[test]
    fn b42_what_a_leader_writes_its_successor_reads() {
        let lease = Record::default().next(Some("a"), &legacy(), at(0));
        let written = lease.metadata.annotations.as_ref().unwrap();
        assert_eq!(written[SESSIONS], r#"{"linux":[7,"s-1"]}"#);
        assert_eq!(written[SETS], r#"{"linux":["scaleSet","https://github.com/acme",7]}"#);
        let record = Record::from(lease);
        assert_eq!((record.holder(), record.legacy()), (Some("a"), legacy()));
        assert_eq!(record.duration(), DURATION);

        let released = Record::from(record.next(None, &Legacy::default(), at(1)));
        assert_eq!((released.holder(), released.legacy()), (None, Legacy::default()));
        assert!(released.object.metadata.annotations.unwrap().is_empty());
    }

    #[test]
    fn what_others_wrote_into_it_stays_and_is_no_sign_of_life() {
        let mut lease = Record::default().next(Some("a"), &legacy(), at(0));
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
        let taken = Record::from(annotated.next(Some("b"), &legacy(), at(9)));
        assert!(taken.lives_on(&annotated));
        let taken = taken.object;
        assert_eq!(taken.metadata.resource_version.as_deref(), Some("2"));
        assert_eq!(taken.metadata.annotations.unwrap()["x"], "y");
        assert_eq!(taken.spec.unwrap().lease_transitions, Some(1));
    }

    #[test]
    fn what_is_written_by_hand_is_read_with_care() {
        let mut lease = Record::default().next(Some(""), &Legacy::default(), at(0));
        lease.spec.as_mut().unwrap().lease_duration_seconds = Some(86_400);
        lease
            .metadata
            .annotations
            .as_mut()
            .unwrap()
            .insert(SESSIONS.to_owned(), "[1]".to_owned());
        let record = Record::from(lease);
        assert_eq!((record.holder(), record.legacy()), (None, Legacy::default()));
        assert_eq!(record.duration(), LONGEST);
    }
}

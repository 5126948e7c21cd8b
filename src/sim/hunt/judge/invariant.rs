//! What must hold, and what is said where it does not.

use std::fmt;

use serde::Serialize;

use super::super::plan::seconds;

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Invariant {
    /// Live runners stay within the file's limits, as they are or were a moment ago.
    Limits,
    /// A pod is made for a set that the file names, of its template.
    File,
    /// No runner is started beyond `minRunners` and the jobs that were told of.
    Demand,
    /// Pods that come to nothing are made ever more rarely.
    BackOff,
    /// In peace no pod is made that no job and no `minRunners` calls for.
    Thrift,
    /// When all is well again, `minRunners` are there.
    Spares,
    /// No set announces capacity that the limit over all sets has no room for.
    Capacity,
    /// Nobody ends the pod of a runner that has a job, or may still be given one.
    BusyKept,
    /// Where nothing strikes pods and their runners, no job loses its runner.
    JobsKept,
    /// A JIT configuration is used by one process.
    JitOnce,
    /// A runner's name is used by one pod.
    NameOnce,
    /// Only the replica that holds the Lease opens sessions, asks for runners, and writes pods.
    Fence,
    /// Jobs are acquired within what was announced, and no set is deleted.
    Queue,
    /// What is another installation's stays as it is.
    Strangers,
    /// Secrets stand in Secrets and nowhere else.
    Secrets,
    /// Calls to a peer are few.
    Calm,
    /// The daemon runs until it is told to end, and its loop moves.
    Alive,
    /// What the daemon keeps in memory has a bound.
    Memory,
    /// Every set says why there are not more runners.
    Reasons,
    /// When all is well again, every job ends, and new ones succeed.
    JobsEnd,
    /// When all is well again, as many jobs run at one time as the limits let.
    AtOnce,
    /// When all is well again, nothing is left that nobody owns.
    NothingLeft,
    /// Told to end, the daemon ends in good time, and closes its sessions.
    OrderlyEnd,
}

/// One invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Breach {
    pub invariant: Invariant,
    pub at_ms: u64,
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = seconds(self.at_ms);
        write!(f, "{:?} at {at} s: {}", self.invariant, self.what)
    }
}

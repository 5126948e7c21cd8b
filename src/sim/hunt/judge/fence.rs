//! Only the replica that holds the Lease does what only one may do, and only as long as it knows that it does.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{super::plan::USURPER, Invariant, Judge};
use crate::sim::world::{DAEMON_NAMESPACE, LEASE};

/// Who leads asks every 2 s whether he does, and waits 3 s for the answer; twice, where one is lost.
const ROBBED: Duration = Duration::from_secs(10);
/// Who could not renew the Lease for so long begins nothing.
const BEGINS: Duration = Duration::from_secs(7);
/// And goes on with nothing after so long: then somebody else may lead.
const GOES_ON: Duration = Duration::from_secs(10);
/// From the moment at which a call is decided to that at which it leaves: a token for it may be asked for first.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

impl Judge {
    /// It is the second half of a start: a token for it was asked for before.
    pub(super) fn goes_on(&self, line: &str) -> bool {
        let set = line
            .strip_suffix("/generatejitconfig")
            .and_then(|path| path.rsplit('/').next());
        let set = set.and_then(|id| self.set_named(id));
        set.is_some_and(|set| self.registers_itself(&set))
    }

    /// Whoever does what only one may do holds the Lease.
    pub(super) fn may_lead(&self, replica: &str, line: &str) {
        let holder = self.lease_holder();
        let robbed = self.lock().robbed.clone();
        let may_not_know = robbed.is_some_and(|(whom, at)| whom == replica && at.elapsed() < ROBBED);
        if holder.as_deref() != Some(replica) && !may_not_know {
            self.breach(
                Invariant::Fence,
                format!("{replica} while {holder:?} holds the Lease: {line}"),
            );
        }
    }

    /// Something new is begun: the Lease was renewed lately.
    pub(super) fn may_begin(&self, replica: &str, line: &str) {
        self.renewed_within(BEGINS, replica, line);
    }

    /// Something of before is ended: nobody else can lead yet.
    pub(super) fn may_go_on(&self, replica: &str, line: &str) {
        self.renewed_within(GOES_ON, replica, line);
    }

    /// Whether this replica has written the Lease so lately that nobody else can lead.
    pub(in crate::sim::hunt) fn holds(&self, replica: &str) -> bool {
        let written = self.lock().written.get(replica).map(Instant::elapsed);
        written.is_some_and(|ago| ago < GOES_ON)
    }

    fn renewed_within(&self, time: Duration, replica: &str, line: &str) {
        let written = self.lock().written.get(replica).map(Instant::elapsed);
        if let Some(ago) = written.filter(|ago| *ago > time + ON_ITS_WAY) {
            let what = format!("{replica} {ago:?} after it last renewed the Lease: {line}");
            self.breach(Invariant::Fence, what);
        }
    }

    /// A replica has written the Lease.
    pub(super) fn lease_written(&self, body: &[u8]) {
        let lease: Value = serde_json::from_slice(body).unwrap_or_default();
        if let Some(holder) = lease["spec"]["holderIdentity"].as_str() {
            self.lock().written.insert(holder.to_owned(), Instant::now());
        }
    }

    /// Who holds the Lease; of one that somebody deleted, who held it.
    pub(in crate::sim::hunt) fn lease_holder(&self) -> Option<String> {
        let lease = self.world.kubernetes.get("leases", DAEMON_NAMESPACE, LEASE);
        let state = &mut *self.lock();
        if let Some(lease) = lease {
            let holder = lease["spec"]["holderIdentity"].as_str().map(str::to_owned);
            if holder.as_deref() == Some(USURPER) && holder != state.holder {
                state.robbed = state.holder.take().map(|whom| (whom, Instant::now()));
            }
            state.holder = holder;
        }
        state.holder.clone()
    }
}

//! A service that registers runners or keeps records of them, with all that stands in front of it.

use std::sync::Arc;

use crate::{
    admission::{SharedBreaker, gate::Gate},
    plan::limits::RETRY_AFTER_MAX,
    provision::{Provisioner, Refusal, Registration, ReleaseError, Released},
};

/// One provisioner as one scale set uses it.
#[derive(Clone, Debug)]
pub struct Service {
    pub provisioner: Arc<dyn Provisioner>,
    /// Sets with the same key share it and its limits.
    pub key: String,
    /// In whose name it is asked: sets with the same one share its quota.
    pub account: String,
    pub gate: Gate,
    /// Creations have their back-off in the planner and count as probes; removals and lists, which each runner would
    /// repeat by itself, wait while it is open.
    pub breaker: SharedBreaker,
}

impl Service {
    /// Takes a registration back, once the breaker has admitted the call.
    pub(super) async fn release(&self, registration: &Registration) -> Result<Released, ReleaseError> {
        let released = self.provisioner.release(registration).await;
        if let Err(ReleaseError::Failed(refusal)) = &released {
            self.heed(refusal);
        }
        let failed = matches!(released, Err(ReleaseError::Failed(_)));
        self.breaker.report(!failed);
        released
    }

    /// A service that says when to come back is left alone until then, whatever the next call is about. To be
    /// called while the refused call's permit is held still, or the next one slips through.
    pub(super) fn heed(&self, refusal: &Refusal) {
        if let Some(pause) = refusal.retry_after {
            self.gate.hold(pause.min(RETRY_AFTER_MAX));
        }
    }
}

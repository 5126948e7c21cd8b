//! A service that registers runners or keeps records of them, with all that stands in front of it.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    admission::{Outcome, SharedBreaker, gate::Gate},
    plan::limits::RETRY_AFTER_MAX,
    provision::{Class, Provisioner, Refusal, Registration, ReleaseError, Released},
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
        let began = self.breaker.now();
        let released = self.provisioner.release(registration).await;
        let refused = match &released {
            Err(ReleaseError::Failed(refusal)) => Some(refusal),
            _ => None,
        };
        self.answered(began, refused, |_| true);
        released
    }

    /// Tells gate and breaker what a call came to that began at `began`. A service that says when to come back is left
    /// alone until then, whatever the next call is about. `fails`: the refusals that say that it is ill. To be called
    /// while the call's permit is held still, or the next one slips through.
    pub(super) fn answered(&self, began: Instant, refused: Option<&Refusal>, fails: impl FnOnce(Class) -> bool) {
        if let Some(pause) = refused.and_then(|refusal| refusal.retry_after) {
            self.gate.hold(pause.min(RETRY_AFTER_MAX));
        }
        self.breaker.report(match refused.map(|refusal| refusal.class) {
            Some(Class::Stalled) => Outcome::Stalled(began),
            Some(class) if fails(class) => Outcome::Failed,
            _ => Outcome::Answered,
        });
    }
}

//! Which of several replicas leads: one Lease per deployment, and what follows from it.
//!
//! [`election`] decides, pure: what is known of the Lease, who may lead, which call comes next. The [`keeper`] makes
//! the calls. The [`fence`] is asked right before whatever two leaders must never do both. The Lease's annotation
//! names the open sessions ([`record`]), so that a successor closes them itself and need not wait until GitHub does,
//! and the sets that may have runners, so that those of a set that its file names no more are ended.
//! Commands that must not meet a daemon at work ask for the [`vacancy`].
//!
//! No clock but our own is trusted: a holder counts as gone when the Lease has not changed under our eyes for as long
//! as it lasts. Not `kube-runtime` or a crate for leader election: none keeps annotations in the same write, hands out a
//! fence, or runs under virtual time.

pub mod election;
pub mod fence;
pub mod keeper;
pub mod record;
pub mod vacancy;

pub use election::{Standing, Term};
pub use fence::Fence;
pub use keeper::{Lease, LeaseSetup, News};
pub use record::{Record, ServedSet, ServedSets, SessionRef, Sessions};

use std::time::Duration;

/// Without renewal the Lease ends after this: then another replica may lead.
pub const DURATION: Duration = Duration::from_secs(10);
/// Without renewal the leader begins nothing after this. What it began just before has the rest of the Lease to come
/// to its effect.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(7);
/// Between two renewals.
pub const RETRY: Duration = Duration::from_secs(2);

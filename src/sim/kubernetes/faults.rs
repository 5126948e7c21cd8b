//! Troubles on demand: what a test, or the simulation's fault injection, does to callers of the API.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The connection is refused: nothing happens.
    Refused,
    /// The request has its effect, but the answer never arrives.
    Lost,
    /// 401.
    Unauthorized,
    /// 503.
    Unavailable,
    /// 500.
    Internal,
    /// 429 with `Retry-After`, in seconds.
    Throttled { retry_after: u32 },
    /// The request waits, then goes on as usual.
    Slow(Duration),
    /// The request has its effect at once, and its answer arrives so much later.
    Late(Duration),
    /// No answer, ever.
    Hang,
    /// The answer begins, and then not a byte of it comes: what is left of a connection whose other end is gone.
    Silent,
    /// A watch lasts its time and brings nothing: what it reads from has fallen behind, or its version is of the future
    /// (etcd was restored).
    Stuck,
    /// 422: an admission rule refuses the object.
    Invalid,
    /// 409: somebody else wrote the object at the same moment.
    Conflict,
    /// 403: an admission refuses the object.
    Denied,
    /// 404: somebody says that it is not there.
    NotFound,
    /// 410: what was asked for is too old.
    Expired,
}

/// Which requests meet which trouble, and how often.
#[derive(Clone, Debug)]
pub struct Fault {
    verb: Option<String>,
    resource: Option<String>,
    user: Option<String>,
    left: Option<u32>,
    /// Only requests that change something.
    writes: bool,
    /// Only each so many-th of them, and how many have passed since the last.
    every: u32,
    passed: u32,
    met: Arc<AtomicBool>,
    trouble: Trouble,
}

/// Verbs that change something.
const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// Names a fault that is in force, so that it can be ended alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultId(u64);

impl Fault {
    /// Every request, until [`Faults::clear`].
    pub fn new(trouble: Trouble) -> Self {
        Self {
            verb: None,
            resource: None,
            user: None,
            left: None,
            writes: false,
            every: 1,
            passed: 0,
            met: Arc::default(),
            trouble,
        }
    }

    /// Only requests of this verb (`create`, `watch`, ...).
    #[must_use]
    pub fn verb(mut self, verb: &str) -> Self {
        self.verb = Some(verb.to_owned());
        self
    }

    /// Only requests for this resource (`pods`, `pods/status`, ...).
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource = Some(resource.to_owned());
        self
    }

    /// Only requests of this user.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Only requests that change something.
    #[must_use]
    pub fn writes(mut self) -> Self {
        self.writes = true;
        self
    }

    /// Only each `n`th of those that it concerns.
    #[must_use]
    pub fn every(mut self, n: u32) -> Self {
        self.every = n.max(1);
        self
    }

    /// Becomes true when some request meets it.
    pub fn met(&self) -> Arc<AtomicBool> {
        self.met.clone()
    }

    /// Only the next `n` of them.
    #[must_use]
    pub fn times(mut self, n: u32) -> Self {
        self.left = Some(n);
        self
    }

    fn concerns(&self, verb: &str, resource: &str, user: &str) -> bool {
        self.left != Some(0)
            && self.user.as_deref().is_none_or(|u| u == user)
            && self.verb.as_deref().is_none_or(|v| v == verb)
            && self.resource.as_deref().is_none_or(|r| r == resource)
            && (!self.writes || WRITES.contains(&verb))
    }

    /// Whether one that it concerns is one that it meets.
    fn is_due(&mut self) -> bool {
        self.passed += 1;
        let is_due = self.passed >= self.every;
        if is_due {
            self.passed = 0;
        }
        is_due
    }
}

/// The troubles in force. The first that concerns a request is the one it meets.
#[derive(Debug, Default)]
pub(super) struct Faults {
    active: Vec<(FaultId, Fault)>,
    next: u64,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) -> FaultId {
        self.next += 1;
        let id = FaultId(self.next);
        self.active.push((id, fault));
        id
    }

    /// False: it is over already.
    pub(super) fn end(&mut self, id: FaultId) -> bool {
        let before = self.active.len();
        self.active.retain(|(other, _)| *other != id);
        self.active.len() < before
    }

    pub(super) fn clear(&mut self) {
        self.active.clear();
    }

    /// What the request meets, if anything; spends one use.
    pub(super) fn meet(&mut self, verb: &str, resource: &str, user: &str) -> Option<Trouble> {
        let active = self.active.iter_mut().map(|(_, fault)| fault);
        let mut concerned = active.filter(|f| f.concerns(verb, resource, user));
        let fault = concerned.find_map(|f| f.is_due().then_some(f))?;
        if let Some(left) = &mut fault.left {
            *left -= 1;
        }
        fault.met.store(true, Ordering::SeqCst);
        let trouble = fault.trouble.clone();
        self.active.retain(|(_, f)| f.left != Some(0));
        Some(trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_meets_only_what_it_concerns_and_only_so_often() {
        let mut faults = Faults::default();
        faults.add(
            Fault::new(Trouble::Unavailable)
                .verb("create")
                .resource("pods")
                .times(1),
        );
        let somebody = faults.add(Fault::new(Trouble::Hang).user("b"));
        assert_eq!(faults.meet("get", "pods", "a"), None);
        assert_eq!(faults.meet("create", "pods", "a"), Some(Trouble::Unavailable));
        assert_eq!(faults.meet("create", "pods", "a"), None);
        assert_eq!(faults.meet("create", "pods", "b"), Some(Trouble::Hang));
        assert!(faults.end(somebody) && !faults.end(somebody));
        assert_eq!(faults.meet("create", "pods", "b"), None);
    }

    #[test]
    fn of_writes_each_so_many_th_meets_it() {
        let late = Trouble::Late(Duration::from_secs(3));
        let mut faults = Faults::default();
        faults.add(Fault::new(late.clone()).writes().every(2));
        let met = ["update", "get", "update", "patch", "create"].map(|verb| faults.meet(verb, "leases", "a"));
        assert_eq!(met, [None, None, Some(late.clone()), None, Some(late)]);
    }
}

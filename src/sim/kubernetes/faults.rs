//! Troubles on demand: what a test, or the simulation's fault injection, does to callers of the API.

use std::time::Duration;

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The connection is refused: nothing happens.
    Refused,
    /// The request has its effect, but the answer never arrives.
    Lost,
    /// 503.
    Unavailable,
    /// 500.
    Internal,
    /// 429 with `Retry-After`, in seconds.
    Throttled { retry_after: u32 },
    /// The request waits, then goes on as usual.
    Slow(Duration),
    /// No answer, ever.
    Hang,
}

/// Which requests meet which trouble, and how often.
#[derive(Clone, Debug)]
pub struct Fault {
    verb: Option<String>,
    resource: Option<String>,
    left: Option<u32>,
    trouble: Trouble,
}

impl Fault {
    /// Every request, until [`Faults::clear`].
    pub fn new(trouble: Trouble) -> Self {
        Self {
            verb: None,
            resource: None,
            left: None,
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

    /// Only the next `n` of them.
    #[must_use]
    pub fn times(mut self, n: u32) -> Self {
        self.left = Some(n);
        self
    }

    fn concerns(&self, verb: &str, resource: &str) -> bool {
        self.left != Some(0)
            && self.verb.as_deref().is_none_or(|v| v == verb)
            && self.resource.as_deref().is_none_or(|r| r == resource)
    }
}

/// The troubles in force. The first that concerns a request is the one it meets.
#[derive(Debug, Default)]
pub(super) struct Faults {
    active: Vec<Fault>,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.active.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.active.clear();
    }

    /// What the request meets, if anything; spends one use.
    pub(super) fn meet(&mut self, verb: &str, resource: &str) -> Option<Trouble> {
        let fault = self.active.iter_mut().find(|f| f.concerns(verb, resource))?;
        if let Some(left) = &mut fault.left {
            *left -= 1;
        }
        let trouble = fault.trouble.clone();
        self.active.retain(|f| f.left != Some(0));
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
        assert_eq!(faults.meet("get", "pods"), None);
        assert_eq!(faults.meet("create", "pods"), Some(Trouble::Unavailable));
        assert_eq!(faults.meet("create", "pods"), None);
    }
}

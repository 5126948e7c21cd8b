//! Somebody who sees every request for a resource: who asks, what for, and what came of it.

use std::{fmt, sync::Arc};

/// A request, before it has its effect or after.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub user: &'a str,
    pub verb: &'a str,
    /// With its subresource: `pods`, `pods/status`, `leases.coordination.k8s.io`.
    pub resource: &'a str,
    pub namespace: &'a str,
    /// Empty for a collection; the name of a new object stands in the body.
    pub name: &'a str,
    pub body: &'a [u8],
    /// Nothing is stored.
    pub dry_run: bool,
    /// `None`: it has had no effect yet.
    pub status: Option<u16>,
}

/// Sees requests. The cluster may be asked meanwhile.
#[derive(Clone)]
pub struct Onlooker(Arc<dyn Fn(&Request<'_>) + Send + Sync>);

impl Onlooker {
    pub fn new(sees: impl Fn(&Request<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sees))
    }

    pub(super) fn sees(&self, request: &Request<'_>) {
        (self.0)(request);
    }
}

impl fmt::Debug for Onlooker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Onlooker")
    }
}

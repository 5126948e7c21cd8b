//! A transport that can be exchanged under way: a CA bundle was rotated, a proxy moved.
//!
//! Calls under way end on the connections that they began on; the next ones begin on new ones.

use std::sync::{PoisonError, RwLock};

use futures::future::BoxFuture;

use super::{Request, Response, SharedTransport, Transport, TransportError};

/// One name for what may be another transport tomorrow.
#[derive(Debug)]
pub struct Exchangeable(RwLock<SharedTransport>);

impl Exchangeable {
    pub fn new(transport: SharedTransport) -> Self {
        Self(RwLock::new(transport))
    }

    /// From now on calls take this one.
    pub fn exchange(&self, transport: SharedTransport) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = transport;
    }
}

impl Transport for Exchangeable {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(async move {
            let now = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
            now.send(request).await
        })
    }
}

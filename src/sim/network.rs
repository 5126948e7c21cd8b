//! The simulated network: requests reach routers by authority, in process, under virtual time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::Router;
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use crate::http::{Request, Response, Transport, TransportError, peer};

/// Routers by authority (`gharts.example.com`, `127.0.0.1:8080`). Clones share the routes.
#[derive(Clone, Debug, Default)]
pub struct Network {
    routes: Arc<Mutex<BTreeMap<String, Router>>>,
}

impl Network {
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `router` answer for `authority` from now on.
    pub fn attach(&self, authority: &str, router: Router) {
        self.lock().insert(authority.to_owned(), router);
    }

    /// Takes a peer away: connections to it fail from now on.
    pub fn detach(&self, authority: &str) {
        self.lock().remove(authority);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Router>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer whose connection breaks where the body should come: a transport error in process and on sockets.
pub fn broken_connection() -> axum::response::Response {
    let broken = futures::stream::once(async {
        Err::<bytes::Bytes, _>(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    });
    axum::response::Response::new(axum::body::Body::from_stream(broken))
}

impl Transport for Network {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(async move {
            let peer = peer(&request);
            let Some(router) = self.lock().get(&peer).cloned() else {
                return Err(TransportError::Connect {
                    peer,
                    reason: "nobody listens".to_owned(),
                });
            };
            let response = match router.oneshot(request.map(axum::body::Body::from)).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            let (parts, body) = response.into_parts();
            match body.collect().await {
                Ok(body) => Ok(Response::from_parts(parts, body.to_bytes())),
                Err(error) => Err(TransportError::Lost {
                    peer,
                    reason: error.to_string(),
                }),
            }
        })
    }
}

//! The real network behind [`Transport`].
//!
//! HTTP/1.1 on purpose. The pool keeps one HTTP/2 connection per host and queues what exceeds the server's
//! limit of streams (100 as a rule): the long polls of a few hundred scale sets would hold back every other
//! call, and one dead connection would hang them all. With one connection per call under way, TCP
//! keep-alive finds the dead ones: half-open connections are known to stay silent for 18 minutes without.
//!
//! Not here: total deadlines (the caller's, through [`super::send`]), repetition, redirects (never followed).

use std::{error::Error as _, fmt, time::Duration};

use bytes::BytesMut;
use futures::future::BoxFuture;
use reqwest::{Certificate, NoProxy, redirect::Policy};
use secrecy::ExposeSecret as _;
use url::Url;

use super::{Request, Response, SharedTransport, Transport, TransportError, peer, redact};
use crate::config::{Proxy, Tls, check_url};

/// Idle connections to peers that close theirs after 5 s (uvicorn): a POST that meets the closing has an
/// unknown outcome, so ours are dropped first.
pub const IDLE_BRIEF: Duration = Duration::from_secs(4);
/// Idle connections to GitHub, kept through bursts of hundreds of calls a second, and dropped well before
/// any load balancer's own limit (60 s and more).
pub const IDLE_LONG: Duration = Duration::from_secs(20);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 3;
/// No answer of any peer comes near; a broken one must not fill the memory.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// Why no transport could be made.
#[derive(Debug, thiserror::Error)]
pub enum TransportBuildError {
    #[error("CA bundle {path}: {reason}; caFile must name a readable file of PEM certificates")]
    CaFile { path: String, reason: String },
    #[error("proxy.{key}: {reason}; expected http://[user:password@]host:port")]
    Proxy { key: &'static str, reason: String },
    #[error("TLS: {reason}; are the system's CA certificates (package ca-certificates) installed?")]
    Tls { reason: String },
}

/// A transport over real sockets. `idle` is how long unused connections are kept: [`IDLE_BRIEF`] or
/// [`IDLE_LONG`]. Reads the CA bundle once; make a new transport when it changes.
pub fn reqwest_transport(tls: &Tls, proxy: &Proxy, idle: Duration) -> Result<SharedTransport, TransportBuildError> {
    #[expect(clippy::disallowed_methods, reason = "the one place that makes HTTP clients")]
    let mut builder = reqwest::Client::builder()
        .http1_only()
        .redirect(Policy::none())
        .referer(false)
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(idle)
        .tcp_keepalive(KEEPALIVE)
        .tcp_keepalive_interval(KEEPALIVE)
        .tcp_keepalive_retries(KEEPALIVE_RETRIES)
        .tls_certs_merge(ca_bundle(tls)?);
    for (key, url) in [("http", &proxy.http), ("https", &proxy.https)] {
        if let Some(url) = url {
            let url = with_credentials(key, url, proxy)?;
            builder = builder.proxy(proxy_for(key, &url, &proxy.no_proxy)?);
        }
    }
    let client = builder
        .build()
        .map_err(|e| TransportBuildError::Tls { reason: chain(&e) })?;
    Ok(std::sync::Arc::new(ReqwestTransport { client }))
}

fn ca_bundle(tls: &Tls) -> Result<Vec<Certificate>, TransportBuildError> {
    let Some(path) = &tls.ca_file else {
        return Ok(Vec::new());
    };
    let fail = |reason: String| TransportBuildError::CaFile {
        path: path.display().to_string(),
        reason,
    };
    let pem = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if certificates.is_empty() => Err(fail("no certificate in it".to_owned())),
        Ok(certificates) => Ok(certificates),
        Err(e) => Err(fail(chain(&e))),
    }
}

fn with_credentials(key: &'static str, url: &Url, proxy: &Proxy) -> Result<Url, TransportBuildError> {
    let mut url = url.clone();
    let Some(credentials) = &proxy.credentials else {
        return Ok(url);
    };
    let fail = |reason: String| TransportBuildError::Proxy { key, reason };
    let read = credentials.read().map_err(|error| fail(error.to_string()))?;
    let (user, password) = read
        .expose_secret()
        .split_once(':')
        .ok_or_else(|| fail("its credentials are no user:password".to_owned()))?;
    url.set_username(user)
        .and_then(|()| url.set_password(Some(password)))
        .map_err(|()| fail("its URL takes no credentials".to_owned()))?;
    Ok(url)
}

/// Credentials in the URL's user part are sent as `Proxy-Authorization`.
fn proxy_for(key: &'static str, url: &Url, no_proxy: &[String]) -> Result<reqwest::Proxy, TransportBuildError> {
    let made = match key {
        "http" => reqwest::Proxy::http(url.clone()),
        _ => reqwest::Proxy::https(url.clone()),
    };
    made.map(|p| p.no_proxy(NoProxy::from_string(&no_proxy.join(","))))
        .map_err(|e| TransportBuildError::Proxy { key, reason: chain(&e) })
}

struct ReqwestTransport {
    client: reqwest::Client,
}

impl fmt::Debug for ReqwestTransport {
    /// The client's own form would print proxies, whose URLs hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReqwestTransport").finish_non_exhaustive()
    }
}

impl Transport for ReqwestTransport {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(async move {
            let peer = peer(&request);
            let request = outgoing(request, &peer)?;
            let mut answer = self.client.execute(request).await.map_err(|e| incoming(e, &peer))?;
            let mut body = BytesMut::new();
            while let Some(chunk) = answer.chunk().await.map_err(|e| incoming(e, &peer))? {
                if body.len() + chunk.len() > LARGEST_ANSWER {
                    let reason = format!("its answer is longer than {} MiB", LARGEST_ANSWER / 1024 / 1024);
                    return Err(TransportError::Lost { peer, reason });
                }
                body.extend_from_slice(&chunk);
            }
            let mut response = Response::new(body.freeze());
            *response.status_mut() = answer.status();
            std::mem::swap(response.headers_mut(), answer.headers_mut());
            Ok(response)
        })
    }
}

/// URLs come from peers too (the Actions service's, the queue's), so each is checked here, once for all.
fn outgoing(request: Request, peer: &str) -> Result<reqwest::Request, TransportError> {
    let never_sent = |reason: String| TransportError::Connect {
        peer: peer.to_owned(),
        reason,
    };
    let request = reqwest::Request::try_from(request).map_err(|e| never_sent(chain(&e.without_url())))?;
    check_url(request.url()).map_err(|e| never_sent(e.to_string()))?;
    Ok(request)
}

fn incoming(error: reqwest::Error, peer: &str) -> TransportError {
    let never_sent = error.is_connect() || error.is_builder();
    let (peer, reason) = (peer.to_owned(), chain(&error.without_url()));
    if never_sent {
        TransportError::Connect { peer, reason }
    } else {
        TransportError::Lost { peer, reason }
    }
}

/// An error with its causes, which hold what matters (`certificate expired`, `connection refused`).
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    redact(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn b23_the_transport_itself_refuses_plain_http_to_strangers() {
        let transport = reqwest_transport(&Tls::default(), &Proxy::default(), IDLE_BRIEF).unwrap();
        let request = http::Request::get("http://gharts.example.com/x")
            .body(bytes::Bytes::new())
            .unwrap();
        let error = transport.send(request).await.unwrap_err();
        assert!(!error.outcome_unknown());
        assert!(error.to_string().contains("https is required"), "{error}");
    }

    #[test]
    fn a_bad_ca_bundle_is_named_with_its_remedy() {
        let tls = Tls {
            ca_file: Some("/nonexistent/ca.pem".into()),
        };
        let error = reqwest_transport(&tls, &Proxy::default(), IDLE_BRIEF)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/nonexistent/ca.pem") && error.contains("caFile"),
            "{error}"
        );
    }

    #[test]
    fn b52_proxy_credentials_do_not_show() {
        let proxy = Proxy {
            https: Some(Url::parse("http://joe:hunter2@proxy.example:3128").unwrap()),
            ..Proxy::default()
        };
        let transport = reqwest_transport(&Tls::default(), &proxy, IDLE_LONG).unwrap();
        assert!(!format!("{transport:?}").contains("hunter2"));
    }
}

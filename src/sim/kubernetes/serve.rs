//! Ways to reach the simulated API: clients in the same process, and TLS on a socket.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc};

use axum::{Router, body::Body, response::Response};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::stream;
use http::{HeaderValue, Request, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::{
    model::Model,
    router::{Broken, router},
};
use crate::shutdown::Tasks;

/// A client in this process, without sockets: virtual time applies to it. `token` says who it is; nobody
/// where it is empty.
pub fn client(model: &Model, token: &str, namespace: &str) -> kube::Client {
    let router = router(model.clone());
    let authorization = (!token.is_empty())
        .then(|| HeaderValue::from_str(&format!("Bearer {token}")).ok())
        .flatten();
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let (router, authorization) = (router.clone(), authorization.clone());
        async move {
            let mut request = request.map(Body::new);
            if let Some(authorization) = authorization {
                request.headers_mut().insert(header::AUTHORIZATION, authorization);
            }
            call(router, request).await
        }
    });
    kube::Client::new(service, namespace)
}

/// Carries one request to the router; answers that must not arrive become errors of the connection.
async fn call(router: Router, request: Request<Body>) -> io::Result<Response> {
    let response = match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    match response.extensions().get::<Broken>() {
        None => Ok(response),
        Some(Broken::Refused) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused")),
        Some(Broken::Lost) => Err(io::Error::new(
            io::ErrorKind::ConnectionReset,
            "connection reset by peer",
        )),
    }
}

/// No certificate could be made, or TLS refused it.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// A certificate authority of the simulation's own, and a server certificate by it.
pub struct Authority {
    ca_pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// For `127.0.0.1`, `::1`, `localhost` and the names that an API server has inside its cluster.
    pub fn generate() -> Result<Self, ServeError> {
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.distinguished_name = named("gharts-listener simulated cluster CA");
        let issuer = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
        let names = [
            "localhost",
            "127.0.0.1",
            "::1",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ];
        let mut server = CertificateParams::new(names.map(str::to_owned).to_vec())?;
        server.distinguished_name = named("kube-apiserver");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = server.signed_by(&key, &issuer)?;
        Ok(Self {
            ca_pem: issuer.pem(),
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        })
    }

    /// What clients must trust.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Serves TLS with that certificate.
    pub fn acceptor(&self) -> Result<TlsAcceptor, ServeError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// Serves the API over TLS (HTTP/1.1) until `tasks` end.
pub fn serve_tls(model: &Model, authority: &Authority, listener: TcpListener, tasks: &Tasks) -> Result<(), ServeError> {
    let acceptor = authority.acceptor()?;
    let router = router(model.clone());
    let connections = tasks.clone();
    tasks.spawn("kubernetes-listener", async move {
        loop {
            let accepted = tokio::select! {
                biased;
                () = connections.token().cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = connection(stream, acceptor.clone(), router.clone());
                    let token = connections.token().clone();
                    connections.spawn("kubernetes-connection", async move {
                        token.run_until_cancelled_owned(connection).await;
                    });
                }
                Err(error) => {
                    // Out of file descriptors, mostly: it passes.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    Ok(())
}

const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    // Small answers must not wait for the last one's acknowledgement. Without it they are only slower.
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move {
            let response = call(router, request.map(Body::new)).await;
            // What must not arrive breaks off where its body should begin.
            Ok::<_, Infallible>(response.unwrap_or_else(|error| {
                let broken = stream::once(async move { Err::<bytes::Bytes, _>(error) });
                Response::new(Body::from_stream(broken))
            }))
        }
    });
    let served = auto::Builder::new(TokioExecutor::new())
        .http1_only()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

/// A kubeconfig for a served API.
pub fn kubeconfig(authority: &Authority, address: SocketAddr, token: &str, namespace: &str) -> String {
    let ca = STANDARD.encode(authority.ca_pem());
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: simulated
  cluster:
    server: https://{address}
    certificate-authority-data: {ca}
users:
- name: simulated
  user:
    token: {token}
contexts:
- name: simulated
  context:
    cluster: simulated
    user: simulated
    namespace: {namespace}
current-context: simulated
"
    )
}

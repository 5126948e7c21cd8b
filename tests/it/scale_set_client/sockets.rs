//! The real transport, over real sockets on the loopback address.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use gharts_listener::{
    clock::Clock,
    config::{AuthStyle, Proxy, SecretRef, Tls},
    gharts::{Client, Trouble},
    http::{IDLE_BRIEF, SharedTransport, TransportError, reqwest_transport},
    identity::{
        Cached, Token, TokenError, TokenSource,
        oauth2::{ClientCredentials, Issuer, ReadSecret},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer},
};

fn transport(tls: &Tls) -> SharedTransport {
    reqwest_transport(tls, &Proxy::default(), IDLE_BRIEF).unwrap()
}

async fn get(transport: &SharedTransport, url: &str) -> Result<http::Response<bytes::Bytes>, TransportError> {
    let request = http::Request::get(url)
        .header("authorization", "Bearer s")
        .body(bytes::Bytes::new())
        .unwrap();
    gharts_listener::http::send(&**transport, request, Duration::from_secs(20)).await
}

/// Answers every connection with the same bytes and closes it; the handle gives the first request's text.
async fn serving(answer: impl Into<String>) -> (u16, JoinHandle<String>) {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tasks = gharts_listener::shutdown::Tasks::new();
    let handle = tasks.spawn("test server", async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut buffer = vec![0; 4096];
        let n = socket.read(&mut buffer).await.unwrap();
        socket.write_all(answer.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    });
    (port, handle)
}

#[tokio::test]
async fn b20_never_reached_and_lost_are_told_apart() {
    let transport = transport(&Tls::default());
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = get(&transport, &format!("http://127.0.0.1:{closed}/?secret=1"))
        .await
        .unwrap_err();
    assert!(
        !error.outcome_unknown() && !error.to_string().contains("secret"),
        "{error}"
    );

    for cut in ["", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this"] {
        let (port, _server) = serving(cut).await;
        let error = get(&transport, &format!("http://127.0.0.1:{port}/?secret=1"))
            .await
            .unwrap_err();
        assert!(
            error.outcome_unknown() && !error.to_string().contains("secret"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn b23_redirects_are_not_followed() {
    let answer = "HTTP/1.1 307 x\r\nlocation: http://127.0.0.1:1/elsewhere\r\ncontent-length: 2\r\n\r\nhi";
    let (port, server) = serving(answer).await;
    let response = get(&transport(&Tls::default()), &format!("http://127.0.0.1:{port}/a?b=c"))
        .await
        .unwrap();
    assert_eq!(
        (response.status().as_u16(), response.body().as_ref()),
        (307, b"hi".as_slice())
    );
    assert!(server.await.unwrap().starts_with("GET /a?b=c HTTP/1.1\r\n"));
}

/// Where a redirect points, a secret would arrive: whoever followed one would get a token here.
#[tokio::test]
async fn b23_no_credential_follows_a_redirect_whatever_its_status() {
    const TOKEN: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 32\r\n\r\n{\"access_token\":\"caught\",\"x\":12}";
    let clock = Clock::system();
    for status in [301, 302, 303, 307, 308] {
        for style in [AuthStyle::Body, AuthStyle::Basic, AuthStyle::Json] {
            let (elsewhere, catcher) = serving(TOKEN.to_owned()).await;
            let redirect = format!(
                "HTTP/1.1 {status} x\r\nlocation: http://127.0.0.1:{elsewhere}/token\r\ncontent-length: 0\r\n\r\n"
            );
            let (port, server) = serving(redirect).await;
            let issuer = Issuer {
                token_url: format!("http://127.0.0.1:{port}/token").parse().unwrap(),
                client_id: "id".to_owned(),
                audience: None,
                scope: None,
                style,
            };
            let secret: ReadSecret = Arc::new(|| Ok("client-secret".into()));
            let source = ClientCredentials::new(transport(&Tls::default()), clock.clone(), issuer, secret);
            let error = source.fetch().await.unwrap_err();
            assert!(
                matches!(&error, TokenError::Refused { message } if message.contains("redirect")),
                "{status}: {error}"
            );
            assert!(server.await.unwrap().starts_with("POST /token HTTP/1.1\r\n"));
            assert!(!catcher.is_finished(), "{status}: somebody came");
            catcher.abort();
        }
        let (elsewhere, catcher) = serving("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned()).await;
        let redirect =
            format!("HTTP/1.1 {status} x\r\nlocation: http://127.0.0.1:{elsewhere}/\r\ncontent-length: 0\r\n\r\n");
        let (port, _server) = serving(redirect).await;
        let base = format!("http://127.0.0.1:{port}").parse().unwrap();
        let token = Arc::new(Cached::new(Arc::new(Given), clock.clone()));
        let client = Client::new(
            transport(&Tls::default()),
            clock.clone(),
            &base,
            token,
            Duration::from_secs(20),
        );
        let failure = client.delete("id").await.unwrap_err();
        assert_eq!(failure.trouble, Trouble::Configuration, "{status}: {failure}");
        assert!(!catcher.is_finished(), "{status}: somebody came");
        catcher.abort();
    }
}

/// A token that the test gives.
#[derive(Debug)]
struct Given;

impl TokenSource for Given {
    fn fetch(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
        Box::pin(async {
            Ok(Token {
                secret: "token".into(),
                life: None,
            })
        })
    }

    fn describe(&self) -> String {
        "a given token".to_owned()
    }
}

#[tokio::test]
async fn b52_a_proxy_gets_its_credentials_and_no_proxy_goes_around_it() {
    let (port, server) = serving("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let mut proxy = Proxy {
        http: Some(format!("http://joe:p%40ss@127.0.0.1:{port}").parse().unwrap()),
        ..Proxy::default()
    };
    let through = reqwest_transport(&Tls::default(), &proxy, IDLE_BRIEF).unwrap();
    get(&through, "http://a.localhost/x").await.unwrap();
    let seen = server.await.unwrap();
    assert!(seen.starts_with("GET http://a.localhost/x HTTP/1.1\r\n"), "{seen}");
    assert!(
        seen.to_lowercase().contains("proxy-authorization: basic am9lonbac3m="),
        "{seen}"
    );

    proxy.no_proxy = vec!["127.0.0.1".into()];
    let (direct, server) = serving("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let around = reqwest_transport(&Tls::default(), &proxy, IDLE_BRIEF).unwrap();
    get(&around, &format!("http://127.0.0.1:{direct}/y")).await.unwrap();
    assert!(server.await.unwrap().starts_with("GET /y HTTP/1.1\r\n"));
}

#[tokio::test]
async fn b52_a_proxys_credentials_come_from_their_file_and_stand_in_no_error() {
    let path = std::env::temp_dir().join(format!("gharts-listener-proxy-{}", std::process::id()));
    std::fs::write(&path, "joe:p@ss\n").unwrap();
    let (port, server) = serving("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let proxy = Proxy {
        http: Some(format!("http://127.0.0.1:{port}").parse().unwrap()),
        credentials: Some(SecretRef::File(path.clone())),
        ..Proxy::default()
    };
    let through = reqwest_transport(&Tls::default(), &proxy, IDLE_BRIEF).unwrap();
    get(&through, "http://a.localhost/x").await.unwrap();
    let seen = server.await.unwrap().to_lowercase();
    assert!(seen.contains("proxy-authorization: basic am9lonbac3m="), "{seen}");

    std::fs::write(&path, "p@ss-alone").unwrap();
    let error = reqwest_transport(&Tls::default(), &proxy, IDLE_BRIEF)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("user:password") && !error.contains("p@ss-alone"),
        "{error}"
    );
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn b23_the_certificate_is_verified_against_our_bundle() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let path = std::env::temp_dir().join(format!("gharts-listener-ca-{}.pem", std::process::id()));
    std::fs::write(&path, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let tasks = gharts_listener::shutdown::Tasks::new();
    let _server = tasks.spawn("test server", async move {
        while let Ok((socket, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(socket).await {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(b"HTTP/1.1 204 x\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        }
    });

    let error = get(&transport(&Tls::default()), &url).await.unwrap_err();
    assert!(
        !error.outcome_unknown() && error.to_string().contains("certificate"),
        "{error}"
    );
    let trusting = transport(&Tls {
        ca_file: Some(path.clone()),
    });
    assert_eq!(get(&trusting, &url).await.unwrap().status(), 204);
    std::fs::remove_file(&path).unwrap();
}

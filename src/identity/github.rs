//! GitHub's REST credential: an App's installation token, or a personal access token.
//!
//! Private key and token are read anew at each fetch, so that they can be rotated without a restart.
//! GitHub takes client id and app id alike as issuer of an App's JWT.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{Token, TokenError, TokenSource, claims};
use crate::{
    clock::Clock,
    config::{GitHub, GitHubAuth, SecretRef},
    http::{self as transport, Request, Response, SharedTransport, redact, request_ids},
};

/// GitHub refuses a JWT from its future; clocks differ.
const ISSUED_BEFORE_NOW: i64 = 60;
/// The longest life that GitHub grants an App's JWT, in seconds after `iat`.
const JWT_LIFE: i64 = 600;
/// Clocks that differ by less are not why a JWT is refused.
const CLOCKS_AGREE: SignedDuration = SignedDuration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(20);
/// After a limit that tells no time.
const UNTOLD_LIMIT: Duration = Duration::from_mins(1);

/// The source of the REST token that the configuration names; `None` where it names none: GHARTS is the way in.
pub fn github_token_source(github: &GitHub, transport: SharedTransport, clock: Clock) -> Option<Arc<dyn TokenSource>> {
    let source: Arc<dyn TokenSource> = match &github.auth {
        GitHubAuth::App {
            client_id,
            installation_id,
            private_key,
        } => Arc::new(GitHubApp {
            transport,
            clock,
            rest_base: github.config_url.rest_base.clone(),
            client_id: client_id.clone(),
            installation_id: *installation_id,
            private_key: private_key.clone(),
        }),
        GitHubAuth::Pat { token } => Arc::new(Pat { token: token.clone() }),
        GitHubAuth::Gharts => return None,
    };
    Some(source)
}

/// A GitHub App, acting for one installation.
#[derive(Clone, Debug)]
pub struct GitHubApp {
    pub transport: SharedTransport,
    pub clock: Clock,
    pub rest_base: Url,
    pub client_id: String,
    pub installation_id: u64,
    pub private_key: SecretRef,
}

#[derive(Serialize)]
struct Claims<'a> {
    iat: i64,
    exp: i64,
    iss: &'a str,
}

#[derive(Deserialize)]
struct InstallationToken {
    token: String,
    expires_at: Option<Timestamp>,
}

impl GitHubApp {
    /// `ahead`: by how much GitHub's clock is before ours.
    fn jwt(&self, ahead: SignedDuration) -> Result<SecretString, TokenError> {
        let refused = |reason: String| TokenError::Refused {
            message: format!("{}: {reason}", self.describe()),
        };
        let pem = self.private_key.read().map_err(|e| refused(e.to_string()))?;
        let key = EncodingKey::from_rsa_pem(pem.expose_secret().as_bytes()).map_err(|_| {
            refused(format!(
                "{} holds no RSA private key; give the PEM file that GitHub made for the App",
                self.private_key
            ))
        })?;
        let iat = (self.clock.now() + ahead).as_second() - ISSUED_BEFORE_NOW;
        let claims = Claims {
            iat,
            exp: iat + JWT_LIFE,
            iss: &self.client_id,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &key)
            .map(SecretString::from)
            .map_err(|e| refused(format!("the JWT could not be signed: {e}")))
    }

    async fn exchange(&self) -> Result<Token, TokenError> {
        let mut response = self.ask(SignedDuration::ZERO).await?;
        let apart = self.clocks_apart(&response);
        if response.status() == StatusCode::UNAUTHORIZED && apart.abs() > CLOCKS_AGREE {
            // A JWT from the future, or dead already: signed by GitHub's own clock it is neither.
            tracing::warn!(
                seconds = apart.as_secs(),
                "this machine's clock differs from GitHub's; synchronise it (NTP)"
            );
            response = self.ask(apart).await?;
        }
        if response.status() != StatusCode::CREATED {
            return Err(self.refusal(&response));
        }
        let answer: InstallationToken =
            serde_json::from_slice(transport::trimmed(response.body())).map_err(|e| TokenError::Unavailable {
                // The text of a serde error may quote a value, so only its place is told.
                message: format!(
                    "{}: GitHub's answer is no installation token (line {}, column {})",
                    self.describe(),
                    e.line(),
                    e.column()
                ),
            })?;
        Ok(Token {
            secret: answer.token.into(),
            life: answer.expires_at.map(|at| claims::left(self.clock.now() + apart, at)),
        })
    }

    async fn ask(&self, ahead: SignedDuration) -> Result<Response, TokenError> {
        let request = self.request(&self.jwt(ahead)?)?;
        transport::send(&*self.transport, request, DEADLINE)
            .await
            .map_err(|e| TokenError::Unavailable {
                message: format!("{}: {e}", self.describe()),
            })
    }

    /// By how much GitHub's clock is before ours, as far as the answer tells.
    fn clocks_apart(&self, response: &Response) -> SignedDuration {
        transport::date(response.headers())
            .map_or(SignedDuration::ZERO, |theirs| theirs.duration_since(self.clock.now()))
    }

    fn request(&self, jwt: &SecretString) -> Result<Request, TokenError> {
        let url = format!(
            "{}/app/installations/{}/access_tokens",
            self.rest_base.as_str().trim_end_matches('/'),
            self.installation_id
        );
        http::Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(header::AUTHORIZATION, format!("Bearer {}", jwt.expose_secret()))
            .header(header::ACCEPT, "application/vnd.github+json")
            .header(
                header::USER_AGENT,
                concat!("gharts-listener/", env!("CARGO_PKG_VERSION")),
            )
            .body(Bytes::new())
            .map_err(|e| TokenError::Refused {
                message: format!("{}: {e}", self.describe()),
            })
    }

    fn refusal(&self, response: &Response) -> TokenError {
        let status = response.status();
        let remedy = match status {
            StatusCode::UNAUTHORIZED => "; check clientId, the private key, and this machine's clock",
            StatusCode::FORBIDDEN => "; is the installation suspended, or the address not allowed?",
            StatusCode::NOT_FOUND => "; check installationId: the App has no such installation",
            _ => "",
        };
        let ids = request_ids(response.headers());
        let message = format!(
            "{}: {status} {}{remedy}{}",
            self.describe(),
            redact(&String::from_utf8_lossy(response.body())),
            if ids.is_empty() { ids } else { format!(" ({ids})") },
        );
        match transport::rate_limit(response, self.clock.now()) {
            Some(limit) => TokenError::Limited {
                message,
                wait: limit.wait.unwrap_or(UNTOLD_LIMIT),
            },
            None if status.is_client_error() => TokenError::Refused { message },
            None => TokenError::Unavailable { message },
        }
    }
}

impl TokenSource for GitHubApp {
    fn fetch(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
        Box::pin(self.exchange())
    }

    fn describe(&self) -> String {
        format!("GitHub App {} (installation {})", self.client_id, self.installation_id)
    }
}

/// A personal access token, as it stands in its file or variable.
#[derive(Clone, Debug)]
pub struct Pat {
    pub token: SecretRef,
}

impl TokenSource for Pat {
    fn fetch(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
        Box::pin(async move {
            match self.token.read() {
                Ok(secret) => Ok(Token { secret, life: None }),
                Err(e) => Err(TokenError::Refused {
                    message: format!("{}: {e}", self.describe()),
                }),
            }
        })
    }

    fn describe(&self) -> String {
        format!("GitHub token from {}", self.token)
    }
}

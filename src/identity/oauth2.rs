//! OAuth2 client credentials (RFC 6749, section 4.4): id and secret for a short-lived token.
//!
//! Issuers differ in where they want the two: in the form, in an HTTP Basic header, or in a JSON body. The
//! secret is read anew for every token, so that it can be rotated without a restart.

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use url::{Url, form_urlencoded};

use super::{Token, TokenError, TokenSource, claims};
use crate::{
    clock::Clock,
    config::AuthStyle,
    http::{Request, Response, SharedTransport, send},
};

/// Shorter than the deadline of the cache in front, so that the message is ours.
const DEADLINE: Duration = Duration::from_secs(20);
/// Longest piece of the issuer's text that goes into a message.
const WORDS_MAX: usize = 200;

/// Reads the client secret, wherever it is.
pub type ReadSecret = Arc<dyn Fn() -> Result<SecretString, TokenError> + Send + Sync>;

/// What the file says about the issuer, the secret aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    pub token_url: Url,
    pub client_id: String,
    pub audience: Option<String>,
    pub scope: Option<String>,
    pub style: AuthStyle,
}

/// Trades client credentials for tokens.
pub struct ClientCredentials {
    transport: SharedTransport,
    clock: Clock,
    issuer: Issuer,
    secret: ReadSecret,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    /// Seconds; some issuers write a text.
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    error_description: Option<String>,
}

impl ClientCredentials {
    pub fn new(transport: SharedTransport, clock: Clock, issuer: Issuer, secret: ReadSecret) -> Self {
        Self {
            transport,
            clock,
            issuer,
            secret,
        }
    }

    async fn trade(&self) -> Result<Token, TokenError> {
        let secret = (self.secret)()?;
        let request = self.request(&secret)?;
        let response = send(self.transport.as_ref(), request, DEADLINE)
            .await
            .map_err(|error| self.unavailable(&error.to_string()))?;
        if !response.status().is_success() {
            return Err(self.refusal(&response, &secret));
        }
        let answer: Answer = serde_json::from_slice(response.body())
            .ok()
            .filter(|a: &Answer| !a.access_token.is_empty())
            .ok_or_else(|| self.refused("the answer holds no access_token: is tokenUrl the token endpoint?"))?;
        let told = answer.expires_in.as_ref().and_then(seconds);
        let until = |at| claims::left(self.clock.now(), at);
        Ok(Token {
            life: told
                .or_else(|| claims::life(&answer.access_token))
                .or_else(|| claims::expiry(&answer.access_token).map(until)),
            secret: answer.access_token.into(),
        })
    }

    fn request(&self, secret: &SecretString) -> Result<Request, TokenError> {
        let issuer = &self.issuer;
        let mut fields = vec![("grant_type", "client_credentials")];
        if issuer.style != AuthStyle::Basic {
            fields.push(("client_id", &issuer.client_id));
            fields.push(("client_secret", secret.expose_secret()));
        }
        fields.extend(issuer.audience.as_deref().map(|a| ("audience", a)));
        fields.extend(issuer.scope.as_deref().map(|s| ("scope", s)));
        let (content_type, body) = if issuer.style == AuthStyle::Json {
            let object: serde_json::Map<_, _> = fields.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect();
            ("application/json", serde_json::Value::Object(object).to_string())
        } else {
            let form = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(fields)
                .finish();
            ("application/x-www-form-urlencoded", form)
        };
        let mut builder = http::Request::post(issuer.token_url.as_str())
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, content_type);
        if issuer.style == AuthStyle::Basic {
            let pair = format!("{}:{}", escape(&issuer.client_id), escape(secret.expose_secret()));
            let mut value = header::HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair)))
                .map_err(|_| self.refused("the credentials fit into no header"))?;
            value.set_sensitive(true);
            builder = builder.header(header::AUTHORIZATION, value);
        }
        builder
            .body(Bytes::from(body))
            .map_err(|error| self.refused(&format!("tokenUrl makes no valid address: {error}")))
    }

    fn refusal(&self, response: &Response, secret: &SecretString) -> TokenError {
        let status = response.status();
        let said: Refusal = serde_json::from_slice(response.body()).unwrap_or_default();
        let words = [said.error, said.error_description]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(": ");
        let words = cut(&words, secret);
        let text = format!("{}{}{words}", status.as_u16(), if words.is_empty() { "" } else { ": " });
        match status.as_u16() {
            408 | 425 | 429 | 500..=599 => self.unavailable(&text),
            300..=399 => self.refused(&format!("{text} (a redirect: tokenUrl must be the final address)")),
            404 | 405 => self.refused(&format!("{text} (is tokenUrl the token endpoint?)")),
            _ => self.refused(&format!(
                "{text} (check clientId, the client secret, authStyle, audience and scope, and that the client may use client_credentials)"
            )),
        }
    }
}

impl TokenSource for ClientCredentials {
    fn fetch(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
        Box::pin(self.trade())
    }

    fn describe(&self) -> String {
        format!(
            "client credentials of {} at {}",
            self.issuer.client_id,
            self.issuer.token_url.host_str().unwrap_or("?")
        )
    }
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

/// RFC 6749, section 2.3.1: both are form-encoded before they become a Basic header.
fn escape(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn seconds(value: &serde_json::Value) -> Option<Duration> {
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
    Duration::try_from_secs_f64(number).ok().filter(|d| !d.is_zero())
}

/// One line of the issuer's words, without the secret, should an issuer repeat it.
fn cut(words: &str, secret: &SecretString) -> String {
    let clean = match secret.expose_secret() {
        "" => words.to_owned(),
        secret => words.replace(secret, "<redacted>"),
    };
    clean
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(WORDS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;
    use crate::{http::Transport, http::TransportError, identity::claims::jwt};

    /// Gives one answer and notes what it was asked.
    #[derive(Debug)]
    struct Scripted {
        status: u16,
        body: String,
        seen: Mutex<Vec<Request>>,
    }

    impl Transport for Scripted {
        fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
            self.seen.lock().unwrap().push(request);
            let response = http::Response::builder().status(self.status);
            Box::pin(async move { Ok(response.body(self.body.clone().into()).unwrap()) })
        }
    }

    fn source(status: u16, body: &str, style: AuthStyle) -> (Arc<Scripted>, ClientCredentials) {
        let transport = Arc::new(Scripted {
            status,
            body: body.to_owned(),
            seen: Mutex::default(),
        });
        let issuer = Issuer {
            token_url: "https://issuer.example.com/oauth/token".parse().unwrap(),
            client_id: "id".into(),
            audience: Some("https://gharts.example.com".into()),
            scope: Some("runners jit".into()),
            style,
        };
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let secret: ReadSecret = Arc::new(|| Ok("s3cr:t&x".into()));
        let source = ClientCredentials::new(transport.clone(), clock, issuer, secret);
        (transport, source)
    }

    const GOOD: &str = r#"{"access_token":"tok","expires_in":600,"token_type":"Bearer"}"#;

    #[tokio::test(start_paused = true)]
    async fn b16_credentials_go_where_the_style_says_and_nowhere_else() {
        for style in [AuthStyle::Body, AuthStyle::Basic, AuthStyle::Json] {
            let (transport, source) = source(200, GOOD, style);
            let token = source.fetch().await.unwrap();
            assert_eq!(token.secret.expose_secret(), "tok");
            assert_eq!(token.life, Some(Duration::from_mins(10)));
            let seen = transport.seen.lock().unwrap();
            let body = String::from_utf8(seen[0].body().to_vec()).unwrap();
            let basic = seen[0]
                .headers()
                .get(header::AUTHORIZATION)
                .map(|v| v.to_str().unwrap());
            let form = "grant_type=client_credentials";
            let rest = "audience=https%3A%2F%2Fgharts.example.com&scope=runners+jit";
            match style {
                AuthStyle::Body => {
                    assert_eq!(body, format!("{form}&client_id=id&client_secret=s3cr%3At%26x&{rest}"));
                    assert_eq!(basic, None);
                }
                AuthStyle::Basic => {
                    assert_eq!(body, format!("{form}&{rest}"));
                    assert_eq!(basic, Some(&*format!("Basic {}", STANDARD.encode("id:s3cr%3At%26x"))));
                }
                AuthStyle::Json => {
                    assert_eq!(
                        serde_json::from_str::<serde_json::Value>(&body).unwrap(),
                        json!({"grant_type": "client_credentials", "client_id": "id", "client_secret": "s3cr:t&x",
                            "audience": "https://gharts.example.com", "scope": "runners jit"})
                    );
                    assert_eq!(basic, None);
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn b16_the_expiry_may_be_a_text_or_stand_in_the_token_alone() {
        let (_, text) = source(200, r#"{"access_token":"tok","expires_in":"60"}"#, AuthStyle::Body);
        assert_eq!(text.fetch().await.unwrap().life, Some(Duration::from_mins(1)));
        let body = json!({"access_token": jwt(&json!({"exp": 1_767_225_900}))}).to_string();
        let (_, claim) = source(200, &body, AuthStyle::Body);
        assert_eq!(claim.fetch().await.unwrap().life, Some(Duration::from_secs(300)));
        let own = jwt(&json!({"iat": 1_700_000_000, "exp": 1_700_000_900}));
        let (_, claims) = source(200, &json!({"access_token": own}).to_string(), AuthStyle::Body);
        assert_eq!(claims.fetch().await.unwrap().life, Some(Duration::from_mins(15)));
        for untold in [
            "",
            r#","expires_in":1e30"#,
            r#","expires_in":-1"#,
            r#","expires_in":"soon""#,
        ] {
            let (_, none) = source(200, &format!(r#"{{"access_token":"opaque"{untold}}}"#), AuthStyle::Body);
            assert_eq!(none.fetch().await.unwrap().life, None, "{untold}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn b16_refusals_carry_the_issuers_words_and_a_remedy_but_never_the_secret() {
        let body = r#"{"error":"invalid_client","error_description":"bad s3cr:t&x"}"#;
        for status in [400, 401, 403] {
            let (_, source) = source(status, body, AuthStyle::Body);
            let error = source.fetch().await.unwrap_err();
            let TokenError::Refused { message } = &error else {
                panic!("{status}: {error:?}")
            };
            assert!(
                message.contains("invalid_client") && message.contains("authStyle"),
                "{message}"
            );
            assert!(
                !message.contains("s3cr") && !format!("{source:?}").contains("s3cr"),
                "{message}"
            );
        }
        for (status, body) in [(200, "<html>"), (302, ""), (404, "")] {
            let (_, source) = source(status, body, AuthStyle::Body);
            assert!(
                matches!(source.fetch().await, Err(TokenError::Refused { message }) if message.contains("tokenUrl"))
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn b20_an_ill_issuer_is_worth_repeating() {
        for status in [429, 500, 503] {
            let (_, source) = source(status, "", AuthStyle::Body);
            assert!(
                matches!(source.fetch().await, Err(TokenError::Unavailable { .. })),
                "{status}"
            );
        }
    }
}

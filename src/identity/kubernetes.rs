//! Tokens of a Kubernetes service account, by the TokenRequest API: short-lived, for one audience, and
//! nothing to be stored or rotated.

use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, api::PostParams};

use super::{Token, TokenError, TokenSource, claims};

/// The API server refuses shorter lives.
const EXPIRATION_MIN: Duration = Duration::from_mins(10);

/// Asks the API server for tokens of one service account.
#[derive(Clone)]
pub struct ServiceAccountTokens {
    client: kube::Client,
    namespace: String,
    account: String,
    audience: String,
    expiration: Duration,
}

impl ServiceAccountTokens {
    /// `expiration` is a wish: the API server may shorten or lengthen it, and its word counts.
    pub fn new(client: kube::Client, namespace: &str, account: &str, audience: &str, expiration: Duration) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            audience: audience.to_owned(),
            expiration: expiration.max(EXPIRATION_MIN),
        }
    }

    async fn request(&self) -> Result<Token, TokenError> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let wanted = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![self.audience.clone()],
                expiration_seconds: i64::try_from(self.expiration.as_secs()).ok(),
                bound_object_ref: None,
            },
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(&self.account, &PostParams::default(), &wanted)
            .await
            .map_err(|error| self.failed(&error))?;
        let status = answer
            .status
            .filter(|s| !s.token.is_empty())
            .ok_or_else(|| TokenError::Unavailable {
                message: format!("{}: the API server answered without a token", self.describe()),
            })?;
        Ok(Token {
            life: Some(claims::life(&status.token).unwrap_or(self.expiration)),
            secret: status.token.into(),
        })
    }

    fn failed(&self, error: &kube::Error) -> TokenError {
        let what = self.describe();
        let kube::Error::Api(status) = error else {
            return TokenError::Unavailable {
                message: format!("{what}: the API server cannot be reached: {error}"),
            };
        };
        let words = &status.message;
        match status.code {
            401 => TokenError::Refused {
                message: format!("{what}: the API server does not accept our own credentials: {words}"),
            },
            403 => TokenError::Refused {
                message: format!(
                    "{what}: forbidden: {words} (a Role in {} must allow `create` on `serviceaccounts/token` named {})",
                    self.namespace, self.account
                ),
            },
            404 => TokenError::Refused {
                message: format!("{what}: there is no such service account: {words}"),
            },
            code @ (400 | 422) => TokenError::Refused {
                message: format!("{what}: the API server refused the request ({code}): {words}"),
            },
            code => TokenError::Unavailable {
                message: format!("{what}: the API server answered {code}: {words}"),
            },
        }
    }
}

impl TokenSource for ServiceAccountTokens {
    fn fetch(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
        Box::pin(self.request())
    }

    fn describe(&self) -> String {
        format!(
            "TokenRequest for service account {}/{} (audience {})",
            self.namespace, self.account, self.audience
        )
    }
}

impl std::fmt::Debug for ServiceAccountTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http_body_util::BodyExt as _;
    use kube::client::Body;
    use secrecy::ExposeSecret as _;
    use serde_json::{Value, json};

    use super::{claims::jwt, *};

    type Seen = Arc<Mutex<Vec<(String, Value)>>>;

    /// An API server that gives one answer and notes what it was asked.
    fn api_server(status: u16, answer: Value) -> (kube::Client, Seen) {
        let seen = Seen::default();
        let notes = Arc::clone(&seen);
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (notes, answer) = (Arc::clone(&notes), answer.clone());
            async move {
                let path = format!("{} {}", request.method(), request.uri().path());
                let body = request.into_body().collect().await.unwrap().to_bytes();
                notes
                    .lock()
                    .unwrap()
                    .push((path, serde_json::from_slice(&body).unwrap()));
                let response = http::Response::builder()
                    .status(status)
                    .header("content-type", "application/json");
                Ok::<_, tower::BoxError>(response.body(Body::from(answer.to_string().into_bytes())).unwrap())
            }
        });
        (kube::Client::new(service, "default"), seen)
    }

    fn tokens(client: kube::Client, expiration: Duration) -> ServiceAccountTokens {
        ServiceAccountTokens::new(
            client,
            "ci",
            "gharts-listener",
            "https://gharts.example.com",
            expiration,
        )
    }

    #[tokio::test]
    async fn b16_a_token_is_requested_for_the_account_with_audience_and_at_least_ten_minutes() {
        let issued = jwt(&json!({"iat": 1_767_222_000, "exp": 1_767_225_600}));
        let (client, seen) = api_server(
            201,
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {}, "spec": {"audiences": []},
                "status": {"token": issued, "expirationTimestamp": "2026-01-01T01:00:00Z"}}),
        );
        let token = tokens(client, Duration::from_secs(60)).fetch().await.unwrap();
        assert_eq!(token.secret.expose_secret(), issued);
        assert_eq!(
            token.life,
            Some(Duration::from_hours(1)),
            "by the cluster's clock, whatever ours says"
        );
        let seen = seen.lock().unwrap();
        assert_eq!(
            seen[0].0,
            "POST /api/v1/namespaces/ci/serviceaccounts/gharts-listener/token"
        );
        assert_eq!(seen[0].1["spec"]["audiences"], json!(["https://gharts.example.com"]));
        assert_eq!(seen[0].1["spec"]["expirationSeconds"], 600);
    }

    #[tokio::test]
    async fn b16_refusals_of_the_api_server_name_what_mends_them_and_illness_is_no_refusal() {
        let failure = |code: u16, reason: &'static str| async move {
            let answer = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                "reason": reason, "message": "the server's words"});
            let (client, _) = api_server(code, answer);
            tokens(client, Duration::from_mins(60)).fetch().await.unwrap_err()
        };
        let forbidden = failure(403, "Forbidden").await;
        assert!(matches!(&forbidden, TokenError::Refused { message }
            if message.contains("serviceaccounts/token") && message.contains("the server's words")));
        assert!(matches!(failure(404, "NotFound").await, TokenError::Refused { .. }));
        assert!(matches!(failure(422, "Invalid").await, TokenError::Refused { .. }));
        assert!(matches!(
            failure(503, "ServiceUnavailable").await,
            TokenError::Unavailable { .. }
        ));
    }
}

//! GHARTS as a client of GitHub: a GitHub App's credentials, the REST calls of today's service, and the three
//! calls more that the scale-set extension needs.
//!
//! As recorded, nothing of today's path is cached: every operation begins with a new installation token. Only
//! the extension's admin connection is kept, for as long as its token says.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::{event_loop::EventLoop, python, tokens::transport_text};
use crate::{
    clock::Clock,
    http::{Response, SharedTransport, TransportError},
    sim::keys::SigningKey,
};

/// How long GitHub has for one call.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long before its end an admin token is no longer used.
const ADMIN_MARGIN: i64 = 60;
const API_VERSION: &str = "api-version=6.0-preview";

/// The GitHub App that GHARTS holds, and where GitHub is.
#[derive(Clone, Debug)]
pub struct GithubAccess {
    /// REST base without a trailing slash: `https://api.github.com`, `http://127.0.0.1:8080/api/v3`.
    pub rest: String,
    pub org: String,
    /// The organization's page, which the Actions service wants to be told: `https://github.com/acme`.
    pub config_url: String,
    /// App id or client id.
    pub app: String,
    pub installation: u64,
    pub key: SigningKey,
}

/// What GHARTS meets when it asks GitHub about runners; nobody else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GithubTrouble {
    /// Refused at once.
    Status(StatusCode),
    /// GitHub does it and answers this much later: beyond 5 s nobody hears it.
    Slow(Duration),
    /// The connection breaks before GitHub hears of it.
    LostBefore,
    /// GitHub does it; the connection breaks where the answer should come.
    LostAfter,
}

/// Why GitHub's part failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No answer, or none in time: the runner may exist. httpx's text, empty for a deadline.
    NoAnswer(&'static str),
    /// GitHub answered with an error.
    Status {
        status: StatusCode,
        /// The message of its JSON.
        message: Option<String>,
        url: String,
    },
    /// A success that makes no sense; the text that Python makes of it.
    Nonsense(String),
    /// There is no such scale set, or it has another name.
    NoSuchScaleSet,
}

impl Failure {
    /// httpx's own text, which says nothing of GitHub's message.
    pub(super) fn plain_text(&self) -> String {
        match self {
            Self::NoAnswer(text) => (*text).to_owned(),
            Self::Status { status, url, .. } => python::status_error(*status, url),
            Self::Nonsense(text) => text.clone(),
            Self::NoSuchScaleSet => "Not Found".to_owned(),
        }
    }

    fn is_status(&self, wanted: StatusCode) -> bool {
        matches!(self, Self::Status { status, .. } if *status == wanted)
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Self::NoAnswer(transport_text(&error))
    }
}

/// A runner that GitHub has registered; its configuration holds a private key.
pub(super) struct Registered {
    pub(super) id: i64,
    pub(super) encoded_jit_config: String,
    pub(super) group: i64,
}

/// A registration token, and when it ends, as GitHub writes it.
pub(super) struct RegistrationToken {
    pub(super) token: String,
    pub(super) expires: String,
}

/// A runner in GitHub's list.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) online: bool,
    pub(super) busy: bool,
    pub(super) labels: Vec<String>,
}

#[derive(Clone)]
struct Admin {
    url: String,
    token: String,
    expires: i64,
}

pub(super) struct Upstream {
    access: GithubAccess,
    transport: SharedTransport,
    clock: Clock,
    event_loop: EventLoop,
    trouble: Mutex<Option<GithubTrouble>>,
    admin: Mutex<Option<Admin>>,
}

/// A request of GitHub's, less its base and credentials.
struct Call<'a> {
    method: Method,
    url: String,
    authorization: &'a str,
    body: Option<Value>,
    /// Whether it is about runners, and no credential's errand.
    about_runners: bool,
}

impl Upstream {
    pub(super) fn new(access: GithubAccess, transport: SharedTransport, clock: Clock, event_loop: EventLoop) -> Self {
        Self {
            access,
            transport,
            clock,
            event_loop,
            trouble: Mutex::new(None),
            admin: Mutex::new(None),
        }
    }

    pub(super) fn set_trouble(&self, trouble: Option<GithubTrouble>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// The organization's page.
    pub(super) fn config_url(&self) -> &str {
        &self.access.config_url
    }

    /// An ordinary runner with labels: the REST endpoint.
    pub(super) async fn generate(
        &self,
        name: &str,
        group: i64,
        labels: &[String],
        work_folder: &str,
    ) -> Result<Registered, Failure> {
        let authorization = self.installation_token().await?;
        let answer = self
            .json(Call {
                method: Method::POST,
                url: self.runners("/generate-jitconfig"),
                authorization: &authorization,
                body: Some(json!({
                    "name": name, "runner_group_id": group, "labels": labels, "work_folder": work_folder,
                })),
                about_runners: true,
            })
            .await?;
        let config = answer["encoded_jit_config"].as_str().ok_or_else(|| {
            Failure::Nonsense(
                "1 validation error for JitProvisionResponse\nencoded_jit_config\n  Input should be a valid string \
                 [type=string_type, input_value=None, input_type=NoneType]\n    For further information visit \
                 https://errors.pydantic.dev/2.13/v/string_type"
                    .to_owned(),
            )
        })?;
        Ok(Registered {
            id: answer["runner"]["id"].as_i64().unwrap_or_default(),
            encoded_jit_config: config.to_owned(),
            group,
        })
    }

    /// A runner of a scale set: the extension's way.
    pub(super) async fn generate_in_set(
        &self,
        set: i64,
        set_name: &str,
        name: &str,
        work_folder: &str,
    ) -> Result<Registered, Failure> {
        let path = format!("/_apis/runtime/runnerscalesets/{set}");
        let found = self.actions(Method::GET, &path, None).await.map_err(|failure| {
            if failure.is_status(StatusCode::NOT_FOUND) {
                Failure::NoSuchScaleSet
            } else {
                failure
            }
        })?;
        if found["name"] != set_name {
            return Err(Failure::NoSuchScaleSet);
        }
        let body = json!({ "name": name, "workFolder": work_folder });
        let answer = self
            .actions(Method::POST, &format!("{path}/generatejitconfig"), Some(body))
            .await?;
        let config = answer["encodedJITConfig"]
            .as_str()
            .ok_or_else(|| Failure::Nonsense("'encodedJITConfig'".to_owned()))?;
        Ok(Registered {
            id: answer["runner"]["id"].as_i64().unwrap_or_default(),
            encoded_jit_config: config.to_owned(),
            group: found["runnerGroupId"].as_i64().unwrap_or(1),
        })
    }

    /// Takes a runner off GitHub's list; that it is gone already is as good.
    pub(super) async fn remove(&self, id: i64) -> Result<(), Failure> {
        let authorization = self.installation_token().await?;
        let removed = self
            .call(Call {
                method: Method::DELETE,
                url: self.runners(&format!("/{id}")),
                authorization: &authorization,
                body: None,
                about_runners: true,
            })
            .await;
        match removed {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_status(StatusCode::NOT_FOUND) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// The first hundred runners: the real service reads no further.
    pub(super) async fn first_page(&self) -> Result<Vec<Listed>, Failure> {
        let authorization = self.installation_token().await?;
        let page = self
            .json(Call {
                method: Method::GET,
                url: self.runners("?per_page=100"),
                authorization: &authorization,
                body: None,
                about_runners: true,
            })
            .await?;
        let runners = page["runners"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(runners.iter().map(listed).collect())
    }

    /// A token with which a runner registers itself with the organization.
    pub(super) async fn registration_token(&self) -> Result<RegistrationToken, Failure> {
        let authorization = self.installation_token().await?;
        self.registration_token_with(&authorization, true).await
    }

    async fn registration_token_with(
        &self,
        authorization: &str,
        about_runners: bool,
    ) -> Result<RegistrationToken, Failure> {
        let answer = self
            .json(Call {
                method: Method::POST,
                url: self.runners("/registration-token"),
                authorization,
                body: None,
                about_runners,
            })
            .await?;
        Ok(RegistrationToken {
            token: token_of(&answer)?.to_owned(),
            expires: answer["expires_at"].as_str().unwrap_or_default().to_owned(),
        })
    }

    fn runners(&self, rest: &str) -> String {
        format!("{}/orgs/{}/actions/runners{rest}", self.access.rest, self.access.org)
    }

    /// The value of an `Authorization` header. The App's own token is made once the loop gets to it: it must not
    /// grow old in the queue.
    async fn installation_token(&self) -> Result<String, Failure> {
        self.event_loop.open().await;
        let now = self.clock.now().as_second();
        let claims = json!({ "iss": self.access.app, "iat": now - 60, "exp": now + 540 });
        let jwt = self
            .access
            .key
            .sign(&claims)
            .map_err(|error| Failure::Nonsense(error.to_string()))?;
        let answer = self
            .send(Call {
                method: Method::POST,
                url: format!(
                    "{}/app/installations/{}/access_tokens",
                    self.access.rest, self.access.installation
                ),
                authorization: &format!("Bearer {jwt}"),
                body: None,
                about_runners: false,
            })
            .await?;
        let answer = parsed(answer.body()).ok_or_else(|| Failure::Nonsense(python::NOT_JSON.to_owned()))?;
        token_of(&answer).map(|token| format!("Bearer {token}"))
    }

    /// A call of the Actions service; a connection that it no longer takes is renewed once.
    async fn actions(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        let kept = self.lock_admin().clone();
        let now = self.clock.now().as_second();
        let (admin, fresh) = match kept.filter(|admin| admin.expires - ADMIN_MARGIN > now) {
            Some(admin) => (admin, false),
            None => (self.connect().await?, true),
        };
        match self.actions_once(&admin, &method, path, body.clone()).await {
            Err(failure) if !fresh && failure.is_status(StatusCode::UNAUTHORIZED) => {
                let admin = self.connect().await?;
                self.actions_once(&admin, &method, path, body).await
            }
            result => result,
        }
    }

    async fn actions_once(
        &self,
        admin: &Admin,
        method: &Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Failure> {
        self.json(Call {
            method: method.clone(),
            url: format!("{}{path}?{API_VERSION}", admin.url),
            authorization: &format!("Bearer {}", admin.token),
            body,
            about_runners: true,
        })
        .await
    }

    async fn connect(&self) -> Result<Admin, Failure> {
        let authorization = self.installation_token().await?;
        let registration = self.registration_token_with(&authorization, false).await?;
        let answer = self
            .json(Call {
                method: Method::POST,
                url: format!("{}/actions/runner-registration", self.access.rest),
                authorization: &format!("RemoteAuth {}", registration.token),
                body: Some(json!({ "url": self.access.config_url, "runner_event": "register" })),
                about_runners: false,
            })
            .await?;
        let token = token_of(&answer)?;
        let url = answer["url"]
            .as_str()
            .unwrap_or_default()
            .trim_end_matches('/')
            .to_owned();
        let admin = Admin {
            expires: expiry(token).unwrap_or_default(),
            token: token.to_owned(),
            url,
        };
        *self.lock_admin() = Some(admin.clone());
        Ok(admin)
    }

    fn lock_admin(&self) -> std::sync::MutexGuard<'_, Option<Admin>> {
        self.admin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn json(&self, call: Call<'_>) -> Result<Value, Failure> {
        let response = self.call(call).await?;
        parsed(response.body()).ok_or_else(|| Failure::Nonsense(python::NOT_JSON.to_owned()))
    }

    async fn call(&self, call: Call<'_>) -> Result<Response, Failure> {
        self.event_loop.open().await;
        self.send(call).await
    }

    /// Over a connection that has been opened.
    async fn send(&self, call: Call<'_>) -> Result<Response, Failure> {
        let mut request = http::Request::builder()
            .method(call.method)
            .uri(&call.url)
            .header(header::AUTHORIZATION, call.authorization)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "gharts-sim");
        let body = match call.body {
            None => Bytes::new(),
            Some(value) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(value.to_string())
            }
        };
        let request = request
            .body(body)
            .map_err(|error| Failure::Nonsense(error.to_string()))?;
        let trouble = *self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let asking = self.ask(request, trouble.filter(|_| call.about_runners), call.about_runners);
        let response = self.event_loop.wait(DEADLINE, &call.url, asking).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(Failure::Status {
            status: response.status(),
            message: message(response.body()),
            url: call.url,
        })
    }

    async fn ask(
        &self,
        request: http::Request<Bytes>,
        trouble: Option<GithubTrouble>,
        about_runners: bool,
    ) -> Result<Response, TransportError> {
        let peer = crate::http::peer(&request);
        let lost = || TransportError::Lost {
            peer: peer.clone(),
            reason: "reset".to_owned(),
        };
        match trouble {
            Some(GithubTrouble::Status(status)) => {
                let text = json!({ "message": status.canonical_reason().unwrap_or("ill") }).to_string();
                let mut answer = Response::new(Bytes::from(text));
                *answer.status_mut() = status;
                return Ok(answer);
            }
            Some(GithubTrouble::LostBefore) => return Err(lost()),
            _ => {}
        }
        let doing = async {
            let answer = self.transport.send(request).await;
            if about_runners {
                self.event_loop.github().await;
            }
            match trouble {
                Some(GithubTrouble::LostAfter) => return Err(lost()),
                Some(GithubTrouble::Slow(time)) => tokio::time::sleep(time).await,
                _ => {}
            }
            answer
        };
        match tokio::time::timeout(DEADLINE, doing).await {
            Ok(answer) => answer,
            Err(_) => Err(TransportError::Timeout {
                peer: peer.clone(),
                deadline: DEADLINE,
            }),
        }
    }
}

fn listed(runner: &Value) -> Listed {
    let labels = runner["labels"].as_array().map(Vec::as_slice).unwrap_or_default();
    Listed {
        id: runner["id"].as_i64().unwrap_or_default(),
        name: runner["name"].as_str().unwrap_or_default().to_owned(),
        online: runner["status"] == "online",
        busy: runner["busy"] == true,
        labels: labels
            .iter()
            .filter_map(|label| label["name"].as_str().map(str::to_owned))
            .collect(),
    }
}

fn token_of(answer: &Value) -> Result<&str, Failure> {
    answer["token"]
        .as_str()
        .ok_or_else(|| Failure::Nonsense("'token'".to_owned()))
}

/// GitHub's own words. A name that is taken at the Actions service reads as one taken at REST.
fn message(body: &[u8]) -> Option<String> {
    let body = parsed(body)?;
    if body["typeName"]
        .as_str()
        .is_some_and(|name| name.contains("AgentExistsException"))
    {
        return Some("Already exists".to_owned());
    }
    body["message"].as_str().map(str::to_owned)
}

/// Bodies of the Actions service may begin with a byte order mark.
fn parsed(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)).ok()
}

/// When a JWT ends, by its own word.
fn expiry(jwt: &str) -> Option<i64> {
    let claims = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<Value>(&claims).ok()?["exp"].as_i64()
}

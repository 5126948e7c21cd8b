//! A scripted GitHub: just enough upstream for a GHARTS, with the failures that the recordings injected.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use gharts_listener::sim::network::broken_connection;
use serde_json::{Value, json};

/// Which call a script line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    Token,
    Registration,
    Jit,
    List,
    Delete,
    SetJit,
    Set,
}

/// What happens instead of the usual answer.
#[derive(Clone, Debug)]
pub(super) enum Then {
    Status(u16, &'static str),
    Html(u16),
    Reset,
    OddBody,
    /// The effect, then no answer.
    ResetAfter,
    /// The effect, then this.
    StatusAfter(u16, &'static str),
    /// The effect, then the answer so much later.
    Slow(u64),
}

#[derive(Clone, Debug)]
pub(super) struct Runner {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) status: &'static str,
    pub(super) busy: bool,
    pub(super) set: Option<i64>,
    pub(super) labels: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) runners: Vec<Runner>,
    pub(super) script: Vec<(On, Then)>,
    /// Method, path and body of everything that arrived.
    pub(super) calls: Vec<(String, String)>,
    next_id: i64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Github(Arc<Mutex<Model>>);

/// The one scale set that exists.
pub(super) const SET: (i64, &str) = (42, "linux-large");
/// What a cut body of the recordings shows in place of base64.
pub(super) const JIT_CONFIG: &str = "<base64…>";

impl Github {
    pub(super) fn lock(&self) -> MutexGuard<'_, Model> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn script(&self, on: On, then: Then) {
        self.lock().script.push((on, then));
    }

    pub(super) fn edit(&self, name: &str, edit: impl FnOnce(&mut Runner)) {
        edit(self.lock().runners.iter_mut().find(|r| r.name == name).unwrap());
    }

    pub(super) fn forget(&self, name: &str) {
        self.lock().runners.retain(|r| r.name != name);
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.lock().runners.iter().any(|r| r.name == name)
    }

    /// A runner that GHARTS knows nothing of.
    pub(super) fn add(&self, name: &str) {
        self.lock().add(name, None, &Value::Null);
    }

    pub(super) fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }
}

impl Model {
    fn add(&mut self, name: &str, set: Option<i64>, labels: &Value) -> i64 {
        self.next_id += 1;
        let id = 1000 + self.next_id;
        self.runners.push(Runner {
            id,
            name: name.to_owned(),
            status: "offline",
            busy: false,
            set,
            labels: serde_json::from_value(labels.clone()).unwrap_or_default(),
        });
        id
    }

    fn perform(&mut self, on: On, path: &str, body: &Value) -> (u16, Value) {
        let name = body["name"].as_str().unwrap_or_default().to_owned();
        let taken = self.runners.iter().any(|r| r.name == name);
        let refusal = |status: u16, message: &str| (status, json!({ "message": message }));
        match on {
            On::Token => (201, json!({ "token": "ghs_1", "expires_at": "2026-11-23T05:00:00Z" })),
            On::Registration => (201, json!({ "token": "AREG", "expires_at": "2026-11-23T05:00:00Z" })),
            On::Jit if body["runner_group_id"] != 1 => refusal(404, "Not Found"),
            On::Jit if body["labels"].as_array().unwrap().len() > 100 => refusal(422, "Validation Failed"),
            On::Jit if taken => refusal(
                409,
                &format!("Already exists - A runner with the name {name} already exists."),
            ),
            On::Jit => {
                let id = self.add(&name, None, &body["labels"]);
                (
                    201,
                    json!({ "runner": { "id": id, "name": name }, "encoded_jit_config": JIT_CONFIG }),
                )
            }
            On::List => {
                let page: Vec<Value> = self
                    .runners
                    .iter()
                    .take(100)
                    .map(|r| {
                        let labels: Vec<Value> = r.labels.iter().map(|name| json!({ "name": name })).collect();
                        json!({ "id": r.id, "name": r.name, "status": r.status, "busy": r.busy, "labels": labels })
                    })
                    .collect();
                (200, json!({ "total_count": self.runners.len(), "runners": page }))
            }
            On::Delete => {
                let id: i64 = path.rsplit('/').next().unwrap().parse().unwrap();
                match self.runners.iter().position(|r| r.id == id) {
                    None => refusal(404, "Not Found"),
                    Some(at) if self.runners[at].busy => refusal(422, "Runner is currently running a job"),
                    Some(at) => {
                        self.runners.remove(at);
                        (204, Value::Null)
                    }
                }
            }
            On::Set if path.contains(&format!("/{}", SET.0)) => {
                (200, json!({ "id": SET.0, "name": SET.1, "runnerGroupId": 3 }))
            }
            On::Set => (
                404,
                json!({ "typeName": "GitHub.Actions.Runtime.RunnerScaleSetNotFoundException", "message": "gone" }),
            ),
            On::SetJit if taken => (
                409,
                json!({ "typeName": "GitHub.Actions.Runtime.AgentExistsException", "message": "taken" }),
            ),
            On::SetJit => {
                let id = self.add(&name, Some(SET.0), &Value::Null);
                let runner = json!({ "id": id, "name": name, "runnerScaleSetId": SET.0 });
                (200, json!({ "runner": runner, "encodedJITConfig": JIT_CONFIG }))
            }
        }
    }
}

async fn answer(State(github): State<Github>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let path = uri.path().to_owned();
    github
        .lock()
        .calls
        .push((format!("{method} {path}"), String::from_utf8_lossy(&body).into_owned()));
    let authorization = headers["authorization"].to_str().unwrap();
    let on = match (method.as_str(), path.as_str()) {
        ("POST", "/actions/runner-registration") => {
            assert_eq!(authorization, "RemoteAuth AREG");
            let claims = URL_SAFE_NO_PAD.encode(json!({ "exp": 4_000_000_000_u64 }).to_string());
            let answer = json!({ "url": "http://127.0.0.1:18081/actions/", "token": format!("e30.{claims}.x") });
            return axum::Json(answer).into_response();
        }
        ("POST", "/orgs/acme/actions/runners/registration-token") => On::Registration,
        ("POST", "/app/installations/815/access_tokens") => On::Token,
        ("POST", "/orgs/acme/actions/runners/generate-jitconfig") => On::Jit,
        ("GET", "/orgs/acme/actions/runners") => On::List,
        ("DELETE", _) => On::Delete,
        ("GET", _) => On::Set,
        ("POST", _) => On::SetJit,
        other => panic!("nobody should ask for {other:?}"),
    };
    if !matches!(on, On::Token | On::Set | On::SetJit) {
        assert_eq!(authorization, "Bearer ghs_1");
    }
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let then = {
        let mut model = github.lock();
        let at = model.script.iter().position(|(of, _)| *of == on);
        at.map(|at| model.script.remove(at).1)
    };
    let refuse = |status: u16, message: &str| json_answer(status, &json!({ "message": message }));
    match then {
        Some(Then::Status(status, message)) => refuse(status, message),
        Some(Then::Html(status)) => (StatusCode::from_u16(status).unwrap(), "<html></html>").into_response(),
        Some(Then::Reset) => broken_connection(),
        Some(Then::OddBody) => json_answer(201, &json!({ "runner": { "id": 1 } })),
        after => {
            let (status, answer) = github.lock().perform(on, &path, &body);
            match after {
                Some(Then::ResetAfter) => broken_connection(),
                Some(Then::StatusAfter(status, message)) => refuse(status, message),
                Some(Then::Slow(seconds)) => {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    json_answer(status, &answer)
                }
                _ => json_answer(status, &answer),
            }
        }
    }
}

fn json_answer(status: u16, body: &Value) -> Response {
    (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
}

//! One simulated GitHub on an in-memory network, and just enough of a raw client.

use std::time::Duration;

use bytes::Bytes;
use gharts_listener::{
    clock::Clock,
    http::Transport as _,
    shutdown::Tasks,
    sim::{
        github::{GitHub, NewJobs, Setup},
        network::Network,
    },
};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

pub(super) const BASE: &str = "http://github.test";
pub(super) const PAT: &str = "ghp_all";
pub(super) const API: &str = "http://github.test/api/v3";

pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) bom: bool,
    pub(super) body: Value,
}

impl Reply {
    #[track_caller]
    pub(super) fn expect(self, status: StatusCode) -> Value {
        assert_eq!(self.status, status.as_u16(), "{}", self.body);
        self.body
    }

    /// A refusal of the Actions service with this exception.
    #[track_caller]
    pub(super) fn refused(self, status: u16, exception: &str) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        let name = self.body["typeName"].as_str().unwrap();
        assert!(name.contains(&format!(".{exception}, GitHub.")), "{name}");
        self.body["message"].as_str().unwrap().to_owned()
    }
}

pub(super) struct Sim {
    pub(super) github: GitHub,
    pub(super) network: Network,
    pub(super) clock: Clock,
    pub(super) tasks: Tasks,
}

/// An organization `acme` and a PAT with all rights; `change` may say otherwise.
pub(super) fn sim(change: impl FnOnce(&mut Setup)) -> Sim {
    let mut setup = Setup::new(BASE, "acme", PAT);
    change(&mut setup);
    let tasks = Tasks::new();
    let clock = Clock::simulated("2026-03-01T12:00:00Z".parse().unwrap());
    let github = GitHub::start(setup, clock.clone(), &tasks);
    let network = Network::new();
    network.attach("github.test", github.router());
    Sim {
        github,
        network,
        clock,
        tasks,
    }
}

pub(super) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl Sim {
    pub(super) async fn call(&self, method: &str, url: &str, auth: &str, body: Option<Value>) -> Reply {
        self.call_with(method, url, auth, body, &[]).await
    }

    pub(super) async fn call_with(
        &self,
        method: &str,
        url: &str,
        auth: &str,
        body: Option<Value>,
        extra: &[(&str, String)],
    ) -> Reply {
        let mut request = http::Request::builder()
            .method(method)
            .uri(url)
            .header("authorization", auth);
        for (name, value) in extra {
            request = request.header(*name, value);
        }
        let body = body.map_or_else(Bytes::new, |b| Bytes::from(b.to_string()));
        let response = self.network.send(request.body(body).unwrap()).await.unwrap();
        let raw = response.body();
        let text = raw.strip_prefix(b"\xef\xbb\xbf".as_slice());
        Reply {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            bom: text.is_some(),
            body: serde_json::from_slice(text.unwrap_or(raw)).unwrap_or(Value::Null),
        }
    }

    pub(super) async fn registration_token(&self) -> String {
        let url = format!("{API}/orgs/acme/actions/runners/registration-token");
        let body = self.call("POST", &url, &format!("Bearer {PAT}"), None).await;
        body.expect(StatusCode::CREATED)["token"].as_str().unwrap().to_owned()
    }

    pub(super) async fn admin(&self) -> Admin<'_> {
        let token = self.registration_token().await;
        let reply = self
            .call(
                "POST",
                &format!("{API}/actions/runner-registration"),
                &format!("RemoteAuth {token}"),
                Some(json!({"url": format!("{BASE}/acme"), "runner_event": "register"})),
            )
            .await
            .expect(StatusCode::OK);
        Admin {
            sim: self,
            url: reply["url"].as_str().unwrap().to_owned(),
            auth: format!("Bearer {}", reply["token"].as_str().unwrap()),
        }
    }

    pub(super) fn queue(&self, set: &str, count: usize) -> Vec<String> {
        let jobs = self.github.queue_jobs(&NewJobs::for_set("acme", set, count));
        jobs.into_iter().map(|job| job.id).collect()
    }

    /// What the fleet does with a JIT configuration: the agent's id and its secret.
    pub(super) fn unpack(blob: &str) -> Runner {
        let files = decode(blob);
        let runner = decode(files[".runner"].as_str().unwrap());
        let credentials = decode(files[".credentials"].as_str().unwrap());
        assert!(files[".credentials_rsaparams"].is_string());
        let server = runner["serverUrl"].as_str().unwrap();
        let origin = server.split("/actions-service/").next().unwrap();
        Runner {
            url: format!("{origin}/_sim/runner/{}", runner["agentId"]),
            auth: format!("Bearer {}", credentials["data"]["secret"].as_str().unwrap()),
            id: runner["agentId"].as_u64().unwrap(),
            name: runner["agentName"].as_str().unwrap().to_owned(),
        }
    }

    pub(super) async fn runner(&self, runner: &Runner, method: &str, path: &str, body: Option<Value>) -> Reply {
        let url = format!("{}/{path}", runner.url);
        self.call(method, &url, &runner.auth, body).await
    }
}

pub(super) fn decode(text: &str) -> Value {
    use base64::Engine as _;
    let raw = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    serde_json::from_slice(&raw).unwrap()
}

#[derive(Debug)]
pub(super) struct Runner {
    pub(super) url: String,
    pub(super) auth: String,
    pub(super) id: u64,
    pub(super) name: String,
}

/// An admin connection.
pub(super) struct Admin<'a> {
    pub(super) sim: &'a Sim,
    pub(super) url: String,
    pub(super) auth: String,
}

impl Admin<'_> {
    pub(super) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        let mark = if path.contains('?') { '&' } else { '?' };
        let url = format!("{}_apis/{path}{mark}api-version=6.0-preview", self.url);
        self.sim.call(method, &url, &self.auth, body).await
    }

    pub(super) async fn create_set(&self, name: &str) -> Value {
        let body = json!({"name": name, "runnerGroupId": 1, "RunnerSetting": {"disableUpdate": true}});
        let reply = self.call("POST", "runtime/runnerscalesets", Some(body)).await;
        reply.expect(StatusCode::OK)
    }

    pub(super) async fn open(&self, set: &Value, owner: &str) -> Reply {
        let path = format!("runtime/runnerscalesets/{}/sessions", set["id"]);
        self.call("POST", &path, Some(json!({"ownerName": owner}))).await
    }

    pub(super) async fn session(&self, set: &Value) -> Session<'_> {
        Session::new(self.sim, self.open(set, "me").await.expect(StatusCode::OK))
    }

    pub(super) async fn refresh(&self, session: &Session<'_>) -> Reply {
        self.call("PATCH", &session.path(), None).await
    }

    pub(super) async fn close(&self, session: &Session<'_>) -> Reply {
        self.call("DELETE", &session.path(), None).await
    }

    pub(super) async fn jit(&self, set: &Value, name: &str) -> Reply {
        let path = format!("runtime/runnerscalesets/{}/generatejitconfig", set["id"]);
        self.call("POST", &path, Some(json!({"name": name, "workFolder": "_work"})))
            .await
    }

    /// Registers a runner and connects its process.
    pub(super) async fn connected(&self, set: &Value, name: &str) -> Runner {
        let jit = self.jit(set, name).await.expect(StatusCode::OK);
        let runner = Sim::unpack(jit["encodedJITConfig"].as_str().unwrap());
        let reply = self.sim.runner(&runner, "POST", "connect", None).await;
        assert!(reply.expect(StatusCode::OK)["session"].is_string());
        runner
    }
}

/// A session's own view.
pub(super) struct Session<'a> {
    sim: &'a Sim,
    pub(super) id: String,
    pub(super) set: u64,
    pub(super) url: String,
    pub(super) auth: String,
    pub(super) body: Value,
}

impl<'a> Session<'a> {
    pub(super) fn new(sim: &'a Sim, body: Value) -> Self {
        Self {
            sim,
            id: body["sessionId"].as_str().unwrap().to_owned(),
            set: body["runnerScaleSet"]["id"].as_u64().unwrap(),
            url: body["messageQueueUrl"].as_str().unwrap().to_owned(),
            auth: format!("Bearer {}", body["messageQueueAccessToken"].as_str().unwrap()),
            body,
        }
    }

    fn path(&self) -> String {
        format!("runtime/runnerscalesets/{}/sessions/{}", self.set, self.id)
    }

    pub(super) async fn poll(&self, capacity: u32, last: u64) -> Reply {
        let cursor = if last > 0 {
            format!("&lastMessageId={last}")
        } else {
            String::new()
        };
        let url = format!("{}{cursor}", self.url);
        let extra = [
            ("x-scalesetmaxcapacity", capacity.to_string()),
            ("accept", "application/json; api-version=6.0-preview".to_owned()),
        ];
        self.sim.call_with("GET", &url, &self.auth, None, &extra).await
    }

    pub(super) async fn delete(&self, message: u64) -> Reply {
        let (path, query) = self.url.split_once('?').unwrap();
        let url = format!("{path}/{message}?{query}");
        self.sim.call("DELETE", &url, &self.auth, None).await
    }

    /// Polls, expects a message, deletes it.
    pub(super) async fn next(&self, capacity: u32) -> Message {
        let message = Message::new(self.poll(capacity, 0).await.expect(StatusCode::OK));
        assert_eq!(self.delete(message.id).await.status, 204);
        message
    }

    pub(super) async fn acquire(&self, ids: &[i64]) -> Reply {
        let url = self.url.replace("/messages?", "/acquirejobs?");
        self.sim.call("POST", &url, &self.auth, Some(json!(ids))).await
    }
}

/// A message with its body unpacked.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) id: u64,
    pub(super) statistics: Value,
    pub(super) entries: Vec<Value>,
}

impl Message {
    pub(super) fn new(body: Value) -> Self {
        assert_eq!(body["messageType"], "RunnerScaleSetJobMessages");
        Self {
            id: body["messageId"].as_u64().unwrap(),
            statistics: body["statistics"].clone(),
            entries: serde_json::from_str(body["body"].as_str().unwrap()).unwrap(),
        }
    }

    pub(super) fn kinds(&self) -> Vec<&str> {
        self.entries
            .iter()
            .map(|e| e["messageType"].as_str().unwrap())
            .collect()
    }

    pub(super) fn count(&self, statistic: &str) -> u64 {
        self.statistics[statistic].as_u64().unwrap()
    }
}

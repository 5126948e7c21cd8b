//! The least program that could do it: the yardstick of `benches/compare.sh`.
//!
//! Session, long poll, JIT configuration, Pod and Secret, watch, delete: nothing else. No limits, no retries, no
//! deadlines, no adoption, no orphans, no reasons, no metrics, no orderly end. Whatever fails is printed and
//! forgotten. It reads the daemon's own file, runs on the same HTTP stacks, runtime and release profile, and makes
//! the same pods, so that the difference between the two is what safety costs. Four writes per job: Pod, Secret,
//! and the deletion of both.
//!
//! Usage: `least CONFIG [STARTS]`, where STARTS bounds the runners being started at once (default 64).
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "it does without everything that the daemon's own seams are for"
)]

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use futures::TryStreamExt as _;
use gharts_listener::{
    clock::Clock,
    config::{self, Config, GitHub, ScaleSet, Scope},
    http::{IDLE_LONG, reqwest_transport},
    identity::github_token_source,
    ids::RunnerName,
    plan::runner::{Meets, Purpose},
    runner::{keys, manifest::Blueprint},
};
use kube::api::{DeleteParams, ListParams, PostParams, Request, WatchEvent, WatchParams};
use reqwest::{Method, RequestBuilder, StatusCode};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, de::DeserializeOwned, de::IgnoredAny};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// Runners being started at once: connections beyond that cost more than they bring.
const STARTS: usize = 64;
/// Somebody else's session lives on for a while after its end.
const SESSION_PAUSE: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().context("usage: least CONFIG [STARTS]")?;
    let starts = arguments.next().map_or(Ok(STARTS), |n| n.parse())?;
    let config = config::load(&PathBuf::from(file), &config::environment()).map_err(|p| anyhow!("{p:?}"))?;
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();

    let http = reqwest::Client::builder().http1_only().no_proxy().build()?;
    let actions = Actions::connect(http, &config.github).await?;
    let group = actions.group(&config.github.runner_group).await?;
    let cluster = kubernetes(&config).await?;
    let program = Arc::new(Program {
        actions,
        pods: format!("/api/v1/namespaces/{}/pods", config.kubernetes.namespace),
        secrets: format!("/api/v1/namespaces/{}/secrets", config.kubernetes.namespace),
        cluster,
        starts: Semaphore::new(starts),
        alive: Mutex::default(),
    });
    for set in config.scale_sets {
        let program = program.clone();
        tokio::spawn(async move {
            if let Err(error) = program.serve(set, group).await {
                eprintln!("least: {error:#}");
            }
        });
    }
    let mut version = program.version().await?;
    loop {
        if let Err(error) = program.watch(&mut version).await {
            eprintln!("least: watch: {error:#}");
        }
    }
}

async fn kubernetes(config: &Config) -> anyhow::Result<kube::Client> {
    let path = config.kubernetes.kubeconfig.as_ref();
    let file = kube::config::Kubeconfig::read_from(path.context("the file names no kubeconfig")?)?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(kube::Client::try_from(config)?)
}

/// GitHub's Actions service, as an administrator.
struct Actions {
    http: reqwest::Client,
    url: String,
    token: String,
}

#[derive(Deserialize)]
struct Registration {
    token: String,
    #[serde(default)]
    url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    message_queue_url: String,
    message_queue_access_token: String,
    #[serde(default)]
    statistics: Statistics,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Statistics {
    total_assigned_jobs: usize,
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "messageId")]
    id: i64,
    #[serde(default)]
    body: String,
    statistics: Statistics,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    message_type: String,
    #[serde(default)]
    runner_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Jit {
    #[serde(rename = "encodedJITConfig")]
    encoded: String,
    runner: Agent,
}

#[derive(Deserialize)]
struct Agent {
    id: i64,
}

impl Actions {
    async fn connect(http: reqwest::Client, github: &GitHub) -> anyhow::Result<Self> {
        let transport = reqwest_transport(&github.tls, &github.proxy, IDLE_LONG)?;
        let source =
            github_token_source(github, transport, Clock::system()).context("github.auth has no credential")?;
        let rest_token = source.fetch().await?;
        let rest = github.config_url.rest_base.as_str().trim_end_matches('/');
        let place = match &github.config_url.scope {
            Scope::Organization { org } => format!("orgs/{org}"),
            Scope::Repository { owner, repo } => format!("repos/{owner}/{repo}"),
            Scope::Enterprise { enterprise } => format!("enterprises/{enterprise}"),
        };
        let registration: Registration = answer(
            http.post(format!("{rest}/{place}/actions/runners/registration-token"))
                .bearer_auth(rest_token.secret.expose_secret()),
        )
        .await?;
        let admin: Registration = answer(
            http.post(format!("{rest}/actions/runner-registration"))
                .header("Authorization", format!("RemoteAuth {}", registration.token))
                .json(&json!({"url": github.config_url.url.as_str(), "runner_event": "register"})),
        )
        .await?;
        Ok(Self {
            http,
            url: admin.url.trim_end_matches('/').to_owned(),
            token: admin.token,
        })
    }

    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}/_apis/runtime/{path}", self.url))
            .query(&[("api-version", "6.0-preview")])
            .bearer_auth(&self.token)
    }

    async fn group(&self, name: &str) -> anyhow::Result<i64> {
        let groups: Value = answer(self.call(Method::GET, "runnergroups/").query(&[("groupName", name)])).await?;
        Ok(groups["value"][0]["id"].as_i64().unwrap_or(1))
    }

    /// The set's id; the set is made if there is none.
    async fn scale_set(&self, set: &ScaleSet, group: i64) -> anyhow::Result<i64> {
        let query = [("runnerGroupId", group.to_string()), ("name", set.name.to_string())];
        let found: Value = answer(self.call(Method::GET, "runnerscalesets").query(&query)).await?;
        if let Some(id) = found["value"][0]["id"].as_i64() {
            return Ok(id);
        }
        let labels: Vec<Value> = set
            .labels
            .iter()
            .map(|l| json!({"type": "System", "name": l}))
            .collect();
        let wish = json!({"name": set.name.as_str(), "runnerGroupId": group, "labels": labels});
        let made: Value = answer(self.call(Method::POST, "runnerscalesets").json(&wish)).await?;
        made["id"].as_i64().context("a scale set without id")
    }

    async fn session(&self, set: i64) -> anyhow::Result<Session> {
        loop {
            let path = format!("runnerscalesets/{set}/sessions");
            let request = self.call(Method::POST, &path).json(&json!({"ownerName": "least"}));
            let response = request.send().await?;
            if response.status() != StatusCode::CONFLICT {
                return decode(&response.error_for_status()?.bytes().await?);
            }
            tokio::time::sleep(SESSION_PAUSE).await;
        }
    }

    async fn poll(&self, session: &Session, last: Option<i64>, capacity: u32) -> anyhow::Result<Option<Message>> {
        let url = &session.message_queue_url;
        let url = match last {
            Some(id) => format!("{url}{}lastMessageId={id}", if url.contains('?') { '&' } else { '?' }),
            None => url.clone(),
        };
        let response = self
            .http
            .get(url)
            .bearer_auth(&session.message_queue_access_token)
            .header("Accept", "application/json; api-version=6.0-preview")
            .header("X-ScaleSetMaxCapacity", capacity)
            .send()
            .await?;
        match response.status() {
            StatusCode::ACCEPTED => Ok(None),
            _ => Ok(Some(decode(&response.error_for_status()?.bytes().await?)?)),
        }
    }

    fn delete_message(&self, session: &Session, id: i64) -> RequestBuilder {
        let url = &session.message_queue_url;
        let url = match url.split_once('?') {
            Some((path, query)) => format!("{path}/{id}?{query}"),
            None => format!("{url}/{id}"),
        };
        self.http.delete(url).bearer_auth(&session.message_queue_access_token)
    }

    async fn jit(&self, set: i64, name: &str) -> anyhow::Result<Jit> {
        let path = format!("runnerscalesets/{set}/generatejitconfig");
        let wish = json!({"name": name, "workFolder": "_work"});
        answer(self.call(Method::POST, &path).json(&wish)).await
    }
}

async fn answer<T: DeserializeOwned>(request: RequestBuilder) -> anyhow::Result<T> {
    let response = request.send().await?;
    let (status, url) = (response.status(), response.url().path().to_owned());
    let body = response.bytes().await?;
    if !status.is_success() {
        bail!("{url}: {status}: {}", String::from_utf8_lossy(&body));
    }
    decode(&body)
}

/// The service's bodies may begin with a byte order mark.
fn decode<T: DeserializeOwned>(body: &[u8]) -> anyhow::Result<T> {
    Ok(serde_json::from_slice(
        body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body),
    )?)
}

struct Program {
    actions: Actions,
    cluster: kube::Client,
    pods: String,
    secrets: String,
    starts: Semaphore,
    /// Pods that were made and have not been removed.
    alive: Mutex<HashSet<String>>,
}

/// As much of a list as has to be read: from when on to watch.
#[derive(Deserialize)]
struct Listed {
    metadata: Version,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    resource_version: String,
}

/// As much of a pod as has to be read.
#[derive(Clone, Debug, Deserialize)]
struct Seen {
    metadata: Metadata,
    #[serde(default)]
    status: Phase,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    resource_version: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Phase {
    #[serde(default)]
    phase: String,
}

impl Program {
    /// Polls for ever and makes a runner for every assigned job that has had none.
    async fn serve(self: &Arc<Self>, set: ScaleSet, group: i64) -> anyhow::Result<()> {
        let id = self.actions.scale_set(&set, group).await?;
        let session = Arc::new(self.actions.session(id).await?);
        eprintln!("least: session of {} open", set.name);
        let blueprint = Arc::new(Blueprint::new(&set.name, (&set).into()));
        let (mut made, mut completed, mut last) = (0, 0, None);
        let mut assigned = session.statistics.total_assigned_jobs;
        loop {
            // Statistics and the ends of jobs come in one message, so that their sum never counts a job twice.
            let wanted = completed + assigned.min(set.max_runners as usize);
            while made < wanted {
                made += 1;
                let (program, blueprint) = (self.clone(), blueprint.clone());
                tokio::spawn(async move {
                    if let Err(error) = program.start(id, &blueprint).await {
                        eprintln!("least: start: {error:#}");
                    }
                });
            }
            let Some(message) = self.actions.poll(&session, last, set.max_runners).await? else {
                continue;
            };
            last = Some(message.id);
            let delete = self.actions.delete_message(&session, message.id);
            tokio::spawn(async move {
                if let Err(error) = delete.send().await {
                    eprintln!("least: acknowledge: {error:#}");
                }
            });
            assigned = message.statistics.total_assigned_jobs;
            let entries: Vec<Entry> = decode(message.body.as_bytes()).unwrap_or_default();
            let is_end = |e: &&Entry| e.message_type == "JobCompleted" && !e.runner_name.is_empty();
            completed += entries.iter().filter(is_end).count();
        }
    }

    async fn start(&self, set: i64, blueprint: &Blueprint) -> anyhow::Result<()> {
        let _permit = self.starts.acquire().await?;
        let name = format!("least-{:016x}", fastrand::u64(..));
        let jit = self.actions.jit(set, &name).await?;
        let pod = blueprint.pod(
            &RunnerName::new(&name),
            Purpose::Demand,
            Meets::InSet,
            Some(jit.runner.id),
            None,
        );
        let labels = json!({keys::MANAGED_BY: keys::MANAGED_BY_VALUE, keys::COMPONENT: keys::COMPONENT_VALUE});
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": labels},
            "immutable": true, "stringData": {keys::JIT_CONFIG: jit.encoded},
        });
        self.alive().insert(name);
        // One after the other: on a busy API server a Secret beside every Pod makes the Pods wait.
        self.create(&self.pods, serde_json::to_vec(&pod)?).await?;
        self.create(&self.secrets, serde_json::to_vec(&secret)?).await
    }

    async fn create(&self, path: &str, object: Vec<u8>) -> anyhow::Result<()> {
        let request = Request::new(path).create(&PostParams::default(), object)?;
        self.cluster.request::<IgnoredAny>(request).await?;
        Ok(())
    }

    /// Since when to watch.
    async fn version(&self) -> anyhow::Result<String> {
        let list = Request::new(&self.pods).list(&ListParams::default().limit(1))?;
        let now: Listed = self.cluster.request(list).await?;
        Ok(now.metadata.resource_version)
    }

    /// Removes every runner that has ended, until the API server ends the watch, which under load it does often.
    async fn watch(self: &Arc<Self>, version: &mut String) -> anyhow::Result<()> {
        let selector = format!("{}={}", keys::MANAGED_BY, keys::MANAGED_BY_VALUE);
        let request = Request::new(&self.pods).watch(&WatchParams::default().labels(&selector), version)?;
        let mut events = std::pin::pin!(self.cluster.request_events::<Seen>(request).await?);
        while let Some(event) = events.try_next().await? {
            let pod = match event {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => pod,
                WatchEvent::Error(error) => bail!("{}", error.message),
                WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => continue,
            };
            version.clone_from(&pod.metadata.resource_version);
            let is_over = matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
            if is_over && self.alive().remove(&pod.metadata.name) {
                let program = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = program.remove(&pod.metadata.name).await {
                        eprintln!("least: end: {error:#}");
                    }
                });
            }
        }
        Ok(())
    }

    async fn remove(&self, name: &str) -> anyhow::Result<()> {
        for path in [&self.pods, &self.secrets] {
            let delete = Request::new(path).delete(name, &DeleteParams::default())?;
            self.cluster.request::<IgnoredAny>(delete).await?;
        }
        Ok(())
    }

    fn alive(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

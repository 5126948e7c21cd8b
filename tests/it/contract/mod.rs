//! How a Kubernetes API answers: one suite against the simulated one, always, and against a real one where
//! `GHARTS_TEST_KUBECONFIG` names an administrator's kubeconfig (`tests/with-real-kubernetes.sh` sets it).
//!
//! Every behaviour here is one that the daemon, the fleet or the tests lean on. A difference between the two
//! is a bug of the simulation.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests"
)]

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use gharts_listener::{
    clock::Clock,
    sim::{
        keys::SigningKey,
        kubernetes::{Model, client},
    },
};
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

mod access;
mod pods;
mod reads;
mod writes;

macro_rules! contract {
    ($($file:ident { $($name:ident),* $(,)? })*) => {
        mod simulated {
            $($(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$file::$name(super::Cluster::simulated()).await;
            })*)*
        }
        mod real {
            $($(#[tokio::test]
            async fn $name() {
                match super::Cluster::real().await {
                    Some(cluster) => super::$file::$name(cluster).await,
                    None => println!(
                        "SKIPPED: no GHARTS_TEST_KUBECONFIG, so `{}` was not tried on a real API server",
                        stringify!($name)
                    ),
                }
            })*)*
        }
    };
}

contract!(
    writes {
        a_taken_name_is_refused,
        wrong_types_and_kinds_are_refused,
        unknown_fields_are_refused_or_warned_of,
        names_are_generated,
        deletion_respects_preconditions,
        what_is_gone_cannot_be_patched_or_put,
        a_stale_version_is_refused,
        leases_are_guarded_by_version,
        a_write_that_changes_nothing_is_no_write,
        patches_of_three_kinds,
        immutable_secrets_stay,
        finalizers_hold_an_object,
        a_dry_run_tells_what_exists_and_stores_nothing,
        the_owners_end_takes_its_dependents,
        a_jobs_pods_outlive_it_unless_told_otherwise,
        events_have_two_faces,
        an_event_may_be_about_its_own_namespace_and_carry_a_count,
        collections_are_deleted_by_selector,
    }
    pods {
        invalid_pods_are_refused_with_their_causes,
        what_a_pod_leaves_out_is_filled_in,
        a_bad_quantity_is_no_pod,
        a_long_name_is_warned_of,
        a_pod_on_no_node_goes_at_once,
        a_finished_pod_goes_at_once,
        a_pod_on_a_node_lingers_until_grace_zero,
        a_second_deletion_only_shortens_the_grace,
        status_and_spec_are_written_apart,
        a_pods_spec_is_fixed,
        a_pod_may_be_given_a_deadline_later,
        quota_demands_requests,
        quota_is_exceeded_and_freed,
        binding_puts_a_pod_on_a_node_once,
        eviction_deletes,
        logs_need_a_container_and_a_node,
    }
    access {
        rights_are_by_role,
        rights_may_name_objects,
        a_bad_token_is_nobody,
        tokens_are_requested,
        everybody_may_ask_what_they_may,
        discovery_of_the_issuer_needs_a_token,
    }
    reads {
        lists_of_nowhere_are_empty_but_creation_needs_the_namespace,
        a_watch_resumes_from_an_old_version,
        a_watch_begins_with_what_there_is,
        a_watch_from_a_compacted_version_is_gone,
        a_watch_from_the_future_is_silent_and_ends,
        a_selective_watch_sees_things_come_and_go,
        a_watch_of_no_version_is_an_error,
        lists_are_paged,
        lists_are_selected,
        a_list_from_the_future_times_out,
        metadata_alone,
        unknown_paths_are_not_found,
    }
);

/// One API under test, with a namespace of the test's own.
struct Cluster {
    admin: kube::Client,
    namespace: String,
    kind: Kind,
}

enum Kind {
    Simulated(Model),
    Real(Box<kube::Config>),
}

struct Reply {
    code: u16,
    headers: HeaderMap,
    text: String,
    json: Value,
}

impl Reply {
    #[track_caller]
    fn is(&self, code: u16) -> &Self {
        assert_eq!(self.code, code, "{}", self.text);
        self
    }

    /// A `Status` with this code, reason and message.
    #[track_caller]
    fn refused(&self, code: u16, reason: &str, message: &str) -> &Self {
        self.is(code);
        assert_eq!(self.json["kind"], "Status");
        assert_eq!(self.json["status"], "Failure");
        assert_eq!(self.json["code"], code);
        assert_eq!(
            self.json["reason"].as_str().unwrap_or_default(),
            reason,
            "{}",
            self.text
        );
        assert_eq!(self.json["message"], message);
        self
    }

    /// Like [`Self::refused`], the message known in part.
    #[track_caller]
    fn refused_like(&self, code: u16, reason: &str, part: &str) -> &Self {
        let message = self.json["message"].as_str().unwrap_or_default();
        assert!(message.contains(part), "{} does not hold {part:?}", self.text);
        self.refused(code, reason, message)
    }

    #[track_caller]
    fn causes(&self, expected: &[(&str, &str)]) {
        let found: Vec<(&str, &str)> = self.json["details"]["causes"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|c| (c["reason"].as_str().unwrap(), c["field"].as_str().unwrap()))
            .collect();
        assert_eq!(found, expected, "{}", self.text);
    }
}

impl Cluster {
    fn simulated() -> Self {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let model = Model::new(fastrand::u64(..), clock, SigningKey::shared("test").unwrap());
        let namespace = "contract".to_owned();
        model.add_namespace(&namespace);
        Self {
            admin: client(&model, model.admin_token(), &namespace),
            namespace,
            kind: Kind::Simulated(model),
        }
    }

    async fn real() -> Option<Self> {
        let path = std::env::var_os("GHARTS_TEST_KUBECONFIG")?;
        // The first of two that install it wins; either is the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let file = kube::config::Kubeconfig::read_from(path).unwrap();
        let options = kube::config::KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(file, &options).await.unwrap();
        config.default_retry = false;
        let namespace = format!("contract-{:08x}", fastrand::u32(..));
        let cluster = Self {
            admin: kube::Client::try_from(config.clone()).unwrap(),
            namespace: namespace.clone(),
            kind: Kind::Real(Box::new(config)),
        };
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        cluster.post("/api/v1/namespaces", &body).await.is(201);
        Some(cluster)
    }

    /// A client that presents `token`; nobody where it is empty.
    fn user(&self, token: &str) -> kube::Client {
        match &self.kind {
            Kind::Simulated(model) => client(model, token, &self.namespace),
            Kind::Real(config) => {
                let mut config = (**config).clone();
                config.auth_info = kube::config::AuthInfo::default();
                config.auth_info.token = (!token.is_empty()).then(|| token.to_owned().into());
                kube::Client::try_from(config).unwrap()
            }
        }
    }

    /// `/api/v1/namespaces/NAMESPACE/` + `rest`.
    fn path(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.namespace)
    }

    fn group_path(&self, group: &str, rest: &str) -> String {
        format!("/apis/{group}/v1/namespaces/{}/{rest}", self.namespace)
    }

    async fn call(&self, method: Method, path: &str, content_type: &str, body: Option<&Value>) -> Reply {
        call(&self.admin, method, path, content_type, body).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path, "", None).await
    }

    async fn post(&self, path: &str, body: &Value) -> Reply {
        self.call(Method::POST, path, "application/json", Some(body)).await
    }

    async fn put(&self, path: &str, body: &Value) -> Reply {
        self.call(Method::PUT, path, "application/json", Some(body)).await
    }

    async fn merge(&self, path: &str, body: &Value) -> Reply {
        self.call(Method::PATCH, path, "application/merge-patch+json", Some(body))
            .await
    }

    async fn strategic(&self, path: &str, body: &Value) -> Reply {
        let content_type = "application/strategic-merge-patch+json";
        self.call(Method::PATCH, path, content_type, Some(body)).await
    }

    async fn delete(&self, path: &str, options: &Value) -> Reply {
        self.call(Method::DELETE, path, "application/json", Some(options)).await
    }

    async fn pod(&self, name: &str) -> Value {
        let reply = self.post(&self.path("pods"), &pod(name)).await;
        reply.is(201);
        reply.json
    }

    async fn bound_pod(&self, name: &str) -> Value {
        self.pod(name).await;
        self.bind(name).await.is(201);
        // Until a real server's cache has the node, a deletion may take the pod for one on no node: it goes at once.
        self.cached(name, |pod| !pod["spec"]["nodeName"].is_null()).await;
        self.get(&self.path(&format!("pods/{name}"))).await.json
    }

    /// Real servers answer some requests from a cache, which may lag behind what they have stored: waits until the
    /// cached pod `holds`.
    async fn cached(&self, name: &str, holds: impl Fn(&Value) -> bool) {
        let path = self.path(&format!("pods/{name}?resourceVersion=0"));
        self.eventually("the cache has the pod as it is", async || {
            let reply = self.get(&path).await;
            reply.code == 200 && holds(&reply.json)
        })
        .await;
    }

    async fn bind(&self, name: &str) -> Reply {
        let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"kind": "Node", "name": "n1"}});
        self.post(&self.path(&format!("pods/{name}/binding")), &body).await
    }

    async fn phase(&self, name: &str, phase: &str) {
        let path = self.path(&format!("pods/{name}/status"));
        self.strategic(&path, &json!({"status": {"phase": phase}}))
            .await
            .is(200);
    }

    async fn account(&self, name: &str) {
        let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        self.post(&self.path("serviceaccounts"), &body).await.is(201);
    }

    async fn token(&self, account: &str) -> String {
        let path = self.path(&format!("serviceaccounts/{account}/token"));
        let reply = self.post(&path, &token_request(&json!({}))).await;
        reply.is(201);
        reply.json["status"]["token"].as_str().unwrap().to_owned()
    }

    async fn grant(&self, account: &str, rules: &Value) {
        let rbac = "rbac.authorization.k8s.io";
        let role = json!({"apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": {"name": account},
            "rules": rules});
        let binding = json!({"apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": {"name": account},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": account},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": self.namespace}]});
        self.post(&self.group_path(rbac, "roles"), &role).await.is(201);
        self.post(&self.group_path(rbac, "rolebindings"), &binding)
            .await
            .is(201);
    }

    async fn quota(&self, hard: &Value) {
        let body =
            json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "rq"}, "spec": {"hard": hard}});
        self.post(&self.path("resourcequotas"), &body).await.is(201);
        self.eventually("the quota is counted", async || {
            self.get(&self.path("resourcequotas/rq")).await.json["status"]["hard"] == *hard
        })
        .await;
    }

    /// Real servers do some things a moment later.
    async fn eventually(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        for _ in 0..100 {
            if holds().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("never: {what}");
    }

    /// What a watch tells first, which is `expected`, each as `TYPE name`: a loaded server may take seconds for it.
    async fn watch(&self, path: &str, query: &str, expected: &[&str]) -> Vec<Value> {
        let path = format!("{path}?watch=true&timeoutSeconds=60&{query}");
        let request = Request::get(path).body(kube::client::Body::empty()).unwrap();
        let response = self.admin.send(request).await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        let mut stream = response.into_body().into_data_stream();
        let (mut text, mut events) = (String::new(), Vec::new());
        while events.len() < expected.len() {
            let chunk = stream.next().await.transpose().unwrap();
            let chunk = chunk.unwrap_or_else(|| panic!("ended after {:?}, not {expected:?}", summary(&events)));
            text += std::str::from_utf8(&chunk).unwrap();
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            events = whole.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        }
        assert_eq!(summary(&events), expected);
        events
    }
}

async fn call(client: &kube::Client, method: Method, path: &str, content_type: &str, body: Option<&Value>) -> Reply {
    let mut request = Request::builder().method(method).uri(path);
    if !content_type.is_empty() {
        request = request.header("content-type", content_type);
    }
    let bytes = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
    send(client, request.body(bytes).unwrap()).await
}

async fn send(client: &kube::Client, request: Request<Vec<u8>>) -> Reply {
    let response = client.send(request.map(kube::client::Body::from)).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes: Bytes = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    Reply {
        code: parts.status.as_u16(),
        headers: parts.headers,
        json: serde_json::from_str(&text).unwrap_or_default(),
        text,
    }
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "runner", "image": "runner:1"}]}})
}

fn secret(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"a": "b"}})
}

fn token_request(spec: &Value) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
}

fn summary(events: &[Value]) -> Vec<String> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    events
        .iter()
        .map(|e| format!("{} {}", text(&e["type"]), text(&e["object"]["metadata"]["name"])))
        .collect()
}

fn names(list: &Value) -> Vec<&str> {
    list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|o| o["metadata"]["name"].as_str().unwrap())
        .collect()
}

//! The few Kubernetes calls that the daemon makes, each under a deadline, each answer classified.
//!
//! No right to read Secrets is needed. The client's own retries are off (see `app`): what is tried again, and
//! when, is the planner's decision; only the start of a runner repeats its writes at once, by name, here.

use std::{fmt, time::Duration};

use futures::{Stream, StreamExt as _, future};
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, Secret};
use kube::{
    Api, Client, Resource as _,
    api::{DeleteParams, GetParams, ListParams, LogParams, Patch, PatchParams, PostParams, Preconditions, Request},
    core::{NamespaceResourceScope, PartialObjectMeta, request},
    runtime::watcher,
};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value;
use tokio::time::Instant;
use tower::timeout::Timeout;

use super::{keys, observe::WatchedPod};
use crate::ids::RunnerName;

/// No call of ours takes the API server so long unless it or the way to it is ill.
const CALL: Duration = Duration::from_secs(15);
/// The answer to a list or a watch begins within so long, or never.
const ANSWER: Duration = Duration::from_secs(30);
/// A list is read a page at a time: the next event comes within so long, or never.
const LIST_SILENCE: Duration = Duration::from_secs(30);
/// The API server is asked to end a watch after so many seconds; it goes on from where it was, at the cost of one
/// call. One that has not ended 5 s later has lost its connection: nothing else tells that from a quiet one, since
/// bookmarks are not promised.
const WATCH_SECONDS: u32 = 60;
/// A watch that ends in time and has brought nothing may be one that can bring nothing: its version may be of the future
/// (etcd was restored), or the cache behind it stands still. So the list is read anew so often.
const LISTED_ANEW: Duration = Duration::from_mins(10);
/// Tries of one write within a runner's start, and the pause before each further one.
const START_TRIES: u32 = 5;
const START_PAUSE: Duration = Duration::from_millis(250);
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// What an unsuccessful call means to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gone,
    Exists,
    /// The object is malformed: the template's fault.
    Invalid,
    Forbidden,
    /// 403 `exceeded quota`: same reason as [`Self::Forbidden`], only the text differs.
    ResourceQuota,
    /// An admission webhook is ill, which may be asked about some objects only.
    WebhookFails,
    /// The uid is another one: what was meant is gone.
    Conflict,
    /// Throttled, failing or unreachable: worth repeating; the call may have had its effect.
    Unavailable,
}

/// The API server did not do as asked; the text is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterError {
    pub kind: Kind,
    pub operation: &'static str,
    pub message: String,
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.message)
    }
}

impl std::error::Error for ClusterError {}

/// Pods and Secrets of one namespace.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
    pods: Api<WatchedPod>,
    secrets: Api<Secret>,
    events: Api<Event>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// As much of a new pod as has to be read.
#[derive(Deserialize)]
struct Made {
    metadata: MadeMetadata,
}

#[derive(Deserialize)]
struct MadeMetadata {
    uid: String,
}

/// A failed pod that is kept, as its annotations tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedPod {
    pub name: RunnerName,
    /// Stable code, snake case.
    pub reason: String,
    /// Kubernetes' own words.
    pub message: Option<String>,
    /// RFC 3339.
    pub kept_until: String,
}

/// What the watch shows.
#[derive(Debug)]
pub enum Sighting {
    /// A full list begins: what it does not name no longer exists.
    ListBegins,
    Pod(Box<WatchedPod>),
    Gone(RunnerName),
    ListEnds,
    /// The watch was interrupted; it is begun again.
    Interrupted(String),
}

impl Cluster {
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            pods: Api::namespaced(client.clone(), namespace),
            secrets: Api::namespaced(client.clone(), namespace),
            events: Api::namespaced(client.clone(), namespace),
            namespace: namespace.to_owned(),
            client,
        }
    }

    /// Objects of one kind in the runner namespace.
    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The uid of the runner namespace's own object: what tells this installation's names from others'.
    pub async fn namespace_uid(&self) -> Result<String, ClusterError> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespace = call("get the namespace", api.get(&self.namespace)).await?;
        Ok(namespace.metadata.uid.unwrap_or_default())
    }

    /// Creates a pod and returns its uid. Repeats what may be repeated: the name is ours alone, so a pod that
    /// exists after a lost answer is the one that we made. `may_go_on` is asked before each repetition.
    pub async fn create_pod(&self, pod: &Pod, may_go_on: impl Fn() -> bool) -> Result<String, ClusterError> {
        let operation = "create the pod";
        let (url, params) = (self.pods.resource_url(), PostParams::default());
        let create = || self.create::<_, Made>(operation, url, pod, &params);
        let made = match repeat(create, may_go_on).await {
            Err((error, tries)) if error.kind == Kind::Exists && tries > 1 => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let get = Request::new(url).get(name, &GetParams::default());
                self.send(operation, get).await
            }
            other => other.map_err(|(error, _)| error),
        }?;
        Ok(made.metadata.uid)
    }

    pub async fn create_secret(&self, secret: &Secret) -> Result<(), ClusterError> {
        let operation = "create the secret";
        let (url, params) = (self.secrets.resource_url(), PostParams::default());
        let create = || self.create::<_, IgnoredAny>(operation, url, secret, &params);
        match repeat(create, || true).await {
            Ok(_) => Ok(()),
            Err((error, tries)) if error.kind == Kind::Exists && tries > 1 => Ok(()),
            Err((error, _)) => Err(error),
        }
    }

    /// Whether a runner's Secret is missing, without the right to read any: a dry-run create succeeds then.
    pub async fn secret_missing(&self, secret: &Secret) -> Result<bool, ClusterError> {
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let operation = "look for the secret";
        let created = self.create::<_, IgnoredAny>(operation, self.secrets.resource_url(), secret, &dry);
        match created.await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == Kind::Exists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Tried once: nothing depends on it.
    pub async fn create_event(&self, event: &Event) -> Result<(), ClusterError> {
        let (url, params) = (self.events.resource_url(), PostParams::default());
        let created = self.create::<_, IgnoredAny>("create the event", url, event, &params);
        created.await.map(drop)
    }

    /// The last lines of a container's log; the pod's own right, `pods/log`, is needed.
    pub async fn logs(&self, name: &RunnerName, container: &str, tail: i64) -> Result<String, ClusterError> {
        let params = LogParams {
            container: Some(container.to_owned()),
            tail_lines: Some(tail),
            ..LogParams::default()
        };
        call("read the log", self.api::<Pod>().logs(name.as_str(), &params)).await
    }

    /// Failed pods of ours that are kept.
    pub async fn failed_pods(&self) -> Result<Vec<FailedPod>, ClusterError> {
        let ours = format!("{}={},{}", keys::MANAGED_BY, keys::MANAGED_BY_VALUE, keys::FAILED);
        let pods: Api<Pod> = self.api();
        let pods = call(
            "list the failed pods",
            pods.list_metadata(&ListParams::default().labels(&ours)),
        )
        .await?;
        let read = |pod: PartialObjectMeta<Pod>| {
            let annotations = pod.metadata.annotations.unwrap_or_default();
            let text = |key: &str| annotations.get(key).cloned();
            Some(FailedPod {
                name: RunnerName::new(&pod.metadata.name?),
                reason: text(keys::FAILED).unwrap_or_default(),
                message: text(keys::FAILED_MESSAGE),
                kept_until: text(keys::KEPT_UNTIL).unwrap_or_default(),
            })
        };
        Ok(pods.items.into_iter().filter_map(read).collect())
    }

    /// Every runner's pod that there is.
    pub async fn runner_pods(&self) -> Result<Vec<WatchedPod>, ClusterError> {
        let listed = call("list the pods", self.pods.list(&ListParams::default().labels(&ours()))).await?;
        Ok(listed.items)
    }

    /// Merge patch; a pod that is gone needs none.
    ///
    /// With `version`: only as long as that is its resource version; else it is refused.
    pub async fn patch_pod(
        &self,
        name: &RunnerName,
        mut patch: Value,
        version: Option<&str>,
    ) -> Result<(), ClusterError> {
        if let Some(version) = version {
            patch["metadata"]["resourceVersion"] = version.into();
        }
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let patch = Request::new(self.pods.resource_url()).patch_metadata(name.as_str(), &params, &patch);
        match self.send::<IgnoredAny>("patch the pod", patch).await.map(drop) {
            Err(error) if error.kind == Kind::Gone => Ok(()),
            other => other,
        }
    }

    /// Deletes exactly the pod with this uid.
    ///
    /// With `version`: only as long as that is its resource version; another one is a [`Kind::Conflict`].
    pub async fn delete_pod(&self, name: &RunnerName, uid: &str, version: Option<&str>) -> Result<(), ClusterError> {
        let preconditions = Preconditions {
            uid: (!uid.is_empty()).then(|| uid.to_owned()),
            resource_version: version.map(str::to_owned),
        };
        let params = DeleteParams {
            preconditions: (preconditions != Preconditions::default()).then_some(preconditions),
            ..DeleteParams::default()
        };
        let delete = Request::new(self.pods.resource_url()).delete(name.as_str(), &params);
        match self.send::<IgnoredAny>("delete the pod", delete).await.map(drop) {
            Err(error) if error.kind == Kind::Conflict && version.is_some() => Err(error),
            other => absent_is_fine(other),
        }
    }

    async fn create<T: Serialize, A: DeserializeOwned>(
        &self,
        operation: &'static str,
        url: &str,
        object: &T,
        params: &PostParams,
    ) -> Result<A, ClusterError> {
        let request = serde_json::to_vec(object)
            .map_err(request::Error::SerializeBody)
            .and_then(|body| Request::new(url).create(params, body));
        self.send(operation, request).await
    }

    /// Reads no more of the answer than the caller needs: the API's whole objects cost more to decode than to ask for.
    async fn send<A: DeserializeOwned>(
        &self,
        operation: &'static str,
        request: Result<http::Request<Vec<u8>>, request::Error>,
    ) -> Result<A, ClusterError> {
        let answer = async { self.client.request(request.map_err(kube::Error::BuildRequest)?).await };
        call(operation, answer).await
    }

    /// Our pods, from now on and for ever: lists, watches, and begins again after every interruption.
    pub fn watch(&self) -> impl Stream<Item = Sighting> + Send + use<> {
        let config = watcher::Config::default().labels(&ours()).timeout(WATCH_SECONDS);
        let pods: Api<WatchedPod> = Api::namespaced(answered_in_time(self.client.clone()), &self.namespace);
        let fresh = move || Box::pin(watcher(pods.clone(), config.clone()));
        let begun = (fresh(), fresh, true, Instant::now());
        futures::stream::unfold(begun, |(mut watch, fresh, mut listing, mut listed)| async move {
            // A watch shows nothing for as long as no pod changes, and knows by itself when its connection is dead.
            let silence = if listing {
                LIST_SILENCE
            } else {
                LISTED_ANEW.saturating_sub(listed.elapsed())
            };
            let sighting = match tokio::time::timeout(silence, watch.next()).await {
                Ok(Some(Ok(event))) => {
                    let was_listing = listing;
                    listing = matches!(event, watcher::Event::Init | watcher::Event::InitApply(_));
                    if was_listing && !listing {
                        listed = Instant::now();
                    }
                    sighting(event)
                }
                Err(_) if !listing => {
                    (watch, listing) = (fresh(), true);
                    None
                }
                Ok(Some(Err(error))) => {
                    // The watcher recovers by itself at its next poll; the pause keeps that from being a storm.
                    tokio::time::sleep(WATCH_PAUSE).await;
                    Some(Sighting::Interrupted(error.to_string()))
                }
                Ok(None) | Err(_) => {
                    (watch, listing) = (fresh(), true);
                    Some(Sighting::Interrupted("the list fell silent".to_owned()))
                }
            };
            Some((sighting, (watch, fresh, listing, listed)))
        })
        .filter_map(future::ready)
    }
}

/// The same client, with a bound on the time until an answer begins, and until a refusal is read: a watcher has none for
/// that.
fn answered_in_time(client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    let send = tower::service_fn(move |request| {
        let client = client.clone();
        async move {
            let answer = client.send(request).await?;
            if answer.status().is_success() {
                return Ok(answer);
            }
            let (parts, body) = answer.into_parts();
            let refusal = body.collect().await?.to_bytes();
            Ok::<_, tower::BoxError>(http::Response::from_parts(parts, kube::client::Body::from(refusal)))
        }
    });
    Client::new(Timeout::new(send, ANSWER), namespace)
}

/// Selects runners' pods.
fn ours() -> String {
    format!(
        "{}={},{}={}",
        keys::MANAGED_BY,
        keys::MANAGED_BY_VALUE,
        keys::COMPONENT,
        keys::COMPONENT_VALUE
    )
}

fn sighting(event: watcher::Event<WatchedPod>) -> Option<Sighting> {
    Some(match event {
        watcher::Event::Init => Sighting::ListBegins,
        watcher::Event::InitApply(pod) | watcher::Event::Apply(pod) => Sighting::Pod(Box::new(pod)),
        watcher::Event::Delete(pod) => Sighting::Gone(RunnerName::new(pod.meta().name.as_deref()?)),
        watcher::Event::InitDone => Sighting::ListEnds,
    })
}

pub(super) fn absent_is_fine(result: Result<(), ClusterError>) -> Result<(), ClusterError> {
    match result {
        Err(error) if matches!(error.kind, Kind::Gone | Kind::Conflict) => Ok(()),
        other => other,
    }
}

pub(super) async fn call<T>(
    operation: &'static str,
    future: impl Future<Output = kube::Result<T>>,
) -> Result<T, ClusterError> {
    match tokio::time::timeout(CALL, future).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(classify(operation, &error)),
        Err(_) => Err(ClusterError {
            kind: Kind::Unavailable,
            operation,
            message: format!("no answer within {} s", CALL.as_secs()),
        }),
    }
}

/// Repeats while unavailable and permitted; tells how many tries it took.
async fn repeat<T, F>(make: impl Fn() -> F, may_go_on: impl Fn() -> bool) -> Result<T, (ClusterError, u32)>
where
    F: Future<Output = Result<T, ClusterError>>,
{
    let mut tries = 1;
    loop {
        match make().await {
            Ok(value) => return Ok(value),
            Err(error) if matches!(error.kind, Kind::Unavailable | Kind::WebhookFails) && tries < START_TRIES => {
                tokio::time::sleep(START_PAUSE * (1 << tries)).await;
                if !may_go_on() {
                    return Err((error, tries));
                }
                tries += 1;
            }
            Err(error) => return Err((error, tries)),
        }
    }
}

/// What a 403 of the admission of quotas says, where a place may become free. (`failed quota: ... must specify` finds the
/// pod itself wanting.)
const QUOTA: [&str; 2] = ["exceeded quota", "status unknown for quota"];
/// What a 500 says of an admission that is ill.
const WEBHOOK: &str = "failed calling webhook";

fn names_object(status: &kube::core::Status) -> bool {
    let named = status.details.as_ref().is_some_and(|details| !details.name.is_empty());
    named || status.message.contains("\" not found")
}

/// Whether a 403 is an admission's word on one object, not on what we may do: `pods "NAME" is forbidden: violates
/// PodSecurity ...`, `... no PriorityClass with name ...`, `admission webhook "NAME" denied the request: ...`. Rights
/// that we lack, and a namespace that goes, are about all.
fn is_about_object(message: &str) -> bool {
    let rights = message.contains("User \"") && message.contains(" cannot ");
    let of_object = message.contains("\" is forbidden: ") || message.contains(" denied the request");
    let passes = ["being terminated", "not yet ready to handle request"];
    of_object && !rights && !passes.iter().any(|text| message.contains(text))
}

/// The kind of an error, by status, reason and, for quotas, text.
pub fn classify(operation: &'static str, error: &kube::Error) -> ClusterError {
    let (kind, message) = match error {
        kube::Error::Api(status) => {
            let kind = match (status.code, status.reason.as_str()) {
                // Only what names the object is an answer about it: other 404s come of a proxy, or of an API server that
                // does not know the path, and 410 of a list that is too old.
                (404, _) if names_object(status) => Kind::Gone,
                (409, "AlreadyExists") => Kind::Exists,
                (409, _) if status.message.contains("UID in the precondition") => Kind::Conflict,
                (400 | 422, _) => Kind::Invalid,
                (403, _) if QUOTA.iter().any(|text| status.message.contains(text)) => Kind::ResourceQuota,
                (403, _) if is_about_object(&status.message) => Kind::Invalid,
                (401 | 403, _) => Kind::Forbidden,
                (500, _) if status.message.contains(WEBHOOK) => Kind::WebhookFails,
                // Any other 409 too: two writers at one moment, of the object or of a quota's figures. Nothing was done,
                // and the same may work at once.
                _ => Kind::Unavailable,
            };
            (kind, status.message.clone())
        }
        other => (Kind::Unavailable, other.to_string()),
    };
    ClusterError {
        kind,
        operation,
        message,
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn kind(code: u16, reason: &str, message: &str) -> Kind {
        let status = Status::failure(message, reason).with_code(code);
        classify("test", &kube::Error::Api(Box::new(status))).kind
    }

    #[test]
    fn b31_refusals_of_the_api_server_are_told_apart() {
        assert_eq!(kind(409, "AlreadyExists", "pods \"p1\" already exists"), Kind::Exists);
        assert_eq!(kind(409, "Conflict", "the UID in the precondition"), Kind::Conflict);
        let contended = "Operation cannot be fulfilled on resourcequotas \"q\": the object has been modified";
        assert_eq!(kind(409, "Conflict", contended), Kind::Unavailable);
        assert_eq!(kind(422, "Invalid", "spec.containers: Required"), Kind::Invalid);
        assert_eq!(kind(400, "BadRequest", "quantities must match"), Kind::Invalid);
        assert_eq!(
            kind(403, "Forbidden", "pods \"q1\" is forbidden: exceeded quota: rq"),
            Kind::ResourceQuota
        );
        assert_eq!(
            kind(
                403,
                "Forbidden",
                "pods \"q1\" is forbidden: failed quota: rq: must specify limits.cpu for: runner"
            ),
            Kind::Invalid
        );
        let webhook =
            "Internal error occurred: failed calling webhook \"w.example\": failed to call webhook: Post \"https://w\"";
        assert_eq!(kind(500, "InternalError", webhook), Kind::WebhookFails);
        assert_eq!(kind(403, "Forbidden", "User \"x\" cannot create"), Kind::Forbidden);
        let rights = "pods \"q1\" is forbidden: User \"x\" cannot patch resource \"pods\" in API group \"\"";
        assert_eq!(kind(403, "Forbidden", rights), Kind::Forbidden);
        let starting = "pods \"q1\" is forbidden: not yet ready to handle request";
        assert_eq!(kind(403, "Forbidden", starting), Kind::Forbidden);
        let new_quota = "pods \"q1\" is forbidden: status unknown for quota: rq, resources: pods";
        assert_eq!(kind(403, "Forbidden", new_quota), Kind::ResourceQuota);
        let going =
            "pods \"q1\" is forbidden: unable to create new content in namespace r because it is being terminated";
        assert_eq!(kind(403, "Forbidden", going), Kind::Forbidden);
        assert_eq!(kind(401, "Unauthorized", "Unauthorized"), Kind::Forbidden);
        assert_eq!(kind(404, "NotFound", "pods \"p\" not found"), Kind::Gone);
        let no_path = "the server could not find the requested resource";
        assert_eq!(kind(404, "NotFound", no_path), Kind::Unavailable);
        assert_eq!(
            kind(404, "Failed to parse error data", "404 page not found"),
            Kind::Unavailable
        );
        assert_eq!(kind(410, "Expired", "too old resource version"), Kind::Unavailable);
        assert_eq!(kind(429, "TooManyRequests", "slow down"), Kind::Unavailable);
        assert_eq!(kind(503, "ServiceUnavailable", ""), Kind::Unavailable);
    }

    #[test]
    fn b8_a_403_about_one_sets_pod_says_nothing_about_what_we_may_do() {
        for about_the_pod in [
            "pods \"q1\" is forbidden: error looking up service account runners/deploy: serviceaccount \"deploy\" not found",
            "pods \"q1\" is forbidden: no PriorityClass with name gold was found",
            "pods \"q1\" is forbidden: violates PodSecurity \"restricted:latest\": privileged",
            "pods \"q1\" is forbidden: maximum cpu usage per Container is 1, but limit is 2",
            "admission webhook \"policy.example\" denied the request: no team label",
        ] {
            assert_eq!(kind(403, "Forbidden", about_the_pod), Kind::Invalid, "{about_the_pod}");
        }
    }
}

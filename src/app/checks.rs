//! What `check` tries, beyond the file. Nothing is changed anywhere.
//!
//! Each check is one line of output. What a check needs is made when it runs, so that one that cannot be
//! made (no cluster, say) is itself a failed line with a remedy.

mod peers;

use std::{fmt, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use http::HeaderMap;
use jiff::Timestamp;
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::Namespace,
};
use kube::{Api, Client, api::PostParams, client::Body};
use tokio::time::timeout;

use super::compose;
use crate::{
    clock::Clock,
    config::{Config, Kubernetes, Oidc},
    http::date,
};

/// One call of a check may take this long.
const DEADLINE: Duration = Duration::from_secs(15);
/// Signed tokens are refused when clocks differ by a minute; this warns before that.
const CLOCK_LIMIT: Duration = Duration::from_secs(30);

const UNREACHABLE: &str = "check the address in the kubeconfig, the network, and the credentials";

/// What the daemon does in the runner namespace (B35): resource, verbs.
const RIGHTS: &[(&str, &[&str])] = &[
    ("pods", &["get", "list", "watch", "create", "patch", "delete"]),
    ("secrets", &["create"]),
    ("events", &["create"]),
];
/// What it removes after runners of a kubernetes mode (B51).
const LEFTOVER_RIGHTS: &[(&str, &str, &[&str])] = &[
    ("", "secrets", &["list", "delete"]),
    ("batch", "jobs", &["list", "delete"]),
];

/// One thing to try.
pub struct Check {
    pub name: String,
    /// What was found, or why it failed and what mends it.
    pub run: BoxFuture<'static, Result<String, CheckFailure>>,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckFailure {
    pub message: String,
    pub remedy: String,
}

impl CheckFailure {
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

/// Everything that can be tried with this configuration, in the order of the output.
pub async fn checks(config: &Config) -> Vec<Check> {
    let client = client(&config.kubernetes).await;
    let mut checks = match &client {
        Ok(client) => kubernetes(client, config, &Clock::system()),
        Err(failure) => {
            let failure = failure.clone();
            vec![Check {
                name: "Kubernetes can be found".to_owned(),
                run: async move { Err(failure) }.boxed(),
            }]
        }
    };
    checks.extend(peers::checks(config, client.ok()));
    checks
}

/// In-cluster, then `KUBECONFIG`, then `~/.kube/config`, unless the file names one.
async fn client(config: &Kubernetes) -> Result<Client, CheckFailure> {
    let remedy = "run in a cluster, set KUBECONFIG, or name kubernetes.kubeconfig and kubernetes.context";
    let failed = |error: &dyn fmt::Display| CheckFailure::new(error.to_string(), remedy);
    compose::kubernetes_client(config).await.map_err(|e| failed(&e))
}

/// Rights, namespace and clock, as the API server sees them.
fn kubernetes(client: &Client, config: &Config, clock: &Clock) -> Vec<Check> {
    let namespace = &config.kubernetes.namespace;
    let mut checks = vec![
        reachable(client.clone(), clock.clone()),
        namespace_exists(client.clone(), namespace.clone()),
    ];
    for (resource, verbs) in RIGHTS {
        for verb in *verbs {
            checks.push(may(client.clone(), Right::new(namespace, verb, resource)));
        }
    }
    if config.scale_sets.iter().any(|set| set.container_mode.leaves_things()) {
        for (group, resource, verbs) in LEFTOVER_RIGHTS {
            for verb in *verbs {
                let right = Right {
                    group: (*group).to_owned(),
                    ..Right::new(namespace, verb, resource)
                };
                checks.push(may(client.clone(), right));
            }
        }
    }
    let own = compose::lease_namespace(client, config);
    // What does not exist yet cannot be named: the right to create one is for all of them.
    for (verb, name) in [
        ("create", None),
        ("get", Some(&config.lease.name)),
        ("update", Some(&config.lease.name)),
    ] {
        let right = Right {
            group: "coordination.k8s.io".to_owned(),
            name: name.cloned(),
            ..Right::new(&own, verb, "leases")
        };
        checks.push(may(client.clone(), right));
    }
    if let Some(Oidc::Kubernetes {
        service_account,
        namespace,
        ..
    }) = config.gharts.as_ref().map(|gharts| &gharts.oidc)
    {
        let own = namespace
            .clone()
            .unwrap_or_else(|| client.default_namespace().to_owned());
        let right = Right {
            subresource: Some("token".to_owned()),
            name: Some(service_account.clone()),
            ..Right::new(&own, "create", "serviceaccounts")
        };
        checks.push(may(client.clone(), right));
    }
    checks
}

fn reachable(client: Client, clock: Clock) -> Check {
    Check {
        name: "the Kubernetes API server answers, and its clock agrees".to_owned(),
        run: async move {
            let request = http::Request::get("/version")
                .body(Body::empty())
                .map_err(|error| CheckFailure::new(error.to_string(), "report this as a bug"))?;
            let answer = within(client.send(request), UNREACHABLE).await?;
            if !answer.status().is_success() {
                return Err(CheckFailure::new(
                    format!("it answered {}", answer.status()),
                    UNREACHABLE,
                ));
            }
            clock_agrees(answer.headers(), clock.now())
        }
        .boxed(),
    }
}

/// Compares the `Date` of any peer's answer with our clock.
pub(super) fn clock_agrees(headers: &HeaderMap, now: Timestamp) -> Result<String, CheckFailure> {
    let Some(theirs) = date(headers) else {
        return Ok("it does not tell the time".to_owned());
    };
    let apart = now.duration_since(theirs).unsigned_abs();
    if apart > CLOCK_LIMIT {
        return Err(CheckFailure::new(
            format!("the clocks are {} s apart", apart.as_secs()),
            "synchronise this host's clock (NTP): tokens are refused when clocks differ",
        ));
    }
    Ok(format!("{} s apart", apart.as_secs()))
}

fn namespace_exists(client: Client, namespace: String) -> Check {
    Check {
        name: format!("the namespace {namespace} exists and may be read"),
        run: async move {
            let api: Api<Namespace> = Api::all(client);
            let remedy =
                format!("create it, or correct kubernetes.namespace; the daemon needs `get` on namespace {namespace}");
            let found = within(api.get(&namespace), &remedy).await?;
            if found.metadata.deletion_timestamp.is_some() {
                return Err(CheckFailure::new(
                    "it is being deleted",
                    "wait for its end and create it again, or correct kubernetes.namespace",
                ));
            }
            Ok(String::new())
        }
        .boxed(),
    }
}

/// One verb on one resource.
#[derive(Clone, Debug)]
struct Right {
    namespace: String,
    verb: String,
    /// API group; empty for the core group.
    group: String,
    resource: String,
    subresource: Option<String>,
    name: Option<String>,
}

impl Right {
    fn new(namespace: &str, verb: &str, resource: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            verb: verb.to_owned(),
            group: String::new(),
            resource: resource.to_owned(),
            subresource: None,
            name: None,
        }
    }

    fn words(&self) -> String {
        let Self {
            namespace,
            verb,
            resource,
            ..
        } = self;
        let sub = self.subresource.as_ref().map(|s| format!("/{s}")).unwrap_or_default();
        let name = self.name.as_ref().map(|n| format!(" of {n}")).unwrap_or_default();
        format!("{verb} {resource}{sub}{name} in {namespace}")
    }

    fn review(&self) -> SelfSubjectAccessReview {
        SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    // The new Events API shares its name with the core one; the daemon writes core events.
                    group: Some(self.group.clone()),
                    namespace: Some(self.namespace.clone()),
                    verb: Some(self.verb.clone()),
                    resource: Some(self.resource.clone()),
                    subresource: self.subresource.clone(),
                    name: self.name.clone(),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        }
    }
}

fn may(client: Client, right: Right) -> Check {
    Check {
        name: format!("may {}", right.words()),
        run: async move {
            let api: Api<SelfSubjectAccessReview> = Api::all(client);
            let remedy = format!(
                "bind a Role that allows the daemon's service account to {}",
                right.words()
            );
            let review = within(api.create(&PostParams::default(), &right.review()), &remedy).await?;
            match review.status {
                Some(status) if status.allowed => Ok(String::new()),
                Some(status) => Err(CheckFailure::new(
                    status
                        .reason
                        .filter(|r| !r.is_empty())
                        .unwrap_or_else(|| "not allowed".to_owned()),
                    remedy,
                )),
                None => Err(CheckFailure::new("the API server gave no verdict", remedy)),
            }
        }
        .boxed(),
    }
}

/// A call under the deadline. `remedy` mends what the API server itself refused; where it never answered,
/// no Role helps.
async fn within<T>(call: impl Future<Output = kube::Result<T>>, remedy: &str) -> Result<T, CheckFailure> {
    match timeout(DEADLINE, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(CheckFailure::new(
            format!("{} ({})", status.message, status.code),
            remedy,
        )),
        Ok(Err(other)) => Err(CheckFailure::new(chain(&other), UNREACHABLE)),
        Err(_) => Err(CheckFailure::new(
            format!("no answer within {} s", DEADLINE.as_secs()),
            UNREACHABLE,
        )),
    }
}

/// An error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::BodyExt as _;

    use http::header::DATE;

    use super::*;

    /// An API server that allows everything but to create secrets.
    fn client() -> Client {
        let service = tower::service_fn(|request: http::Request<Body>| async move {
            let bytes = request.into_body().collect().await.unwrap().to_bytes();
            let mut review: SelfSubjectAccessReview = serde_json::from_slice(&bytes).unwrap();
            let asked = review.spec.resource_attributes.clone().unwrap();
            let refused = asked.resource.as_deref() == Some("secrets");
            review.status = Some(k8s_openapi::api::authorization::v1::SubjectAccessReviewStatus {
                allowed: !refused,
                reason: refused.then(|| "no RBAC rule".to_owned()),
                ..Default::default()
            });
            let body = Body::from(serde_json::to_vec(&review).unwrap());
            Ok::<_, Infallible>(http::Response::new(body))
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn b35_each_right_is_asked_for_and_a_missing_one_names_its_role() {
        let granted = may(client(), Right::new("runners", "watch", "pods"));
        assert_eq!(granted.name, "may watch pods in runners");
        assert_eq!(granted.run.await, Ok(String::new()));
        let refused = may(client(), Right::new("runners", "create", "secrets")).run.await;
        assert_eq!(
            refused,
            Err(CheckFailure::new(
                "no RBAC rule",
                "bind a Role that allows the daemon's service account to create secrets in runners"
            ))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_costs_one_deadline_and_is_not_blamed_on_a_role() {
        let service = tower::service_fn(|_: http::Request<Body>| async {
            std::future::pending::<Result<http::Response<Body>, Infallible>>().await
        });
        let check = may(Client::new(service, "default"), Right::new("runners", "get", "pods"));
        let failure = check.run.await.unwrap_err();
        assert_eq!(failure, CheckFailure::new("no answer within 15 s", UNREACHABLE));
    }

    #[test]
    fn clocks_may_differ_by_half_a_minute() {
        let mut headers = HeaderMap::new();
        headers.insert(DATE, "Mon, 23 Nov 2026 08:00:00 GMT".parse().unwrap());
        let at = |text: &str| clock_agrees(&headers, text.parse().unwrap());
        assert_eq!(at("2026-11-23T08:00:29Z"), Ok("29 s apart".to_owned()));
        let failure = at("2026-11-23T07:58:00Z").unwrap_err();
        assert_eq!(failure.message, "the clocks are 120 s apart");
    }
}

//! What an administrator puts into the cluster for the daemon: namespaces, a service account, and Roles with
//! exactly the rights that it needs. Through the API, so that it serves a real cluster as well.

use kube::{
    Api,
    api::{DynamicObject, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};

use super::{TOKEN_LIFE, WorldError};

/// Where the runners live.
pub const RUNNER_NAMESPACE: &str = "runners";
/// Where the daemon's service account is.
pub const DAEMON_NAMESPACE: &str = "gharts-listener";
/// The daemon's service account.
pub const ACCOUNT: &str = "gharts-listener";

/// By which one of the daemon's replicas leads.
pub const LEASE: &str = "gharts-listener";

/// The service account's name as a user of the API server, and the subject of its tokens.
pub fn account_name() -> String {
    format!("system:serviceaccount:{DAEMON_NAMESPACE}:{ACCOUNT}")
}

/// Makes all of it and gives the daemon's token. What is there already stays.
pub async fn install(admin: &kube::Client) -> Result<String, WorldError> {
    for object in objects() {
        create(admin, &object).await?;
    }
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(admin.clone(), DAEMON_NAMESPACE);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [], "expirationSeconds": TOKEN_LIFE.as_secs()}});
    let answer: Value = accounts
        .create_subresource("token", ACCOUNT, &PostParams::default(), &request)
        .await?;
    match answer["status"]["token"].as_str() {
        Some(token) if !token.is_empty() => Ok(token.to_owned()),
        _ => Err(WorldError::NoToken),
    }
}

/// One more namespace for runners, where the same service account has the same rights; and a Lease of its own, for
/// another deployment.
pub async fn install_runners(admin: &kube::Client, namespace: &str) -> Result<(), WorldError> {
    create(admin, &namespace_object(namespace)).await?;
    for object in granted(namespace, &[runner_rules(namespace), lease_rules()].concat()) {
        create(admin, &object).await?;
    }
    Ok(())
}

async fn create(admin: &kube::Client, object: &Value) -> Result<(), WorldError> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = match text("/apiVersion").split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", text("/apiVersion")),
    };
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("/kind")));
    let api: Api<DynamicObject> = match text("/metadata/namespace") {
        "" => Api::all_with(admin.clone(), &resource),
        namespace => Api::namespaced_with(admin.clone(), namespace, &resource),
    };
    let object: DynamicObject = serde_json::from_value(object.clone())
        .map_err(|error| WorldError::Kubernetes(kube::Error::SerdeError(error)))?;
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn objects() -> Vec<Value> {
    let mut all = vec![
        namespace_object(RUNNER_NAMESPACE),
        namespace_object(DAEMON_NAMESPACE),
        json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": ACCOUNT, "namespace": DAEMON_NAMESPACE}}),
    ];
    all.extend(granted(RUNNER_NAMESPACE, &runner_rules(RUNNER_NAMESPACE)));
    all.extend(granted(DAEMON_NAMESPACE, &[token_rules(), lease_rules()].concat()));
    all
}

/// A Role and its binding to the daemon.
fn granted(namespace: &str, rules: &[Value]) -> [Value; 2] {
    let metadata = json!({"name": "gharts-listener", "namespace": namespace});
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata,
        "rules": rules});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "gharts-listener"},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": DAEMON_NAMESPACE}]});
    [role, binding]
}

fn namespace_object(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn runner_rules(namespace: &str) -> Vec<Value> {
    vec![
        json!({"apiGroups": [""], "resources": ["pods"],
            "verbs": ["get", "list", "watch", "create", "patch", "delete"]}),
        json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}),
        json!({"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create"]}),
        json!({"apiGroups": [""], "resources": ["namespaces"], "resourceNames": [namespace], "verbs": ["get"]}),
    ]
}

fn token_rules() -> Vec<Value> {
    vec![
        json!({"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": [ACCOUNT],
            "verbs": ["create"]}),
    ]
}

fn lease_rules() -> Vec<Value> {
    let rule = |verbs: &[&str]| json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs});
    let mut by_name = rule(&["get", "update"]);
    by_name["resourceNames"] = json!([LEASE]);
    // What does not exist yet cannot be named by a rule.
    vec![by_name, rule(&["create"])]
}

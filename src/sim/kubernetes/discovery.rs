//! What the API says about itself: enough for kubectl and client libraries to find their way.

use serde_json::{Value, json};

use super::{
    model::{ISSUER, Model},
    resource::{GROUPS, RESOURCES},
};

/// The answer at `path`, if something is there.
pub(super) fn answer(model: &Model, path: &str, host: &str) -> Option<Value> {
    let path = path.strip_suffix('/').unwrap_or(path);
    match path {
        "/version" => Some(json!({
            "major": "1", "minor": "36", "gitVersion": "v1.36.3", "gitCommit": "simulated", "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64",
        })),
        "/api" => Some(json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": host}]})),
        "/apis" => {
            let groups: Vec<Value> = GROUPS.iter().map(|g| group(g)).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        "/api/v1" => Some(resources("")),
        "/openid/v1/jwks" => Some(model.jwks()),
        "/.well-known/openid-configuration" => Some(json!({
            "issuer": ISSUER, "jwks_uri": format!("https://{host}/openid/v1/jwks"),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        })),
        _ => {
            let name = path.strip_prefix("/apis/")?;
            let (name, whole) = match name.strip_suffix("/v1") {
                Some(name) => (name, true),
                None => (name, false),
            };
            GROUPS
                .contains(&name)
                .then(|| if whole { resources(name) } else { described(group(name)) })
        }
    }
}

/// Probes answer in plain text.
pub(super) fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/livez" | "/readyz")
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn described(mut group: Value) -> Value {
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    group
}

fn resources(group: &str) -> Value {
    let version = if group.is_empty() {
        "v1".to_owned()
    } else {
        format!("{group}/v1")
    };
    let mut all: Vec<Value> = RESOURCES
        .iter()
        .filter(|r| r.group == group)
        .flat_map(super::resource::Resource::discovery)
        .collect();
    if group == "authorization.k8s.io" {
        for (name, kind) in [
            ("selfsubjectaccessreviews", "SelfSubjectAccessReview"),
            ("selfsubjectrulesreviews", "SelfSubjectRulesReview"),
        ] {
            all.push(
                json!({"name": name, "singularName": kind.to_lowercase(), "namespaced": false, "kind": kind,
                "verbs": ["create"]}),
            );
        }
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": all})
}

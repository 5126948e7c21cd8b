//! Who calls, and what they may: bearer tokens, and RBAC by the roles that are stored.
//!
//! Not here: aggregated cluster roles, and the rule that nobody may grant more than they have.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    refusal::Refusal,
    resource::{Resource, find},
    store::Store,
};

const ADMINISTRATORS: &str = "system:masters";
const ANONYMOUS: &str = "system:anonymous";
const RBAC: &str = "rbac.authorization.k8s.io";

/// The caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

impl User {
    pub fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
        }
    }

    pub fn administrator() -> Self {
        Self {
            name: "admin".to_owned(),
            groups: vec![ADMINISTRATORS.to_owned(), "system:authenticated".to_owned()],
        }
    }

    fn service_account(namespace: &str, name: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ],
        }
    }

    fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// Bearer tokens that the API knows.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    fixed: HashMap<String, User>,
    issued: HashMap<String, Issued>,
}

#[derive(Debug)]
struct Issued {
    namespace: String,
    account: String,
    uid: String,
    expires: Timestamp,
    for_the_api: bool,
}

impl Tokens {
    pub(super) fn add(&mut self, token: &str, user: User) {
        self.fixed.insert(token.to_owned(), user);
    }

    /// Remembers a service account's token. `for_the_api`: its audience is this API.
    pub(super) fn issue(
        &mut self,
        token: &str,
        account: &Value,
        expires: Timestamp,
        for_the_api: bool,
        now: Timestamp,
    ) {
        self.issued.retain(|_, issued| issued.expires > now);
        let meta = |field: &str| account["metadata"][field].as_str().unwrap_or_default().to_owned();
        self.issued.insert(
            token.to_owned(),
            Issued {
                namespace: meta("namespace"),
                account: meta("name"),
                uid: meta("uid"),
                expires,
                for_the_api,
            },
        );
    }

    /// Who presents `token`. A service account's dies with the account.
    pub(super) fn user(&self, token: &str, store: &Store, now: Timestamp) -> Result<User, Refusal> {
        if let Some(user) = self.fixed.get(token) {
            return Ok(user.clone());
        }
        self.issued
            .get(token)
            .filter(|issued| issued.for_the_api && issued.expires > now && store.exists(&issued.uid))
            .map(|issued| User::service_account(&issued.namespace, &issued.account))
            .ok_or_else(Refusal::unauthorized)
    }
}

/// What somebody wants to do to a resource.
#[derive(Clone, Copy, Debug)]
pub(super) struct Action<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    /// Empty: in all of them, or outside any.
    pub namespace: &'a str,
    pub name: &'a str,
}

impl Action<'_> {
    fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    pub(super) fn refusal(&self, user: &User, resource: &Resource) -> Refusal {
        let place = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", self.namespace)
        };
        let why = format!(
            "User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {place}",
            user.name,
            self.verb,
            self.full_resource(),
            self.group
        );
        Refusal::forbidden(resource, self.name, &why)
    }
}

/// Whether `user` may do `action`.
pub(super) fn allowed(store: &Store, user: &User, action: &Action<'_>) -> bool {
    if user.is_in(ADMINISTRATORS) {
        return true;
    }
    // What Kubernetes lets everybody ask about themselves.
    let own_questions = [
        "selfsubjectaccessreviews",
        "selfsubjectrulesreviews",
        "selfsubjectreviews",
    ];
    if own_questions.contains(&action.resource) && action.verb == "create" {
        return user.is_in("system:authenticated");
    }
    rules(store, user, action.namespace).any(|rule| rule_covers(rule, action))
}

/// Whether `user` may get a path that is no resource.
pub(super) fn path_allowed(user: &User, path: &str) -> bool {
    let under = |prefix: &str| path == prefix || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
    let public = ["/healthz", "/livez", "/readyz", "/version"];
    let discovery = ["/api", "/apis", "/openapi"];
    user.is_in(ADMINISTRATORS)
        || public.iter().any(|p| under(p))
        || (user.is_in("system:authenticated") && discovery.iter().any(|p| under(p)))
        || (user.is_in("system:serviceaccounts") && (under("/openid/v1/jwks") || under("/.well-known")))
}

pub(super) fn path_refusal(user: &User, path: &str, verb: &str) -> Refusal {
    Refusal::new(
        403,
        "Forbidden",
        format!("forbidden: User \"{}\" cannot {verb} path \"{path}\"", user.name),
    )
}

/// Every rule that binds to `user` in `namespace`.
fn rules<'a>(store: &'a Store, user: &'a User, namespace: &'a str) -> impl Iterator<Item = &'a Value> {
    let bindings = |plural: &str, namespace: Option<&'a str>| {
        find(RBAC, plural)
            .into_iter()
            .flat_map(move |r| store.list(r, namespace, None))
    };
    let local = (!namespace.is_empty()).then(|| bindings("rolebindings", Some(namespace)));
    local
        .into_iter()
        .flatten()
        .chain(bindings("clusterrolebindings", None))
        .filter(|binding| binds(binding, user))
        .filter_map(move |binding| {
            let (plural, place) = if binding["roleRef"]["kind"] == "ClusterRole" {
                ("clusterroles", "")
            } else {
                ("roles", namespace)
            };
            store.get(find(RBAC, plural)?, place, binding["roleRef"]["name"].as_str()?)
        })
        .flat_map(|role| role["rules"].as_array().into_iter().flatten())
}

fn binds(binding: &Value, user: &User) -> bool {
    let subjects = binding["subjects"].as_array().into_iter().flatten();
    subjects.into_iter().any(|subject| {
        let name = subject["name"].as_str().unwrap_or_default();
        match subject["kind"].as_str() {
            Some("User") => user.name == name,
            Some("Group") => user.is_in(name),
            Some("ServiceAccount") => {
                let namespace = subject["namespace"].as_str().unwrap_or_default();
                user.name == format!("system:serviceaccount:{namespace}:{name}")
            }
            _ => false,
        }
    })
}

fn rule_covers(rule: &Value, action: &Action<'_>) -> bool {
    let names = |field: &str| rule[field].as_array().into_iter().flatten().filter_map(Value::as_str);
    let full = action.full_resource();
    let resource = |r: &str| {
        r == "*" || r == full || (!action.subresource.is_empty() && r.strip_prefix("*/") == Some(action.subresource))
    };
    names("verbs").any(|v| v == "*" || v == action.verb)
        && names("apiGroups").any(|g| g == "*" || g == action.group)
        && names("resources").any(resource)
        && (names("resourceNames").next().is_none() || names("resourceNames").any(|n| n == action.name))
}

/// Answers the reviews in which callers ask about themselves; `None` for anything else.
pub(super) fn review(store: &Store, user: &User, kind: &str, body: &Value) -> Option<Value> {
    let mut answer = body.clone();
    match kind {
        "selfsubjectaccessreviews" => {
            let text = |field: &str| body["spec"]["resourceAttributes"][field].as_str().unwrap_or_default();
            let path = body["spec"]["nonResourceAttributes"]["path"].as_str();
            let allowed = match path {
                Some(path) => path_allowed(user, path),
                None => allowed(
                    store,
                    user,
                    &Action {
                        verb: text("verb"),
                        group: text("group"),
                        resource: text("resource"),
                        subresource: text("subresource"),
                        namespace: text("namespace"),
                        name: text("name"),
                    },
                ),
            };
            answer["kind"] = json!("SelfSubjectAccessReview");
            answer["status"] = json!({ "allowed": allowed });
        }
        "selfsubjectrulesreviews" => {
            let namespace = body["spec"]["namespace"].as_str().unwrap_or_default();
            let own: Vec<Value> = if user.is_in(ADMINISTRATORS) {
                vec![json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})]
            } else {
                rules(store, user, namespace).cloned().collect()
            };
            answer["kind"] = json!("SelfSubjectRulesReview");
            answer["status"] = json!({"resourceRules": own, "nonResourceRules": [], "incomplete": false});
        }
        _ => return None,
    }
    answer["apiVersion"] = json!("authorization.k8s.io/v1");
    Some(answer)
}

//! The resources that the simulated API serves: one row each.

use k8s_openapi::api::{
    batch::v1::Job,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event, Namespace, Node, Pod, ResourceQuota, Secret, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// One resource of one group.
#[derive(Debug)]
pub struct Resource {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub short_names: &'static [&'static str],
    pub namespaced: bool,
    pub subresources: &'static [&'static str],
    /// Whether a PUT of an object that does not exist creates it.
    pub create_on_update: bool,
    /// Whether a PUT may leave the resource version out and so overwrite whatever is there.
    pub unconditional_update: bool,
    /// Reads an object as its type does: what it does not know is dropped, what has the wrong type is refused.
    pub canonical: fn(&Value) -> Result<Value, String>,
}

const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

impl Resource {
    /// `pods`, or `leases.coordination.k8s.io`: how messages name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `v1`, or `coordination.k8s.io/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// This resource and its subresources as discovery lists them.
    pub fn discovery(&self) -> Vec<Value> {
        let mut own = json!({
            "name": self.plural, "singularName": self.singular, "namespaced": self.namespaced, "kind": self.kind,
            "verbs": VERBS,
        });
        if !self.short_names.is_empty() {
            own["shortNames"] = json!(self.short_names);
        }
        let mut all = vec![own];
        for sub in self.subresources {
            let (kind, verbs) = match *sub {
                "binding" => ("Binding", json!(["create"])),
                "eviction" => ("Eviction", json!(["create"])),
                "token" => ("TokenRequest", json!(["create"])),
                "log" => (self.kind, json!(["get"])),
                _ => (self.kind, json!(["get", "patch", "update"])),
            };
            all.push(json!({
                "name": format!("{}/{sub}", self.plural), "singularName": "", "namespaced": self.namespaced,
                "kind": kind, "verbs": verbs,
            }));
        }
        all
    }
}

fn canonical<T: DeserializeOwned + Serialize>(value: &Value) -> Result<Value, String> {
    let typed: T = serde_path_to_error::deserialize(value).map_err(|e| e.to_string())?;
    serde_json::to_value(typed).map_err(|e| e.to_string())
}

const fn core<T: DeserializeOwned + Serialize>(
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    short_names: &'static [&'static str],
) -> Resource {
    Resource {
        group: "",
        version: "v1",
        plural,
        singular,
        kind,
        short_names,
        namespaced: true,
        subresources: &[],
        create_on_update: false,
        unconditional_update: true,
        canonical: canonical::<T>,
    }
}

const fn grouped<T: DeserializeOwned + Serialize>(
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
) -> Resource {
    Resource {
        group,
        ..core::<T>(plural, singular, kind, &[])
    }
}

/// Groups beside the core group, in the order in which discovery names them.
pub(super) const GROUPS: [&str; 5] = [
    "authorization.k8s.io",
    "batch",
    "coordination.k8s.io",
    "events.k8s.io",
    "rbac.authorization.k8s.io",
];

pub(super) static RESOURCES: &[Resource] = &[
    Resource {
        namespaced: false,
        subresources: &["status"],
        ..core::<Namespace>("namespaces", "namespace", "Namespace", &["ns"])
    },
    Resource {
        namespaced: false,
        subresources: &["status"],
        ..core::<Node>("nodes", "node", "Node", &["no"])
    },
    Resource {
        subresources: &["status", "binding", "log", "eviction"],
        ..core::<Pod>("pods", "pod", "Pod", &["po"])
    },
    core::<Secret>("secrets", "secret", "Secret", &[]),
    core::<ConfigMap>("configmaps", "configmap", "ConfigMap", &["cm"]),
    Resource {
        create_on_update: true,
        ..core::<Event>("events", "event", "Event", &["ev"])
    },
    Resource {
        subresources: &["token"],
        ..core::<ServiceAccount>("serviceaccounts", "serviceaccount", "ServiceAccount", &["sa"])
    },
    Resource {
        subresources: &["status"],
        ..core::<ResourceQuota>("resourcequotas", "resourcequota", "ResourceQuota", &["quota"])
    },
    Resource {
        subresources: &["status"],
        ..grouped::<Job>("batch", "jobs", "job", "Job")
    },
    Resource {
        create_on_update: true,
        unconditional_update: false,
        ..grouped::<Lease>("coordination.k8s.io", "leases", "lease", "Lease")
    },
    // Stored as core events, as a real server does: `events` converts on the way in and out.
    Resource {
        create_on_update: true,
        ..grouped::<k8s_openapi::api::events::v1::Event>("events.k8s.io", "events", "event", "Event")
    },
    Resource {
        create_on_update: true,
        ..grouped::<Role>("rbac.authorization.k8s.io", "roles", "role", "Role")
    },
    Resource {
        create_on_update: true,
        ..grouped::<RoleBinding>(
            "rbac.authorization.k8s.io",
            "rolebindings",
            "rolebinding",
            "RoleBinding",
        )
    },
    Resource {
        namespaced: false,
        create_on_update: true,
        ..grouped::<ClusterRole>(
            "rbac.authorization.k8s.io",
            "clusterroles",
            "clusterrole",
            "ClusterRole",
        )
    },
    Resource {
        namespaced: false,
        create_on_update: true,
        ..grouped::<ClusterRoleBinding>(
            "rbac.authorization.k8s.io",
            "clusterrolebindings",
            "clusterrolebinding",
            "ClusterRoleBinding",
        )
    },
];

/// The row of `plural` in `group`, if it is served.
pub(super) fn find(group: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == group && r.plural == plural)
}

/// The row of an object's `apiVersion` and `kind`.
pub(super) fn of_object(object: &Value) -> Option<&'static Resource> {
    let version = object["apiVersion"].as_str()?;
    RESOURCES
        .iter()
        .find(|r| Some(r.kind) == object["kind"].as_str() && r.api_version() == version)
}

//! From method, path and query to what is asked for.

use std::collections::BTreeMap;

use http::Method;

use super::{
    access::Action,
    decode::FieldValidation,
    operations::{ListOptions, WriteOptions},
    refusal::{Cause, Refusal},
    resource::{Resource, find},
    selector::Selector,
};

/// A path that names a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResourcePath {
    pub group: String,
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub subresource: String,
}

impl ResourcePath {
    /// `None` for paths that name no resource (discovery, health, ...).
    pub(super) fn parse(path: &str) -> Option<Self> {
        let mut parts = path.split('/').skip(1);
        let group = match parts.next()? {
            "api" => String::new(),
            "apis" => parts.next()?.to_owned(),
            _ => return None,
        };
        let version = parts.next()?;
        if version != "v1" {
            return None;
        }
        let rest: Vec<&str> = parts.filter(|p| !p.is_empty()).collect();
        let (namespace, rest) = match &rest[..] {
            ["namespaces", namespace, resource, rest @ ..] if !matches!(*resource, "status" | "finalize") => {
                (*namespace, [&[*resource], rest].concat())
            }
            other => ("", other.to_vec()),
        };
        let (resource, name, subresource) = match &rest[..] {
            [] => return None,
            [resource] => (*resource, "", String::new()),
            [resource, name] => (*resource, *name, String::new()),
            [resource, name, subresource @ ..] => (*resource, *name, subresource.join("/")),
        };
        Some(Self {
            group,
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource,
        })
    }

    pub(super) fn row(&self) -> Option<&'static Resource> {
        find(&self.group, &self.resource)
            .filter(|r| self.subresource.is_empty() || r.subresources.contains(&self.subresource.as_str()))
    }

    pub(super) fn verb(&self, method: &Method, query: &Query) -> &'static str {
        let one = !self.name.is_empty();
        match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if one => "delete",
            Method::DELETE => "deletecollection",
            _ if query.flag("watch") => "watch",
            _ if one => "get",
            _ => "list",
        }
    }

    /// `pods/status`, `leases.coordination.k8s.io`.
    pub(super) fn full_resource(&self) -> String {
        let mut text = self.resource.clone();
        if !self.group.is_empty() {
            text = format!("{text}.{}", self.group);
        }
        if !self.subresource.is_empty() {
            text = format!("{text}/{}", self.subresource);
        }
        text
    }

    /// As RBAC sees it: a list of one name is about that name, and a namespace is in itself.
    pub(super) fn action<'a>(&'a self, verb: &'a str, selector: &'a Selector) -> Action<'a> {
        let name = if self.name.is_empty() {
            selector.name().unwrap_or_default()
        } else {
            &self.name
        };
        let namespace = if self.resource == "namespaces" && self.group.is_empty() {
            &self.name
        } else {
            &self.namespace
        };
        Action {
            verb,
            group: &self.group,
            resource: &self.resource,
            subresource: &self.subresource,
            namespace,
            name,
        }
    }
}

/// The query string, decoded.
#[derive(Clone, Debug, Default)]
pub(super) struct Query {
    values: BTreeMap<String, String>,
}

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        Self {
            values: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        }
    }

    /// Empty when absent.
    pub(super) fn get(&self, key: &str) -> &str {
        self.values.get(key).map_or("", String::as_str)
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        matches!(self.values.get(key).map(String::as_str), Some("true" | "1" | ""))
    }

    pub(super) fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key).parse().ok()
    }

    pub(super) fn selector(&self, resource: &Resource) -> Result<Selector, Refusal> {
        Selector::parse(resource, self.get("labelSelector"), self.get("fieldSelector"))
    }

    pub(super) fn list_options(&self, resource: &Resource) -> Result<ListOptions, Refusal> {
        Ok(ListOptions {
            selector: self.selector(resource)?,
            limit: self.number("limit").unwrap_or_default(),
            token: self.get("continue").to_owned(),
        })
    }

    pub(super) fn write_options(&self) -> Result<WriteOptions, Refusal> {
        Ok(WriteOptions {
            dry_run: self.dry_run()?,
            validation: FieldValidation::parse(self.get("fieldValidation"))?,
        })
    }

    pub(super) fn dry_run(&self) -> Result<bool, Refusal> {
        match self.get("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => {
                let cause = Cause::unsupported("dryRun", &serde_json::json!([other]), &["All"]);
                Err(Refusal::invalid_as("meta.k8s.io", "CreateOptions", "", &[cause]))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_resources() {
        let parse = |path: &str| {
            let p = ResourcePath::parse(path)?;
            Some([p.group, p.namespace, p.resource, p.name, p.subresource].join("|"))
        };
        for (path, expected) in [
            ("/api/v1/namespaces/a/pods/p/log", Some("|a|pods|p|log")),
            ("/api/v1/namespaces/a", Some("||namespaces|a|")),
            ("/api/v1/namespaces/a/status", Some("||namespaces|a|status")),
            ("/api/v1/pods", Some("||pods||")),
            (
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/l",
                Some("coordination.k8s.io|a|leases|l|"),
            ),
            ("/api/v1", None),
            ("/apis", None),
            ("/version", None),
        ] {
            assert_eq!(parse(path).as_deref(), expected, "{path}");
        }
    }
}

//! Label and field selectors of lists and watches.

use serde_json::Value;

use super::{refusal::Refusal, resource::Resource};

/// What a list or watch wants to see.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    labels: Vec<LabelTerm>,
    fields: Vec<FieldTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelTerm {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTerm {
    path: String,
    value: String,
    equal: bool,
}

impl Selector {
    pub(super) fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, Refusal> {
        let labels = split_terms(labels)
            .map(|t| label_term(t).ok_or_else(|| unparsable(t)))
            .collect::<Result<_, _>>()?;
        let fields: Vec<FieldTerm> = fields
            .split(',')
            .filter(|t| !t.is_empty())
            .map(|t| {
                field_term(t)
                    .ok_or_else(|| Refusal::bad_request(format!("invalid selector: '{t}'; can't understand '{t}'")))
            })
            .collect::<Result<_, _>>()?;
        if let Some(unknown) = fields.iter().find(|f| !selectable(resource, &f.path)) {
            return Err(Refusal::bad_request(format!(
                "field label not supported: {}",
                unknown.path
            )));
        }
        Ok(Self { labels, fields })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|term| term.matches(labels)) && self.fields.iter().all(|term| term.matches(object))
    }

    /// The one name that the field selector asks for, if it does: rights may be bound to names.
    pub(super) fn name(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|f| f.equal && f.path == "metadata.name")
            .map(|f| f.value.as_str())
    }
}

impl LabelTerm {
    fn matches(&self, labels: &Value) -> bool {
        let value = |key: &str| labels[key].as_str();
        match self {
            Self::In(key, values) => value(key).is_some_and(|v| values.iter().any(|w| w == v)),
            Self::NotIn(key, values) => value(key).is_none_or(|v| values.iter().all(|w| w != v)),
            Self::Exists(key) => value(key).is_some(),
            Self::Absent(key) => value(key).is_none(),
        }
    }
}

impl FieldTerm {
    fn matches(&self, object: &Value) -> bool {
        let found = self.path.split('.').fold(object, |value, key| &value[key]);
        let text = match found {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        (text == self.value) == self.equal
    }
}

/// Commas inside parentheses belong to a set.
fn split_terms(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|t| !t.is_empty())
}

fn label_term(term: &str) -> Option<LabelTerm> {
    if let Some(key) = term.strip_prefix('!') {
        return key_of(key).map(LabelTerm::Absent);
    }
    for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((key, value)) = term.split_once(operator) {
            let (key, values) = (key_of(key)?, vec![value.trim().to_owned()]);
            return Some(if equal {
                LabelTerm::In(key, values)
            } else {
                LabelTerm::NotIn(key, values)
            });
        }
    }
    if let Some((head, set)) = term.split_once('(') {
        let values = set.strip_suffix(')')?.split(',').map(|v| v.trim().to_owned()).collect();
        let head = head.trim_end();
        return if let Some(key) = head.strip_suffix(" notin") {
            Some(LabelTerm::NotIn(key_of(key)?, values))
        } else {
            Some(LabelTerm::In(key_of(head.strip_suffix(" in")?)?, values))
        };
    }
    key_of(term).map(LabelTerm::Exists)
}

fn key_of(text: &str) -> Option<String> {
    let key = text.trim();
    let well_formed = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    well_formed.then(|| key.to_owned())
}

fn field_term(term: &str) -> Option<FieldTerm> {
    let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
        (path, value, false)
    } else {
        let (path, value) = term.split_once("==").or_else(|| term.split_once('='))?;
        (path, value, true)
    };
    Some(FieldTerm {
        path: path.trim().to_owned(),
        value: value.to_owned(),
        equal,
    })
}

fn selectable(resource: &Resource, path: &str) -> bool {
    if matches!(path, "metadata.name" | "metadata.namespace") {
        return true;
    }
    match resource.plural {
        "pods" => matches!(
            path,
            "spec.nodeName" | "spec.restartPolicy" | "spec.serviceAccountName" | "status.phase" | "status.podIP"
        ),
        "events" => path.starts_with("involvedObject.") || matches!(path, "reason" | "type" | "reportingComponent"),
        "secrets" => path == "type",
        "namespaces" => path == "status.phase",
        "nodes" => path == "spec.unschedulable",
        _ => false,
    }
}

fn unparsable(term: &str) -> Refusal {
    Refusal::bad_request(format!("unable to parse requirement: {term}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sim::kubernetes::resource::find;

    #[test]
    fn terms_of_every_form_select() {
        let pods = find("", "pods").unwrap();
        let object =
            json!({"metadata": {"name": "a", "labels": {"set": "x", "tier": "one"}}, "status": {"phase": "Pending"}});
        for (labels, fields, expected) in [
            ("", "", true),
            ("set=x", "", true),
            ("set==y", "", false),
            ("set!=y,tier", "", true),
            ("other!=y,!gone", "", true),
            ("set in (x, y),tier notin (two)", "", true),
            ("set in (z)", "", false),
            ("!set", "", false),
            ("", "metadata.name=a,status.phase!=Running", true),
            ("", "spec.nodeName=", true),
            ("", "spec.nodeName=n1", false),
        ] {
            let selector = Selector::parse(pods, labels, fields).unwrap();
            assert_eq!(selector.matches(&object), expected, "{labels} / {fields}");
        }
        assert!(Selector::parse(pods, "a b c", "").is_err());
        assert!(Selector::parse(pods, "", "spec.colour=red").is_err());
    }
}

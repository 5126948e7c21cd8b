//! The JSON schema of the file, and what it finds wrong with a document: every error at once, in words.

use std::sync::LazyLock;

use jsonschema::{
    JsonType, ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind},
    paths::LocationSegment,
};
use serde_json::{Map, Value};

use super::{
    place::{Place, Problems, Step},
    raw::RawConfig,
};

/// The schema as `config schema` prints it.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let mut schema = schemars::schema_for!(RawConfig).to_value();
    drop_null(&mut schema);
    schema
});

#[expect(
    clippy::expect_used,
    reason = "the schema is a constant of the program; every test that loads a file compiles it"
)]
static VALIDATOR: LazyLock<Validator> =
    LazyLock::new(|| jsonschema::validator_for(&SCHEMA).expect("the derived schema is a valid JSON schema"));

pub(super) fn schema() -> &'static Value {
    &SCHEMA
}

/// Checks a document. Returns the problems and the places to leave out so that the rest can be read.
pub(super) fn check(document: &Value) -> (Problems, Vec<Place>) {
    let mut problems = Problems::default();
    let mut refused = Vec::new();
    // A required key that is there, but misspelt, is one problem, not two.
    let mut misspelt = Vec::new();
    let mut missing = Vec::new();
    for error in VALIDATOR.iter_errors(document) {
        let place = place_of(&error);
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                for key in unexpected {
                    problems.add(place.key(key), "unknown key", remedy_for_unknown(&place, key));
                    misspelt.extend(meant(&place, key).map(|meant| place.key(&meant)));
                    refused.push(place.key(key));
                }
            }
            // The same of a mapping that has no keys at all; the error does not tell which one was met.
            ValidationErrorKind::FalseSchema => {
                let keys = place.get(document).and_then(Value::as_object);
                for key in keys.into_iter().flat_map(Map::keys) {
                    problems.add(place.key(key), "unknown key", "remove it");
                    refused.push(place.key(key));
                }
            }
            ValidationErrorKind::Required { property } => {
                let key = property.as_str().unwrap_or_default();
                missing.push(place.key(key));
            }
            kind => {
                let remedy = quoted(kind, error.instance()).unwrap_or_else(|| describe(&place));
                problems.add(place.clone(), message(kind, error.instance()), remedy);
                refused.push(place.nearest_key());
            }
        }
    }
    for place in missing.into_iter().filter(|place| !misspelt.contains(place)) {
        let remedy = describe(&place);
        problems.add(place, "is required", remedy);
    }
    (problems, refused)
}

/// The remedy for a number or a truth value that was written as text.
fn quoted(kind: &ValidationErrorKind, instance: &Value) -> Option<String> {
    let ValidationErrorKind::Type { kind } = kind else {
        return None;
    };
    let text = instance.as_str()?;
    let wanted = match kind {
        TypeKind::Single(JsonType::Integer) => text.parse::<i64>().is_ok(),
        TypeKind::Single(JsonType::Number) => text.parse::<f64>().is_ok(),
        TypeKind::Single(JsonType::Boolean) => text.parse::<bool>().is_ok(),
        _ => false,
    };
    wanted.then(|| format!("write {text} without quotes"))
}

fn place_of(error: &ValidationError<'_>) -> Place {
    let steps = error.instance_path().iter().map(|segment| match segment {
        LocationSegment::Property(key) => Step::Key(key.into_owned()),
        LocationSegment::Index(index) => Step::Index(index),
    });
    Place(steps.collect())
}

fn message(kind: &ValidationErrorKind, instance: &Value) -> String {
    let found = found(instance);
    match kind {
        // Where a mapping belongs, text may be a secret in the wrong place: it is not repeated.
        ValidationErrorKind::Type { kind } if instance.is_string() && wants_more_than_a_value(kind) => {
            format!("expected {}, found text", expected(kind))
        }
        ValidationErrorKind::Type { kind } => format!("expected {}, found {found}", expected(kind)),
        ValidationErrorKind::Enum { options } => {
            let options: Vec<_> = options
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            format!("expected one of {}, found {found}", options.join(", "))
        }
        ValidationErrorKind::Minimum { limit } => format!("expected at least {limit}, found {found}"),
        ValidationErrorKind::Maximum { limit } => format!("expected at most {limit}, found {found}"),
        ValidationErrorKind::MinLength { .. } => "must not be empty".to_owned(),
        ValidationErrorKind::MinItems { limit } => format!("expected at least {limit} entry"),
        ValidationErrorKind::Pattern { .. } => {
            format!("expected a duration such as 1h, 90s or 500ms, or whole seconds; found {found}")
        }
        other => format!("does not fit the schema ({})", other.keyword()),
    }
}

fn wants_more_than_a_value(kind: &TypeKind) -> bool {
    matches!(kind, TypeKind::Single(JsonType::Object | JsonType::Array))
}

fn expected(kind: &TypeKind) -> String {
    let types: Vec<&str> = match kind {
        TypeKind::Single(one) => vec![type_name(*one)],
        TypeKind::Multiple(many) => many.iter().map(type_name).collect(),
    };
    types.join(" or ")
}

fn type_name(json: JsonType) -> &'static str {
    match json {
        JsonType::Array => "a list",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "a whole number",
        JsonType::Null => "nothing",
        JsonType::Number => "a number",
        JsonType::Object => "a mapping",
        JsonType::String => "text",
    }
}

/// A value in words, cut.
fn found(value: &Value) -> String {
    const LONGEST: usize = 40;
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
        Value::String(text) if text.chars().count() > LONGEST => format!("text of {} characters", text.chars().count()),
        Value::String(text) => format!("the text {text:?}"),
        other => other.to_string(),
    }
}

/// What the schema says about a place, as a remedy.
fn describe(place: &Place) -> String {
    let described = at(place)
        .and_then(|schema| schema.get("description"))
        .and_then(Value::as_str);
    let line = described.map(|text| text.replace('\n', " "));
    match line {
        Some(text) => text,
        None => "see `gharts-listener config example`".to_owned(),
    }
}

fn remedy_for_unknown(place: &Place, key: &str) -> String {
    match (meant(place, key), known(place)) {
        (Some(candidate), _) => format!("did you mean {candidate}?"),
        (None, known) if known.is_empty() => "remove it".to_owned(),
        (None, known) => format!("remove it; known here: {}", known.join(", ")),
    }
}

/// The keys that a mapping may have.
fn known(place: &Place) -> Vec<String> {
    at(place)
        .and_then(|schema| schema.get("properties"))
        .and_then(Value::as_object)
        .map(|properties| properties.keys().cloned().collect())
        .unwrap_or_default()
}

/// The key that was probably meant.
fn meant(place: &Place, key: &str) -> Option<String> {
    let folded = |text: &str| text.to_lowercase().replace(['_', '-'], "");
    known(place)
        .into_iter()
        .map(|candidate| (distance(&folded(&candidate), &folded(key)), candidate))
        .filter(|(far, _)| *far <= 2)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edit distance, for suggestions.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Turns the text of an environment variable into what the schema wants at its place, where it reads so.
pub(super) fn coerce(place: &Place, text: &str) -> Value {
    let wants = |name: &str| {
        at(place).and_then(|s| s.get("type")).is_some_and(|types| match types {
            Value::String(one) => one == name,
            Value::Array(many) => many.iter().any(|t| t == name),
            _ => false,
        })
    };
    let number = || text.parse::<u64>().ok().map(Value::from);
    let float = || text.parse::<f64>().ok().map(Value::from);
    let boolean = || text.parse::<bool>().ok().map(Value::from);
    let read = match () {
        () if wants("integer") => number(),
        () if wants("number") => float(),
        () if wants("boolean") => boolean(),
        () => None,
    };
    read.unwrap_or_else(|| Value::from(text))
}

/// The schema of one place, references followed.
fn at(place: &Place) -> Option<&'static Value> {
    place.0.iter().try_fold(resolve(&SCHEMA)?, |schema, step| match step {
        Step::Key(key) => resolve(schema.get("properties")?.get(key)?),
        Step::Index(_) => resolve(schema.get("items")?),
    })
}

fn resolve(schema: &'static Value) -> Option<&'static Value> {
    // A reference with neighbours keeps its own description: follow only for what has no type of its own.
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => SCHEMA.pointer(reference.trim_start_matches('#')),
        None => Some(schema),
    }
}

/// `null` means absent in this file: what may be absent need not say "or null" in its schema.
fn drop_null(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(drop_null),
        Value::Object(object) => {
            drop_null_here(object);
            object.values_mut().for_each(drop_null);
        }
        _ => {}
    }
}

fn drop_null_here(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|t| t != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(options)) = object.get_mut("enum") {
        options.retain(|option| !option.is_null());
    }
    if let Some(Value::Array(options)) = object.get_mut("anyOf") {
        options.retain(|option| option.get("type").is_none_or(|t| t != "null"));
        if let [Value::Object(only)] = options.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            object.extend(only);
        }
    }
    if object
        .get("default")
        .is_some_and(|d| d.is_null() || d.as_object().is_some_and(Map::is_empty))
    {
        object.remove("default");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_never_asks_for_null_and_refuses_unknown_keys_everywhere() {
        fn walk(value: &Value, at: &str) {
            if let Some(object) = value.as_object() {
                if object.contains_key("properties") && object.get("type").is_some_and(|t| t == "object") {
                    assert_eq!(object.get("additionalProperties"), Some(&Value::Bool(false)), "{at}");
                }
                for (key, inner) in object {
                    walk(inner, &format!("{at}/{key}"));
                }
            }
            assert_ne!(value, "null", "{at}");
        }
        walk(schema(), "");
    }

    #[test]
    fn text_of_the_environment_becomes_what_the_schema_wants() {
        assert_eq!(coerce(&Place::from_dotted("maxRunners"), "7"), Value::from(7));
        assert_eq!(
            coerce(&Place::from_dotted("gharts.limits.requestsPerSecond"), "1.5"),
            Value::from(1.5)
        );
        assert_eq!(coerce(&Place::from_dotted("gharts.team"), "0012"), Value::from("0012"));
        assert_eq!(
            coerce(&Place::from_dotted("github.auth.app.clientId"), "12"),
            Value::from("12")
        );
        assert_eq!(coerce(&Place::from_dotted("gharts.timeout"), "30"), Value::from(30));
    }
}

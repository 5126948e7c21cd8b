//! The file's own schema is part of the values' schema, so that Helm refuses what the daemon would refuse.

use std::fs;

use gharts_listener::config;
use serde_json::{Map, Value};

use super::root;

/// Here nothing is required of the values: the chart fills in paths and its own service account, the first design's
/// names say the rest, and its templates say what is missing.
const FILLED_IN: [&str; 5] = ["", "github", "gharts", "gharts.oidc", "gharts.oidc.external"];

/// The file's schema as definitions of another schema.
fn definitions() -> Map<String, Value> {
    let mut schema: Value = serde_json::from_str(&config::schema_json()).unwrap();
    for path in FILLED_IN {
        let mut pointer = String::new();
        for key in path.split('.').filter(|key| !key.is_empty()) {
            pointer = resolved(&schema, &format!("{pointer}/properties/{key}"));
        }
        let place = schema.pointer_mut(&pointer).unwrap().as_object_mut().unwrap();
        assert!(place.remove("required").is_some(), "{path} requires nothing any more");
    }
    let schema = schema.as_object_mut().unwrap();
    let Some(Value::Object(mut definitions)) = schema.remove("$defs") else {
        panic!("the schema has no definitions");
    };
    schema.remove("$schema");
    schema.remove("title");
    definitions.insert("GhartsListener".to_owned(), Value::Object(schema.clone()));
    definitions
}

/// Where the schema at this place really stands.
fn resolved(schema: &Value, pointer: &str) -> String {
    match schema.pointer(pointer).unwrap()["$ref"].as_str() {
        Some(reference) => resolved(schema, reference.trim_start_matches('#')),
        None => pointer.to_owned(),
    }
}

#[test]
fn b38_the_values_schema_holds_the_files_own_and_asks_for_nothing_that_the_chart_fills_in() {
    let path = root().join("charts/gharts-listener/values.schema.json");
    let written: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let mut wanted = written.clone();
    wanted["$defs"] = Value::Object(definitions());
    wanted["properties"]["config"] = serde_json::json!({"$ref": "#/$defs/GhartsListener"});
    if written != wanted && std::env::var("INSTA_UPDATE").is_ok_and(|how| how == "always") {
        fs::write(&path, format!("{wanted:#}\n")).unwrap();
        return;
    }
    assert!(
        written == wanted,
        "values.schema.json is behind the file's schema: run this test with INSTA_UPDATE=always"
    );
}

/// Every value has a schema, and every schema a value: one of the two would be a misspelling.
#[test]
fn b38_the_values_and_their_schema_know_the_same_names() {
    let folder = root().join("charts/gharts-listener");
    let schema: Value = serde_json::from_str(&fs::read_to_string(folder.join("values.schema.json")).unwrap()).unwrap();
    let values: Value = serde_yaml_ng::from_str(&fs::read_to_string(folder.join("values.yaml")).unwrap()).unwrap();
    let names = |object: &Value| -> Vec<String> { object.as_object().unwrap().keys().cloned().collect() };
    let mut known = names(&schema["properties"]);
    // Helm's own, of charts that contain this one.
    known.retain(|name| name != "global");
    let mut given = names(&values);
    known.sort();
    given.sort();
    assert_eq!(given, known);
}

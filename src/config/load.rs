//! From text to [`Config`]: YAML, environment, schema, types, rules.
//!
//! All problems are reported at once. What the schema refuses is taken out of the document before the
//! semantic rules look at the rest, so a misspelt key does not hide an unreadable file. The document stays
//! untyped until the schema has seen it: the `config` crate would read the text "50" as the number 50.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use ::config::{ConfigError, Map as ConfigMap, Source, Value as ConfigValue, ValueKind};
use serde_json::Value;

use super::{
    Config, Environment, Problem, env,
    place::{Place, Problems},
    raw::RawConfig,
    schema, validate,
};

/// Reads and validates a file. The error holds every problem, sorted by place, and is never empty.
pub fn load(path: &Path, environment: &Environment) -> Result<Config, Vec<Problem>> {
    parse(&read(path)?, environment)
}

/// Where the daemon of a file listens, whatever else is wrong with the file: a daemon that has refused it is to be
/// reached still. Fails as [`load`] does where not even that can be read.
pub fn listen(path: &Path, environment: &Environment) -> Result<SocketAddr, Vec<Problem>> {
    let text = read(path)?;
    let Document { merged, .. } = document(&text, environment)?;
    let found = match Place::from_dotted("server.listen").get(&merged) {
        Some(value) => value.as_str().and_then(|text| validate::listen(Some(text))),
        None => validate::listen(None),
    };
    found.ok_or_else(|| parse(&text, environment).err().unwrap_or_default())
}

fn read(path: &Path) -> Result<String, Vec<Problem>> {
    std::fs::read_to_string(path).map_err(|error| {
        vec![Problem {
            path: "(file)".to_owned(),
            message: format!("cannot read {}: {error}", path.display()),
            remedy: "name the file with --config; `gharts-listener config example` prints one to start from".to_owned(),
        }]
    })
}

/// A file with the environment's overrides in it.
struct Document {
    merged: Value,
    overrides: BTreeMap<Place, String>,
    /// What is wrong with overrides that were left out.
    unusable: Problems,
}

fn document(text: &str, environment: &Environment) -> Result<Document, Vec<Problem>> {
    let file = read_yaml(text).map_err(|problem| vec![problem])?;
    let (overrides, unusable) = only_scalars(&file, env::overrides(environment));
    let mut merged = merge(file, &overrides, environment).map_err(|problem| vec![problem])?;
    take_environment(&mut merged, &overrides);
    drop_nulls(&mut merged);
    Ok(Document {
        merged,
        overrides,
        unusable,
    })
}

/// Validates the text of a file.
pub fn parse(text: &str, environment: &Environment) -> Result<Config, Vec<Problem>> {
    let Document {
        merged: mut document,
        overrides,
        unusable,
    } = document(text, environment)?;
    let (mut problems, refused) = schema::check(&document);
    problems.absorb(unusable);
    for place in &refused {
        place.remove(&mut document);
    }
    let raw = read_typed(&document, &mut problems);
    let (config, semantic) = validate::validate(&raw, environment);
    problems.absorb(semantic.without(&refused));
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems.into_sorted(|place| overrides.get(place).cloned())),
    }
}

fn read_yaml(text: &str) -> Result<Value, Problem> {
    let refuse = |message: String, remedy: &str| Problem {
        path: "(file)".to_owned(),
        message,
        remedy: remedy.to_owned(),
    };
    let syntax = |error: serde_yaml_ng::Error| refuse(format!("is not YAML: {error}"), "mend the syntax at that line");
    let mut yaml: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).map_err(syntax)?;
    yaml.apply_merge().map_err(syntax)?;
    match serde_json::to_value(yaml) {
        Ok(Value::Null) => Ok(Value::Object(serde_json::Map::new())),
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(refuse(
            "expected a mapping at the top".to_owned(),
            "`gharts-listener config example` shows the shape",
        )),
        Err(error) => Err(refuse(
            format!("cannot be read: {error}"),
            "use text for keys and plain values",
        )),
    }
}

/// Splits off the variables that would replace a section or reach into a list: merged, they would wipe it.
fn only_scalars(file: &Value, overrides: BTreeMap<Place, String>) -> (BTreeMap<Place, String>, Problems) {
    let mut problems = Problems::default();
    let scalars = overrides
        .into_iter()
        .filter(|(place, variable)| {
            let list = (1..=place.0.len()).map(|n| Place(place.0[..n].to_vec()));
            let list = list
                .into_iter()
                .find(|outer| outer.get(file).is_some_and(Value::is_array));
            let fault = match list {
                Some(list) => format!("{variable} cannot change the list {list}"),
                None if place.get(file).is_some_and(Value::is_object) => {
                    format!("{variable} cannot replace the section {place}")
                }
                None => return true,
            };
            problems.add(
                Place::root(),
                fault,
                "unset it and change the file: variables override single values only",
            );
            false
        })
        .collect();
    (scalars, problems)
}

/// Lays the environment's overrides over the file.
fn merge(file: Value, overrides: &BTreeMap<Place, String>, environment: &Environment) -> Result<Value, Problem> {
    let used = environment
        .iter()
        .filter(|(name, _)| overrides.values().any(|used| used == *name));
    let used = used.map(|(name, value)| (name.clone(), value.clone()));
    let refuse = |error: ConfigError| Problem {
        path: "(file)".to_owned(),
        message: format!("cannot be merged with the environment: {error}"),
        remedy: "check the variables that begin with GHARTS_LISTENER__".to_owned(),
    };
    ::config::Config::builder()
        .add_source(Parsed(file))
        .add_source(env::source(used))
        .build()
        .map_err(refuse)?
        .try_deserialize()
        .map_err(refuse)
}

/// A document that is parsed already, as a source for `config`.
#[derive(Clone, Debug)]
struct Parsed(Value);

impl Source for Parsed {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<ConfigMap<String, ConfigValue>, ConfigError> {
        to_config(&self.0).into_table()
    }

    /// The default would read a key with a dot as a path.
    fn collect_to(&self, cache: &mut ConfigValue) -> Result<(), ConfigError> {
        *cache = to_config(&self.0);
        Ok(())
    }
}

fn to_config(value: &Value) -> ConfigValue {
    let kind = match value {
        Value::Null => ValueKind::Nil,
        Value::Bool(flag) => ValueKind::Boolean(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(signed), _) => ValueKind::I64(signed),
            (None, Some(unsigned)) => ValueKind::U64(unsigned),
            (None, None) => ValueKind::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => ValueKind::String(text.clone()),
        Value::Array(items) => ValueKind::Array(items.iter().map(to_config).collect()),
        Value::Object(map) => ValueKind::Table(map.iter().map(|(k, v)| (k.clone(), to_config(v))).collect()),
    };
    ConfigValue::new(None, kind)
}

/// Text from the environment becomes a number where the schema wants one. Text of the file never does.
fn take_environment(document: &mut Value, overrides: &BTreeMap<Place, String>) {
    for place in overrides.keys() {
        if let Some(value) = place.get_mut(document)
            && let Some(text) = value.as_str()
        {
            *value = schema::coerce(place, text);
        }
    }
}

/// A key without a value is an absent key.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, inner| !inner.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The schema has spoken, so this fails only where the two would disagree; then it says so.
fn read_typed(document: &Value, problems: &mut Problems) -> RawConfig {
    match serde_path_to_error::deserialize(document) {
        Ok(raw) => raw,
        Err(error) => {
            problems.add(
                Place::from_dotted(&error.path().to_string()),
                error.inner().to_string(),
                "see `gharts-listener config example`",
            );
            RawConfig::default()
        }
    }
}

//! `charts/gharts-listener`: the values' schema always; rendered by real Helm where `GHARTS_TEST_HELM` names one; and
//! installed on a real API server where there is one, too (`tests/all.sh` gets both).

mod cleanup;
pub mod cluster;
mod first_job;
mod installed;
pub mod rendered;
mod rotated;
mod schema;
mod unwell;
mod world;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use serde::Deserialize as _;
use serde_json::Value;

/// As every example and the simulated world have them.
const DAEMON_NAMESPACE: &str = "gharts-listener";
const RUNNER_NAMESPACE: &str = "runners";

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn chart() -> String {
    root().join("charts/gharts-listener").display().to_string()
}

/// One of the chart's own sets of values: `minimal`, say.
pub fn values(name: &str) -> String {
    format!("{}/ci/{name}-values.yaml", chart())
}

/// All of them.
fn all_values() -> Vec<String> {
    let folder = fs::read_dir(root().join("charts/gharts-listener/ci")).unwrap();
    let mut files: Vec<String> = folder
        .map(|entry| entry.unwrap().path().display().to_string())
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    files
}

/// The real Helm, or a word about what its absence leaves open.
fn helm() -> Option<Helm> {
    let path = std::env::var("GHARTS_TEST_HELM").ok();
    if path.is_none() {
        println!("SKIPPED: no GHARTS_TEST_HELM, so the chart was not rendered");
    }
    path.map(Helm)
}

pub struct Helm(String);

impl Helm {
    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(&self.0).args(arguments).output().unwrap()
    }

    /// What is printed where it succeeds.
    fn succeeds(&self, arguments: &[&str]) -> String {
        succeeded(&format!("helm {arguments:?}"), &self.run(arguments))
    }

    /// Its complaint where it must not succeed.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "helm {arguments:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The objects that these values become, of a release `gharts-listener` in the usual namespace.
    pub fn template(&self, arguments: &[&str]) -> Objects {
        let chart = chart();
        let all = ["template", "gharts-listener", &chart, "--namespace", DAEMON_NAMESPACE];
        Objects::parse(&self.succeeds(&[&all, arguments].concat()))
    }
}

pub fn succeeded(what: &str, output: &Output) -> String {
    assert!(
        output.status.success(),
        "{what}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub struct Objects(Vec<Value>);

impl Objects {
    fn parse(text: &str) -> Self {
        let documents = serde_yaml_ng::Deserializer::from_str(text).map(|one| Value::deserialize(one).unwrap());
        Self(documents.filter(|object| !object.is_null()).collect())
    }

    pub fn of_kind(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|object| object["kind"] == kind).collect()
    }

    fn only(&self, kind: &str) -> &Value {
        let found = self.of_kind(kind);
        assert_eq!(found.len(), 1, "{kind}");
        found[0]
    }

    /// The daemon's file.
    fn file(&self) -> &str {
        self.only("ConfigMap")["data"]["config.yaml"].as_str().unwrap()
    }

    fn pod(&self) -> &Value {
        &self.only("Deployment")["spec"]["template"]["spec"]
    }

    /// The rules of all Roles in a namespace.
    fn rules(&self, namespace: &str) -> Vec<Value> {
        let roles = self.of_kind("Role").into_iter();
        let roles = roles.filter(|role| role["metadata"]["namespace"] == namespace);
        roles
            .flat_map(|role| role["rules"].as_array().unwrap().clone())
            .collect()
    }
}

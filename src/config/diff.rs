//! What differs between two configurations, for people: where, and from what to what.
//!
//! Secrets are never shown: the file holds references to them only, and of the places where somebody may have written
//! one all the same (templates, commands and their environment, proxies) only that they changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{Config, GitHubAuth, Oidc, ProvisionerKind, Proxy, ScaleSet, SecretRef, show::raw};
use crate::ids::SetName;

/// What a running daemon cannot change: its port, its cluster and namespace, its Lease, how it logs.
const FIXED: [&str; 4] = ["server", "kubernetes", "lease", "logging"];
/// Values below these keys are not shown, but for images.
const HIDDEN: [&str; 5] = ["template", "command", "env", "http", "https"];
/// Longer values are cut.
const LONGEST: usize = 100;

/// One place at which two configurations differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `scaleSets[linux].maxRunners`
    pub path: String,
    /// `10 -> 20`, `added`, `removed`, or `changed` where the values are not shown.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

impl Difference {
    /// It comes into effect with the next start only.
    pub fn needs_restart(&self) -> bool {
        let head = self.path.split(['.', '[']).next();
        head.is_some_and(|head| FIXED.contains(&head))
    }
}

/// All differences, in the order of their paths.
pub fn diff(old: &Config, new: &Config) -> Vec<Difference> {
    let value = |config| serde_json::to_value(raw(config)).unwrap_or_default();
    let mut found = Vec::new();
    compare("", Some(&value(old)), Some(&value(new)), false, &mut found);
    found
}

impl Config {
    /// This configuration as a daemon can take it that was started with `running`.
    #[must_use]
    pub fn for_running(self, running: &Self) -> Self {
        Self {
            server: running.server.clone(),
            kubernetes: running.kubernetes.clone(),
            lease: running.lease.clone(),
            logging: running.logging.clone(),
            ..self
        }
    }

    /// Scale sets that behave otherwise in `new`; also those that only one of the two has.
    pub fn sets_that_differ<'a>(&'a self, new: &'a Self) -> BTreeSet<&'a SetName> {
        let sets = |config: &'a Self| config.scale_sets.iter().map(|set| (&set.name, set));
        let (old_sets, new_sets): (BTreeMap<_, _>, BTreeMap<_, _>) = (sets(self).collect(), sets(new).collect());
        let names: BTreeSet<_> = old_sets.keys().chain(new_sets.keys()).copied().collect();
        let differs = |name: &&SetName| {
            let (old, new_set) = (old_sets.get(name), new_sets.get(name));
            let gharts = |set: Option<&&ScaleSet>| set.is_some_and(|set| set.uses_gharts());
            old != new_set || (gharts(old) && self.gharts != new.gharts)
        };
        names.into_iter().filter(differs).collect()
    }

    /// Every file beside the configuration's own that it names and that may change: secrets and CA bundles.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        for github in std::iter::once(&self.github).chain(self.scale_sets.iter().map(|set| &set.github)) {
            files.extend(github.auth.file().map(Path::to_owned));
            files.extend(github.tls.ca_file.clone());
            files.extend(github.proxy.file().map(Path::to_owned));
        }
        if let Some(gharts) = &self.gharts {
            files.extend(gharts.oidc.file().map(Path::to_owned));
            files.extend(gharts.tls.ca_file.clone());
        }
        files
    }
}

impl ScaleSet {
    /// Its runners, or its way to GitHub, are granted by GHARTS.
    pub fn uses_gharts(&self) -> bool {
        self.provisioner == ProvisionerKind::Gharts || self.github.auth == GitHubAuth::Gharts
    }
}

impl Proxy {
    /// Where its credentials stand, when that is a file.
    pub fn file(&self) -> Option<&Path> {
        self.credentials.as_ref()?.file()
    }
}

impl GitHubAuth {
    /// Where the credential stands, when that is a file.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::App {
                private_key: secret, ..
            }
            | Self::Pat { token: secret } => secret.file(),
            Self::Gharts => None,
        }
    }
}

impl Oidc {
    /// Where the identity stands, when that is a file.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::External { client_secret, .. } => client_secret.file(),
            Self::File { path } => Some(path),
            Self::Kubernetes { .. } | Self::Exec(_) => None,
        }
    }
}

impl SecretRef {
    fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Env(_) => None,
        }
    }
}

/// What stands in each of some files, without keeping it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents(BTreeMap<PathBuf, Option<u64>>);

impl Contents {
    /// Blocks for the reading of small files.
    pub fn of<'a>(files: impl IntoIterator<Item = &'a Path>) -> Self {
        let read = |path: &Path| {
            let bytes = std::fs::read(path).ok()?;
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            Some(hasher.finish())
        };
        Self(files.into_iter().map(|path| (path.to_owned(), read(path))).collect())
    }

    /// Files that are new here, as `other` has them.
    pub fn add(&mut self, other: Self) {
        self.0.retain(|path, _| other.0.contains_key(path));
        for (path, content) in other.0 {
            self.0.entry(path).or_insert(content);
        }
    }

    /// Files of both that hold something else now.
    pub fn changed_since(&self, before: &Self) -> BTreeSet<PathBuf> {
        let changed = |(path, now): &(&PathBuf, &Option<u64>)| before.0.get(*path).is_some_and(|then| then != *now);
        self.0.iter().filter(changed).map(|(path, _)| path.clone()).collect()
    }
}

fn compare(path: &str, old: Option<&Value>, new: Option<&Value>, hidden: bool, found: &mut Vec<Difference>) {
    let (old, new) = (old.filter(|v| !v.is_null()), new.filter(|v| !v.is_null()));
    if old == new {
        return;
    }
    let pairs = match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            let step = |key: &str| {
                if path.is_empty() {
                    key.to_owned()
                } else {
                    format!("{path}.{key}")
                }
            };
            for key in keys {
                let hidden = (hidden || HIDDEN.contains(&key.as_str())) && key != "image";
                compare(&step(key), old.get(key), new.get(key), hidden, found);
            }
            return;
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => by_name(old).zip(by_name(new)),
        _ => None,
    };
    if let Some((old, new)) = pairs {
        let names: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
        for name in names {
            let path = format!("{path}[{name}]");
            compare(&path, old.get(name).copied(), new.get(name).copied(), hidden, found);
        }
        return;
    }
    let what = match (old, new) {
        (None, Some(value)) if is_shown(value, hidden) => format!("none -> {}", shown(value)),
        (Some(value), None) if is_shown(value, hidden) => format!("{} -> none", shown(value)),
        (None, _) => "added".to_owned(),
        (_, None) => "removed".to_owned(),
        (Some(old), Some(new)) if is_shown(old, hidden) && is_shown(new, hidden) => {
            format!("{} -> {}", shown(old), shown(new))
        }
        _ => "changed".to_owned(),
    };
    found.push(Difference {
        path: path.to_owned(),
        what,
    });
}

/// A list whose entries all have names of their own.
fn by_name(list: &[Value]) -> Option<BTreeMap<&str, &Value>> {
    let named: Option<BTreeMap<&str, &Value>> = list.iter().map(|v| Some((v.get("name")?.as_str()?, v))).collect();
    named.filter(|named| named.len() == list.len())
}

fn is_shown(value: &Value, hidden: bool) -> bool {
    !hidden && !value.is_object() && !value.as_array().is_some_and(|list| list.iter().any(Value::is_object))
}

fn shown(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const FILE: &str = "
github: { configUrl: https://github.com/acme, auth: { pat: { tokenEnv: CARGO_PKG_NAME } } }
gharts:
  baseUrl: https://gharts.example.com
  oidc: { provider: exec, exec: { command: [/bin/sh, hunter2], env: { KEY: hunter2 } } }
kubernetes: { namespace: runners }
scaleSets:
  - { name: linux, maxRunners: 10 }
  - name: gpu
    maxRunners: 2
    provisioner: scaleSet
    template:
      spec: { containers: [ { name: runner, image: 'runner:1', env: [ { name: A, value: hunter2 } ] } ] }
";

    fn config(text: &str) -> Config {
        parse(text, &[("CARGO_PKG_NAME".to_owned(), "t".to_owned())].into()).unwrap()
    }

    fn differences(edits: &[(&str, &str)]) -> Vec<String> {
        let text = edits.iter().fold(FILE.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        diff(&config(FILE), &config(&text))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn b38_a_difference_says_where_and_from_what_to_what() {
        assert_eq!(differences(&[]), [""; 0]);
        assert_eq!(
            differences(&[
                (
                    "maxRunners: 10 }",
                    "maxRunners: 20, labels: [linux, big], timeouts: { idle: 1m } }"
                ),
                ("scaleSets:", "maxRunners: 50\nscaleSets:"),
                ("runner:1", "runner:2"),
            ]),
            [
                "maxRunners: none -> 50",
                "scaleSets[gpu].template.spec.containers[runner].image: runner:1 -> runner:2",
                r#"scaleSets[linux].labels: ["linux"] -> ["linux","big"]"#,
                "scaleSets[linux].maxRunners: 10 -> 20",
                "scaleSets[linux].timeouts.idle: 2m -> 1m",
            ]
        );
        assert_eq!(
            differences(&[("name: linux", "name: other")]),
            ["scaleSets[linux]: removed", "scaleSets[other]: added"]
        );
    }

    #[test]
    fn b38_no_difference_shows_what_may_be_a_secret() {
        assert_eq!(
            differences(&[("hunter2", "hunter3"), ("runners }", "runners, context: there }")]),
            [
                "gharts.oidc.exec.command: changed",
                "gharts.oidc.exec.env.KEY: changed",
                "kubernetes.context: none -> there",
                "scaleSets[gpu].template.spec.containers[runner].env[A].value: changed",
            ]
        );
        let proxy = |port: u16| {
            let proxy = format!("proxy: {{ https: 'http://proxy:{port}' }}, configUrl");
            config(&FILE.replacen("configUrl", &proxy, 1))
        };
        let [changed] = &diff(&proxy(1), &proxy(2))[..] else {
            panic!("one change")
        };
        assert_eq!(changed.to_string(), "github.proxy.https: changed");
    }

    #[test]
    fn b38_what_needs_a_restart_stays_as_it_runs() {
        let running = config(FILE);
        let new = config(
            &FILE
                .replace("runners }", "other }")
                .replace("maxRunners: 10", "maxRunners: 20"),
        );
        let (fixed, rest): (Vec<_>, Vec<_>) = diff(&running, &new).into_iter().partition(Difference::needs_restart);
        assert_eq!((fixed.len(), rest.len()), (1, 1));
        let taken = new.clone().for_running(&running);
        assert_eq!(taken.kubernetes, running.kubernetes);
        assert_eq!(diff(&taken, &new), fixed);
        let differ: Vec<String> = running
            .sets_that_differ(&new)
            .into_iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(differ, ["linux"]);
        let other = config(&FILE.replace("gharts.example.com", "other.example.com"));
        let differ: Vec<String> = running
            .sets_that_differ(&other)
            .into_iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(differ, ["linux"], "those that GHARTS serves");
    }
}

//! From the established controller's values and objects to a file of ours, pure. Each value is taken out of its document
//! when it is understood; what is left in the end was not.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::reasons::reason;

/// Where the file wants secrets and certificates to be mounted.
const FOLDER: &str = "/etc/gharts-listener";
/// Without `maxRunners` there was no limit; ours needs one, and takes no higher one.
const MOST_RUNNERS: u32 = 10_000;

/// What became of the documents.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Imported {
    pub(super) file: Value,
    /// Path in a document, and why it is not carried over.
    pub(super) dropped: Vec<(String, String)>,
    /// Key of our file, and what a person must still do for it.
    pub(super) to_do: Vec<(String, String)>,
}

pub(super) fn import(documents: Vec<Value>, namespace: &str) -> Result<Imported, String> {
    let mut import = Import {
        namespace: namespace.to_owned(),
        ..Import::default()
    };
    let documents = flat(documents);
    let several = documents.len() > 1;
    for (n, document) in documents.into_iter().enumerate() {
        let name = if several {
            format!("document {}: ", n + 1)
        } else {
            String::new()
        };
        import.take_in(Source { document, name })?;
    }
    import.finish()
}

/// Lists of objects, as `kubectl get -o yaml` prints them, become their items.
fn flat(documents: Vec<Value>) -> Vec<Value> {
    documents
        .into_iter()
        .flat_map(|mut document| match document.pointer_mut("/items").map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => vec![document],
        })
        .collect()
}

/// One document; what is understood is taken out of it.
struct Source {
    document: Value,
    name: String,
}

impl Source {
    fn has(&self, path: &str) -> bool {
        get(&self.document, path).is_some_and(|value| !value.is_null())
    }

    fn take(&mut self, path: &str) -> Option<Value> {
        let (outer, key) = match path.rsplit_once('.') {
            Some((outer, key)) => (get_mut(&mut self.document, outer)?, key),
            None => (&mut self.document, path),
        };
        let value = outer.as_object_mut()?.remove(key)?;
        (!is_empty(&value)).then_some(value)
    }

    fn text(&mut self, path: &str) -> Option<String> {
        match self.take(path)? {
            Value::String(text) => Some(text),
            Value::Number(number) => Some(number.to_string()),
            other => {
                self.put_back(path, other);
                None
            }
        }
    }

    /// It was not what was expected: so it is not understood.
    fn put_back(&mut self, path: &str, value: Value) {
        let (outer, key) = match path.rsplit_once('.') {
            Some((outer, key)) => (get_mut(&mut self.document, outer), key),
            None => (Some(&mut self.document), path),
        };
        if let Some(map) = outer.and_then(Value::as_object_mut) {
            map.insert(key.to_owned(), value);
        }
    }
}

fn put(set: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        set.insert(key.to_owned(), value);
    }
}

fn get<'a>(document: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(document, |value, key| value.get(key))
}

fn get_mut<'a>(document: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    path.split('.').try_fold(document, |value, key| value.get_mut(key))
}

/// `{}`, `[]`, `""` and nothing say nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The leaves of what was not understood, by path.
fn leaves(value: &Value, at: &str, out: &mut Vec<String>) {
    let join = |key: &str| {
        if at.is_empty() {
            key.to_owned()
        } else {
            format!("{at}.{key}")
        }
    };
    match value {
        value if is_empty(value) => {}
        Value::Object(map) => map.iter().for_each(|(key, inner)| leaves(inner, &join(key), out)),
        _ => out.push(at.to_owned()),
    }
}

#[derive(Default)]
struct Import {
    namespace: String,
    github: Map<String, Value>,
    logging: Map<String, Value>,
    listen: Option<String>,
    sets: Vec<Value>,
    dropped: Vec<(String, String)>,
    to_do: Vec<(String, String)>,
}

impl Import {
    fn take_in(&mut self, mut source: Source) -> Result<(), String> {
        if source.document["kind"] == "AutoscalingRunnerSet" {
            self.runner_set(&mut source);
        } else if source.has("scaleset") || source.has("auth") {
            experimental(&mut source);
            self.values(&mut source);
        } else if [
            "githubConfigUrl",
            "githubConfigSecret",
            "runnerScaleSetName",
            "containerMode",
            "template",
            "maxRunners",
        ]
        .iter()
        .any(|key| source.has(key))
        {
            self.values(&mut source);
        } else if ["flags", "replicaCount", "metrics", "image"]
            .iter()
            .any(|key| source.has(key))
        {
            self.controller(&mut source);
        } else {
            return Err(format!(
                "{}neither values of the charts gha-runner-scale-set or gha-runner-scale-set-controller, nor an AutoscalingRunnerSet",
                source.name
            ));
        }
        let mut left = Vec::new();
        leaves(&source.document, "", &mut left);
        for path in left {
            let why = reason(&path).to_owned();
            self.dropped.push((format!("{}{path}", source.name), why));
        }
        Ok(())
    }

    fn remind(&mut self, key: impl Into<String>, what: impl Into<String>) {
        let entry = (key.into(), what.into());
        if !self.to_do.contains(&entry) {
            self.to_do.push(entry);
        }
    }

    // ---- The controller's chart -------------------------------------------------------------------------

    fn controller(&mut self, source: &mut Source) {
        if let Some(level) = source.text("flags.logLevel") {
            self.logging.insert("level".to_owned(), json!(level));
        }
        if let Some(format) = source.text("flags.logFormat") {
            let format = if format == "json" { "json" } else { "human" };
            self.logging.insert("format".to_owned(), json!(format));
        }
        if let Some(namespace) = source.text("flags.watchSingleNamespace") {
            self.namespace = namespace;
        }
        if let Some(address) = source.text("metrics.listenerAddr") {
            self.listen = Some(if address.starts_with(':') {
                format!("0.0.0.0{address}")
            } else {
                address
            });
        }
    }

    // ---- A scale set ------------------------------------------------------------------------------------

    /// An object of the cluster: what the chart has rendered, with the chart's names for it.
    fn runner_set(&mut self, source: &mut Source) {
        let fallback = source.text("metadata.name");
        let namespace = source.text("metadata.namespace");
        let Some(Value::Object(mut spec)) = source.take("spec") else {
            return;
        };
        if let Some(labels) = spec.remove("runnerScaleSetLabels") {
            spec.insert("scaleSetLabels".to_owned(), labels);
        }
        if let Some(name) = fallback {
            spec.entry("runnerScaleSetName").or_insert(json!(name));
        }
        spec.insert("namespaceOverride".to_owned(), json!(namespace));
        // What is left of the object itself is listed with the rest.
        spec.extend(
            ["metadata", "status"]
                .into_iter()
                .filter_map(|own| Some((own.to_owned(), source.take(own)?))),
        );
        source.document = Value::Object(spec);
        self.values(source);
    }

    fn values(&mut self, source: &mut Source) {
        let mut set = Map::new();
        let n = self.sets.len();
        let name = source.text("runnerScaleSetName").unwrap_or_else(|| {
            self.to_do.push((
                format!("scaleSets[{n}].name"),
                "the Helm release's name was the set's; write it here".to_owned(),
            ));
            format!("set-{}", n + 1)
        });
        put(&mut set, "name", Some(json!(name)));
        if let Some(Value::Array(more)) = source.take("scaleSetLabels") {
            // The name is a label too, and comes first.
            let mut labels = vec![json!(name)];
            labels.extend(more.into_iter().filter(|label| *label != json!(name)));
            put(&mut set, "labels", Some(Value::Array(labels)));
        }
        put(&mut set, "minRunners", source.take("minRunners"));
        let most = source.take("maxRunners");
        if most.is_none() {
            self.remind(
                format!("scaleSets[{n}].maxRunners"),
                "there was no limit; lower this to what your cluster and your quota bear",
            );
        }
        put(&mut set, "maxRunners", Some(most.unwrap_or(json!(MOST_RUNNERS))));
        put(&mut set, "provisioner", Some(json!("scaleSet")));
        let github = self.github_of(source);
        self.mode(source, &mut set, n);
        Self::template(source, &mut set);
        if let Some(namespace) = source.text("namespaceOverride") {
            if n > 0 && namespace != self.namespace {
                self.remind(
                    format!("scaleSets[{n}]"),
                    format!("its runners lived in {namespace}; one listener serves one namespace, so give it a file of its own"),
                );
            } else {
                self.namespace = namespace;
            }
        }
        self.merge_github(github, &mut set);
        self.sets.push(Value::Object(set));
    }

    /// The first set's GitHub is the file's; what is different in another one is its own.
    fn merge_github(&mut self, mut github: Map<String, Value>, set: &mut Map<String, Value>) {
        if self.github.is_empty() {
            self.github = github;
            return;
        }
        github.retain(|key, value| self.github.get(key) != Some(value));
        for shared in ["tls", "proxy"] {
            if github.remove(shared).is_some() {
                self.remind(
                    format!("github.{shared}"),
                    "differs between the sets; one file has one, so give sets with another way out a file of their own",
                );
            }
        }
        if !github.is_empty() {
            set.insert("github".to_owned(), Value::Object(github));
        }
    }

    fn github_of(&mut self, source: &mut Source) -> Map<String, Value> {
        let mut github = Map::new();
        if let Some(url) = source.text("githubConfigUrl") {
            github.insert("configUrl".to_owned(), json!(url));
        } else {
            self.remind(
                "github.configUrl",
                "the organization, repository or enterprise: it was not given",
            );
        }
        if let Some(group) = source.text("runnerGroup") {
            github.insert("runnerGroup".to_owned(), json!(group));
        }
        let auth = self.auth(source);
        github.insert("auth".to_owned(), auth);
        if let Some(tls) = self.tls(source) {
            github.insert("tls".to_owned(), tls);
        }
        if let Some(proxy) = self.proxy(source) {
            github.insert("proxy".to_owned(), proxy);
        }
        github
    }

    /// Secrets are named, never repeated.
    fn auth(&mut self, source: &mut Source) -> Value {
        let key = format!("{FOLDER}/github_app_private_key");
        let token = format!("{FOLDER}/github_token");
        if let Some(name) = source.document["githubConfigSecret"].as_str().map(str::to_owned) {
            source.take("githubConfigSecret");
            self.remind(
                "github.auth",
                format!(
                    "mount the Secret {name} at {FOLDER}. If it holds github_app_private_key, write instead \
                     `app: {{ clientId, installationId, privateKeyFile: {key} }}` with its github_app_id and github_app_installation_id"
                ),
            );
            return json!({"pat": {"tokenFile": token}});
        }
        let id = source.text("githubConfigSecret.github_app_id");
        let installation = source.text("githubConfigSecret.github_app_installation_id");
        if source.take("githubConfigSecret.github_app_private_key").is_some() || id.is_some() {
            self.remind(
                "github.auth.app.privateKeyFile",
                "put the App's private key (PEM) into this file",
            );
            let installation = installation.and_then(|text| text.parse::<u64>().ok());
            return json!({"app": {"clientId": id, "installationId": installation, "privateKeyFile": key}});
        }
        source.take("githubConfigSecret.github_token");
        self.remind("github.auth.pat.tokenFile", "put the token into this file");
        json!({"pat": {"tokenFile": token}})
    }

    fn tls(&mut self, source: &mut Source) -> Option<Value> {
        let config_map = source.text("githubServerTLS.certificateFrom.configMapKeyRef.name")?;
        let key = source.text("githubServerTLS.certificateFrom.configMapKeyRef.key");
        let file = format!("{FOLDER}/{}", key.as_deref().unwrap_or("ca.crt"));
        self.remind(
            "github.tls.caFile",
            format!("mount the ConfigMap {config_map} there for the listener; `runners` is for the runners"),
        );
        let mut tls = json!({"caFile": file});
        // Without a path the runners were not given it.
        if let Some(path) = source.text("githubServerTLS.runnerMountPath") {
            tls["runners"] = json!({"configMap": config_map, "mountPath": path});
            if let Some(key) = key {
                tls["runners"]["key"] = json!(key);
            }
        }
        Some(tls)
    }

    fn proxy(&mut self, source: &mut Source) -> Option<Value> {
        let mut proxy = Map::new();
        let mut secrets = BTreeSet::new();
        for scheme in ["http", "https"] {
            if let Some(url) = source.text(&format!("proxy.{scheme}.url")) {
                proxy.insert(scheme.to_owned(), json!(url));
            }
            secrets.extend(source.text(&format!("proxy.{scheme}.credentialSecretRef")));
        }
        if proxy.is_empty() {
            return None;
        }
        if let Some(hosts) = source.take("proxy.noProxy") {
            proxy.insert("noProxy".to_owned(), hosts);
        }
        if !secrets.is_empty() {
            let names: Vec<String> = secrets.into_iter().collect();
            proxy.insert("credentialsFile".to_owned(), json!(format!("{FOLDER}/proxy")));
            proxy.insert("runnersSecret".to_owned(), json!("runner-proxy"));
            self.remind(
                "github.proxy.credentialsFile",
                format!(
                    "write user:password of the Secret {} into this file",
                    names.join(" and ")
                ),
            );
            self.remind(
                "github.proxy.runnersSecret",
                "make this Secret in the runner namespace, with whole URLs under http_proxy and https_proxy (docs/container-modes.md)",
            );
        }
        Some(Value::Object(proxy))
    }

    // ---- Its pods ---------------------------------------------------------------------------------------

    fn mode(&mut self, source: &mut Source, set: &mut Map<String, Value>, n: usize) {
        let hooks = hooks_of(&source.document);
        let mode = source.text("containerMode.type");
        let mode = mode.as_deref().or(match hooks.as_deref() {
            Some(path) if path.contains("novolume") => Some("kubernetes-novolume"),
            Some(_) => Some("kubernetes"),
            None => None,
        });
        let Some(mode) = mode else { return };
        set.insert("containerMode".to_owned(), json!(mode));
        if mode.starts_with("kubernetes") {
            let mut details = Map::new();
            if let Some(claim) = source.take("containerMode.kubernetesModeWorkVolumeClaim") {
                details.insert("workVolumeClaim".to_owned(), claim);
            }
            if !details.is_empty() {
                set.insert("kubernetesMode".to_owned(), Value::Object(details));
            }
            self.remind(
                format!("scaleSets[{n}].kubernetesMode.serviceAccount"),
                "make the runners' service account and its Role (docs/container-modes.md)",
            );
        }
        let mut dind = Map::new();
        if let Some(image) = source.text("template.spec.dind.image") {
            dind.insert("image".to_owned(), json!(image));
        }
        if let Some(level) = source.text("template.spec.dind.logLevel") {
            dind.insert("args".to_owned(), json!([format!("--log-level={level}")]));
        }
        if mode == "dind" && !dind.is_empty() {
            set.insert("dind".to_owned(), Value::Object(dind));
        }
    }

    fn template(source: &mut Source, set: &mut Map<String, Value>) {
        let Some(mut template) = source.take("template") else {
            return;
        };
        let mut left = Map::new();
        if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
            let theirs: Vec<String> = metadata
                .keys()
                .filter(|key| !matches!(key.as_str(), "labels" | "annotations"))
                .cloned()
                .collect();
            let taken = theirs
                .into_iter()
                .filter_map(|key| Some((key.clone(), metadata.remove(&key)?)));
            left.insert("metadata".to_owned(), Value::Object(taken.collect()));
        }
        let mut spec_left = Map::new();
        if let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) {
            spec.remove("dind");
            // Ours says the same.
            if spec.get("restartPolicy").is_some_and(|policy| policy == "Never") {
                spec.remove("restartPolicy");
            }
            for reserved in ["restartPolicy", "nodeName", "activeDeadlineSeconds"] {
                spec_left.extend(spec.remove(reserved).map(|value| (reserved.to_owned(), value)));
            }
            let of_chart = |name: &Value| {
                let name = name.as_str().unwrap_or_default();
                name.ends_with("-gha-rs-no-permission") || name.ends_with("-gha-rs-kube-mode")
            };
            if spec.get("serviceAccountName").is_some_and(of_chart) {
                spec_left.extend(
                    spec.remove("serviceAccountName")
                        .map(|value| ("serviceAccountName".to_owned(), value)),
                );
            }
        }
        left.insert("spec".to_owned(), Value::Object(spec_left));
        source.put_back("template", Value::Object(left));
        prune(&mut template);
        if !is_empty(&template) {
            set.insert("template".to_owned(), template);
        }
    }

    fn finish(mut self) -> Result<Imported, String> {
        if self.sets.is_empty() {
            return Err("no scale set in it: name the values of gha-runner-scale-set too".to_owned());
        }
        let mut file = Map::new();
        file.insert("github".to_owned(), Value::Object(std::mem::take(&mut self.github)));
        file.insert("kubernetes".to_owned(), json!({"namespace": self.namespace}));
        if let Some(listen) = self.listen {
            file.insert("server".to_owned(), json!({"listen": listen}));
        }
        if !self.logging.is_empty() {
            file.insert("logging".to_owned(), Value::Object(self.logging));
        }
        file.insert("scaleSets".to_owned(), Value::Array(self.sets));
        Ok(Imported {
            file: Value::Object(file),
            dropped: self.dropped,
            to_do: self.to_do,
        })
    }
}

/// Empty lists and mappings say nothing in a template, but for volumes: `emptyDir: {}`.
fn prune(template: &mut Value) {
    if let Value::Object(map) = template {
        map.values_mut().for_each(prune_one);
        map.retain(|_, value| !is_empty(value));
    }
}

fn prune_one(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, inner| !inner.is_null());
    }
}

/// The container hooks that a rendered template's runner uses.
fn hooks_of(document: &Value) -> Option<String> {
    let containers = document.pointer("/template/spec/containers")?.as_array()?;
    let runner = containers.iter().find(|c| c["name"] == "runner")?;
    let env = runner["env"].as_array()?;
    let hooks = env.iter().find(|e| e["name"] == "ACTIONS_RUNNER_CONTAINER_HOOKS")?;
    hooks["value"].as_str().map(str::to_owned)
}

/// The experimental chart's values under the names of the other one.
fn experimental(source: &mut Source) {
    const NAMES: [(&str, &str); 14] = [
        ("scaleset.name", "runnerScaleSetName"),
        ("scaleset.runnerGroup", "runnerGroup"),
        ("scaleset.labels", "scaleSetLabels"),
        ("scaleset.minRunners", "minRunners"),
        ("scaleset.maxRunners", "maxRunners"),
        ("auth.url", "githubConfigUrl"),
        ("auth.secretName", "githubConfigSecret"),
        ("auth.githubToken", "githubConfigSecret.github_token"),
        ("auth.app.clientId", "githubConfigSecret.github_app_id"),
        (
            "auth.app.installationId",
            "githubConfigSecret.github_app_installation_id",
        ),
        ("auth.app.privateKey", "githubConfigSecret.github_app_private_key"),
        ("runner.mode", "containerMode.type"),
        (
            "runner.kubernetesMode.workVolumeClaim",
            "containerMode.kubernetesModeWorkVolumeClaim",
        ),
        ("runner.pod", "template"),
    ];
    for (theirs, name) in NAMES {
        let Some(value) = source.take(theirs) else { continue };
        if let (Some((outer, _)), Some(map)) = (name.split_once('.'), source.document.as_object_mut()) {
            map.entry(outer).or_insert_with(|| json!({}));
        }
        source.put_back(name, value);
    }
    let mut runner = match source.take("runner.container") {
        Some(Value::Object(container)) => container,
        _ => Map::new(),
    };
    if let Some(env) = source.take("runner.env") {
        runner.insert("env".to_owned(), env);
    }
    if !runner.is_empty() {
        runner.insert("name".to_owned(), json!("runner"));
        let containers = &mut source.document["template"]["spec"]["containers"];
        match containers {
            Value::Array(all) => all.insert(0, Value::Object(runner)),
            other => *other = json!([runner]),
        }
    }
}

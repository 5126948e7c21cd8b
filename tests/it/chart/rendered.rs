//! What values become, by real Helm.

use std::{collections::BTreeSet, fs};

use gharts_listener::{
    clock::Clock,
    config::{self, Config, Environment},
    sim::{
        keys::SigningKey,
        kubernetes::{Model, client},
        world,
    },
};
use k8s_openapi::api::rbac::v1::Role;
use kube::Api;
use serde_json::{Value, json};

use super::{DAEMON_NAMESPACE, Objects, RUNNER_NAMESPACE, all_values, chart, helm, values};
use crate::killed::scratch;

const CREDENTIALS: &str = "/etc/gharts-listener/credentials/";
const TOKEN: &str = "/var/run/secrets/gharts-listener/token";

/// Loads the rendered file, with every credential that the pod mounts in its place, and nothing else.
fn load(name: &str, objects: &Objects) -> Config {
    let folder = scratch(&format!("chart-{name}"));
    let mut text = objects.file().replace(CREDENTIALS, &format!("{}/", folder.display()));
    for source in sources(objects, "credentials") {
        for kind in ["secret", "configMap"] {
            for item in source[kind]["items"].as_array().into_iter().flatten() {
                let file = item["path"].as_str().unwrap();
                let content = if file == "ca" { certificate() } else { key() };
                fs::write(folder.join(file), content).unwrap();
            }
        }
    }
    if !sources(objects, "token").is_empty() {
        fs::write(folder.join("token"), "a.b.c").unwrap();
        text = text.replace(TOKEN, &folder.join("token").display().to_string());
    }
    config::parse(&text, &Environment::new()).unwrap_or_else(|problems| panic!("{name}: {problems:#?}\n{text}"))
}

fn certificate() -> String {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    key.cert.pem()
}

fn key() -> String {
    SigningKey::shared("chart").unwrap().private_pem().to_owned()
}

fn sources(objects: &Objects, volume: &str) -> Vec<Value> {
    let volumes = objects.pod()["volumes"].as_array().unwrap();
    let found = volumes.iter().find(|one| one["name"] == volume);
    found.map_or_else(Vec::new, |one| one["projected"]["sources"].as_array().unwrap().clone())
}

#[test]
fn b38_the_chart_passes_helms_lint_with_every_set_of_values() {
    let Some(helm) = helm() else { return };
    helm.succeeds(&["lint", &chart()]);
    for file in all_values() {
        helm.succeeds(&["lint", "--strict", &chart(), "--values", &file]);
    }
}

#[test]
fn b38_every_set_of_values_becomes_a_file_that_the_daemon_takes() {
    let Some(helm) = helm() else { return };
    for (n, file) in all_values().into_iter().enumerate() {
        load(&n.to_string(), &helm.template(&["--values", &file]));
    }
}

/// Before an uninstall: the same pod with another command, and nobody who would be in its way.
#[test]
fn b56_the_cleanup_job_is_the_daemons_pod_with_another_command_in_its_place() {
    let Some(helm) = helm() else { return };
    let full = values("full");
    let daemon = helm.template(&["--values", &full]);
    assert!(daemon.of_kind("Job").is_empty());
    let arguments = "cleanup.args={--scale-sets,linux-large}";
    let objects = helm.template(&["--values", &full, "--set", "cleanup.enabled=true", "--set", arguments]);
    assert_eq!(objects.only("Deployment")["spec"]["replicas"], 0);
    let job = objects.only("Job");
    assert_eq!(job["metadata"]["name"], "gharts-listener-cleanup-1");
    let mut pod = job["spec"]["template"]["spec"].clone();
    let container = pod["containers"][0].as_object_mut().unwrap();
    assert_eq!(
        container.insert("args".to_owned(), json!(["run"])),
        Some(json!(["cleanup", "--scale-sets", "linux-large"]))
    );
    assert_eq!(
        pod.as_object_mut().unwrap().remove("restartPolicy"),
        Some("Never".into())
    );
    let mut without_port = daemon.pod().clone();
    for of_the_port in ["ports", "livenessProbe", "readinessProbe"] {
        let container = without_port["containers"][0].as_object_mut().unwrap();
        assert!(container.remove(of_the_port).is_some(), "{of_the_port}");
    }
    assert_eq!(pod, without_port);
}

/// `config` is the file: the example that explains every key goes in, and comes out the same.
#[test]
fn b38_the_example_of_the_file_as_config_comes_out_as_it_went_in() {
    let Some(helm) = helm() else { return };
    let folder = scratch("chart-example");
    let example: Value = serde_yaml_ng::from_str(config::EXAMPLE).unwrap();
    let values = folder.join("values.yaml");
    fs::write(
        &values,
        json!({"image": {"repository": "r"}, "config": example}).to_string(),
    )
    .unwrap();
    let objects = helm.template(&["--values", values.to_str().unwrap()]);
    let mut rendered: Value = serde_yaml_ng::from_str(objects.file()).unwrap();
    // What a person may leave out, and this one did.
    let own = rendered["gharts"]["oidc"].as_object_mut().unwrap().remove("namespace");
    assert_eq!(own, Some(DAEMON_NAMESPACE.into()));
    let own = rendered["lease"].as_object_mut().unwrap().remove("namespace");
    assert_eq!(own, Some(DAEMON_NAMESPACE.into()));
    assert_eq!(numbers_alike(rendered), numbers_alike(example));
}

/// 2.0 and 2 are one number to YAML.
fn numbers_alike(value: Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().unwrap().into(),
        Value::Array(all) => all.into_iter().map(numbers_alike).collect(),
        Value::Object(all) => all.into_iter().map(|(key, one)| (key, numbers_alike(one))).collect(),
        other => other,
    }
}

#[test]
fn b38_wrong_values_are_refused_with_their_path() {
    let Some(helm) = helm() else { return };
    let cases = [
        ("config.maxRunner=5", "'/config'", "'maxRunner' not allowed"),
        ("config.maxRunners=many", "'/config/maxRunners'", "want integer"),
        (
            "config.scaleSets[0].maxRunners=many",
            "'/config/scaleSets/0/maxRunners'",
            "want integer",
        ),
        (
            "config.gharts.oidc.provider=kerberos",
            "'/config/gharts/oidc/provider'",
            "'kubernetes'",
        ),
        ("replicaCount=3", "'/replicaCount'", "0, 1, 2"),
        (
            "terminationGracePeriodSeconds=30",
            "'/terminationGracePeriodSeconds'",
            "60",
        ),
        (
            "credentials.githubToken=ghp_secret",
            "'/credentials/githubToken'",
            "want object",
        ),
        (
            "credentials.githubToken.value=ghp_secret",
            "'/credentials/githubToken'",
            "'value' not allowed",
        ),
        ("githubApp.appId=1", "'/githubApp'", "'appId' not allowed"),
        ("replicas=2", "''", "'replicas' not allowed"),
        ("config.scaleSets=null", "'/config/scaleSets'", "want array"),
    ];
    for (set, path, expectation) in cases {
        let said = helm.fails(&["template", "r", &chart(), "--values", &values("minimal"), "--set", set]);
        assert!(said.contains(path) && said.contains(expectation), "{set}: {said}");
        assert!(!said.contains("ghp_secret"), "{said}");
    }
}

#[test]
fn b38_missing_values_are_named_with_what_belongs_there() {
    let Some(helm) = helm() else { return };
    let needed = [
        (
            "config.github.configUrl=\"https://github.com/acme\"",
            "config.github.configUrl: where do the jobs come from?",
        ),
        (
            "config.scaleSets=[{\"name\":\"linux\",\"maxRunners\":1}]",
            "config.scaleSets: name at least one",
        ),
        (
            "credentials.githubToken.secretName=\"token\"",
            "config.github.auth: who are we for GitHub?",
        ),
        ("image.repository=\"r\"", "image.repository: where is your image?"),
    ];
    for (left_out, words) in needed {
        let chart = chart();
        let mut arguments = vec!["template", "r", &chart];
        for (given, _) in needed.into_iter().filter(|(given, _)| *given != left_out) {
            arguments.extend(["--set-json", given]);
        }
        let said = helm.fails(&arguments);
        assert!(said.contains(words), "{left_out}: {said}");
    }
}

#[test]
fn the_first_designs_values_mean_what_they_said() {
    let Some(helm) = helm() else { return };
    let hybrid = helm.template(&["--values", &values("seed")]);
    let file: Value = serde_yaml_ng::from_str(hybrid.file()).unwrap();
    assert_eq!(
        file["gharts"],
        json!({"baseUrl": "https://gharts.example.com", "oidc": {"provider": "kubernetes",
            "audience": "https://gharts.example.com", "serviceAccount": "arc-controller",
            "namespace": DAEMON_NAMESPACE, "tokenExpiration": 3600}})
    );
    let key = format!("{CREDENTIALS}githubAppKey");
    let app = json!({"clientId": "123456", "installationId": 789_012, "privateKeyFile": key});
    assert_eq!(file["github"]["auth"], json!({ "app": app }));
    assert_eq!(
        hybrid.only("Secret")["stringData"],
        json!({"githubAppKey": "not-a-key"})
    );

    let external = helm.template(&["--values", &values("seed-external")]);
    let file: Value = serde_yaml_ng::from_str(external.file()).unwrap();
    assert_eq!(
        file["gharts"]["oidc"],
        json!({"provider": "external", "audience": "https://gharts.example.com",
            "external": {"clientId": "your-client-id", "tokenUrl": "https://your-tenant.auth0.com/oauth/token",
                "clientSecretFile": format!("{CREDENTIALS}ghartsClientSecret")}})
    );
    assert_eq!(file["github"]["auth"], json!({"gharts": {}}), "the App is switched off");

    // Large numbers without quotes, as people write them.
    let numbers = ["githubApp.appID=1234567890", "githubApp.installationID=98765432"].join(",");
    let large = helm.template(&["--values", &values("seed"), "--set", &numbers]);
    let file: Value = serde_yaml_ng::from_str(large.file()).unwrap();
    assert_eq!(file["github"]["auth"]["app"]["clientId"], "1234567890");
    assert_eq!(file["github"]["auth"]["app"]["installationId"], 98_765_432);

    // What `config` says wins.
    let both = helm.template(&[
        "--values",
        &values("seed"),
        "--set",
        "config.gharts.baseUrl=https://other.example.com",
    ]);
    let file: Value = serde_yaml_ng::from_str(both.file()).unwrap();
    assert_eq!(file["gharts"]["baseUrl"], "https://other.example.com");
    assert_eq!(file["gharts"]["oidc"]["audience"], "https://gharts.example.com");
}

#[test]
fn b29_b38_secrets_are_mounted_as_files_and_stand_nowhere_else() {
    let Some(helm) = helm() else { return };
    let full = helm.template(&["--values", &values("full")]);
    assert_eq!(full.of_kind("Secret").len(), 0, "nothing inline, no Secret of ours");
    assert_eq!(
        sources(&full, "credentials"),
        [
            json!({"configMap": {"name": "company-ca", "items": [{"key": "ca.crt", "path": "ca"}]}}),
            json!({"secret": {"name": "github-app", "items": [{"key": "private-key.pem", "path": "githubAppKey"}]}}),
            json!({"secret": {"name": "web", "items": [{"key": "token", "path": "web-pat"}]}}),
        ]
    );
    let config = load("full", &full);
    assert!(config.github.tls.ca_file.is_some() && config.gharts.unwrap().tls.ca_file.is_some());

    let inline = helm.template(&["--values", &values("seed-external")]);
    let elsewhere: Vec<&Value> = inline.0.iter().filter(|object| object["kind"] != "Secret").collect();
    assert!(!json!(elsewhere).to_string().contains("your-client-secret"));
}

#[test]
fn b16_a_projected_token_needs_no_right_to_make_tokens() {
    let Some(helm) = helm() else { return };
    let objects = helm.template(&["--values", &values("file-token")]);
    let file: Value = serde_yaml_ng::from_str(objects.file()).unwrap();
    assert_eq!(file["gharts"]["oidc"], json!({"provider": "file", "tokenFile": TOKEN}));
    assert_eq!(
        sources(&objects, "token"),
        [
            json!({"serviceAccountToken": {"path": "token", "audience": "https://gharts.example.com",
            "expirationSeconds": 3600}})
        ]
    );
    let rules = json!(objects.rules(DAEMON_NAMESPACE)).to_string();
    assert!(!rules.contains("serviceaccounts/token"), "{rules}");
}

#[test]
fn b37_b38_a_change_of_the_file_changes_no_pod_and_reaches_the_one_that_runs() {
    let Some(helm) = helm() else { return };
    let full = values("full");
    let before = helm.template(&["--values", &full]);
    let after = helm.template(&["--values", &full, "--set", "config.maxRunners=7"]);
    assert_ne!(before.file(), after.file());
    assert_eq!(
        before.only("Deployment"),
        after.only("Deployment"),
        "no checksum: no restart"
    );
    let pod = before.pod();
    // The kubelet renews mounted folders, never a subPath.
    assert!(!pod.to_string().contains("subPath"));
    assert!(pod["terminationGracePeriodSeconds"].as_u64() >= Some(75));
}

/// Rules as sets: the order of verbs and groups means nothing.
pub fn comparable(rules: &[Value]) -> BTreeSet<String> {
    let sorted = |list: &Value| -> Vec<String> {
        let mut texts: Vec<String> = list.as_array().into_iter().flatten().map(Value::to_string).collect();
        texts.sort();
        texts
    };
    let keys = ["apiGroups", "resources", "resourceNames", "verbs"];
    rules
        .iter()
        .map(|rule| format!("{:?}", keys.map(|key| sorted(&rule[key]))))
        .collect()
}

/// The whole-system tests run with the simulated world's Roles: these are the chart's.
#[tokio::test]
async fn b35_the_charts_roles_are_those_that_every_simulated_daemon_has() {
    let Some(helm) = helm() else { return };
    let model = Model::new(1, Clock::system(), SigningKey::shared("service-accounts").unwrap());
    let admin = client(&model, model.admin_token(), RUNNER_NAMESPACE);
    world::install(&admin).await.unwrap();
    let objects = helm.template(&["--values", &values("first-job")]);
    for namespace in [RUNNER_NAMESPACE, DAEMON_NAMESPACE] {
        let roles: Api<Role> = Api::namespaced(admin.clone(), namespace);
        let mut simulated = Vec::new();
        for role in roles.list(&kube::api::ListParams::default()).await.unwrap() {
            let rules = serde_json::to_value(role.rules.unwrap()).unwrap();
            simulated.extend(rules.as_array().unwrap().clone());
        }
        assert_eq!(
            comparable(&objects.rules(namespace)),
            comparable(&simulated),
            "{namespace}"
        );
    }
    assert_eq!(
        objects.of_kind("ClusterRole").len() + objects.of_kind("ClusterRoleBinding").len(),
        0
    );
    for binding in objects.of_kind("RoleBinding") {
        assert_eq!(
            binding["subjects"],
            json!([{"kind": "ServiceAccount", "name": "gharts-listener", "namespace": DAEMON_NAMESPACE}])
        );
    }
}

/// The rights of a container mode come with it, for the daemon and for its runners.
#[test]
fn b35_b51_b57_rights_for_hooks_leftovers_and_logs_come_only_where_they_are_needed() {
    let Some(helm) = helm() else { return };
    let objects = helm.template(&["--values", &values("kubernetes-mode")]);
    let role_of = |name: &str| {
        let roles = objects.of_kind("Role").into_iter();
        let rules =
            roles.filter(|role| role["metadata"]["name"] == name && role["metadata"]["namespace"] == RUNNER_NAMESPACE);
        rules
            .flat_map(|role| role["rules"].as_array().unwrap().clone())
            .collect::<Vec<_>>()
    };
    let accounts: BTreeSet<&str> = objects
        .of_kind("ServiceAccount")
        .iter()
        .filter_map(|account| account["metadata"]["name"].as_str())
        .collect();
    for account in ["job-pods", "gharts-listener-kubernetes-mode"] {
        assert!(accounts.contains(account), "{accounts:?}");
        let rules = role_of(account);
        assert!(rules.contains(&json!({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"]})));
    }
    let needed = [
        json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "delete"]}),
        json!({"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["list", "delete"]}),
        json!({"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]}),
    ];
    let all = objects.rules(RUNNER_NAMESPACE);
    let plain = helm.template(&["--values", &values("first-job")]);
    for rule in needed {
        assert!(all.contains(&rule), "{rule}");
        assert!(!plain.rules(RUNNER_NAMESPACE).contains(&rule), "{rule}");
    }
}

use serde_json::{Value, json};

use super::*;
use crate::{
    config::{CaSource, Dind, HookTemplate, KubernetesMode},
    plan::runner::Job,
};

fn blueprint(template: Value) -> Blueprint {
    in_mode(template, &ContainerMode::None)
}

fn in_mode(template: Value, mode: &ContainerMode) -> Blueprint {
    with(template, mode, &Proxy::default(), None)
}

fn with(template: Value, mode: &ContainerMode, proxy: &Proxy, ca: Option<&RunnerCa>) -> Blueprint {
    let template = serde_json::from_value(template).unwrap();
    let intent = Intent {
        template: &template,
        mode,
        proxy,
        ca,
    };
    Blueprint::new(&SetName::new("Linux.Large"), intent)
}

/// The rendered spec, without what every runner of ours has.
fn spec(blueprint: &Blueprint) -> Value {
    let mut spec = serde_json::to_value(blueprint.pod.spec.clone().unwrap()).unwrap();
    let env = spec["containers"][0]["env"].as_array_mut().unwrap();
    env.retain(|variable| variable["name"] != DEPRECATED_ENV);
    spec
}

/// What the established controller's chart renders for the same intent, written from its documented behaviour.
fn as_arc_renders(file: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("arc_modes.json")).unwrap();
    all[file].clone()
}

fn dind() -> Dind {
    Dind {
        image: "docker:dind".to_owned(),
        socket: Dind::SOCKET.to_owned(),
        group_id: 123,
        args: Vec::new(),
        resources: None,
        wait_for_docker: std::time::Duration::from_mins(2),
        copy_externals: true,
        native_sidecar: true,
    }
}

fn dind_mode(dind: Dind) -> ContainerMode {
    ContainerMode::Dind(Box::new(dind))
}

fn kubernetes(volume: bool) -> KubernetesMode {
    let claim = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "dynamic-blob-storage",
        "resources": {"requests": {"storage": "1Gi"}}});
    KubernetesMode {
        service_account: "arc-gha-rs-kube-mode".to_owned(),
        hook: format!("/home/runner/k8s{}/index.js", if volume { "" } else { "-novolume" }),
        require_job_container: true,
        work_volume_claim: volume.then(|| serde_json::from_value(claim).unwrap()),
        hook_template: None,
    }
}

fn kubernetes_mode(mode: KubernetesMode) -> ContainerMode {
    ContainerMode::Kubernetes(Box::new(mode))
}

/// A template as people bring it from there.
fn usual() -> Value {
    json!({"spec": {"containers": [{"name": "runner", "image": "ghcr.io/actions/actions-runner:latest",
        "command": ["/home/runner/run.sh"]}]}})
}

/// Field by field: nothing is missing, nothing is more.
#[track_caller]
fn same_as_arc(name: &str, ours: &Blueprint) {
    assert_eq!(spec(ours), as_arc_renders(name), "{name}");
}

#[test]
fn b50_dind_is_rendered_as_arc_renders_it() {
    same_as_arc("dind", &in_mode(usual(), &dind_mode(dind())));
    let old = Dind {
        native_sidecar: false,
        ..dind()
    };
    same_as_arc("dind before Kubernetes 1.29", &in_mode(usual(), &dind_mode(old)));
}

#[test]
fn b51_both_kubernetes_modes_are_rendered_as_arc_renders_them() {
    for (name, volume) in [("kubernetes", true), ("kubernetes-novolume", false)] {
        same_as_arc(name, &in_mode(usual(), &kubernetes_mode(kubernetes(volume))));
    }
    let mode = KubernetesMode {
        hook_template: Some(HookTemplate {
            config_map: "hook-extension".to_owned(),
            key: "extension".to_owned(),
        }),
        ..kubernetes(true)
    };
    same_as_arc(
        "kubernetes with a hook template",
        &in_mode(usual(), &kubernetes_mode(mode)),
    );
}

#[test]
fn b52_a_ca_is_rendered_as_arc_renders_it() {
    let ca = RunnerCa {
        source: CaSource::ConfigMap("config-map-name".to_owned()),
        key: "ca.crt".to_owned(),
        mount_path: "/usr/local/share/ca-certificates/".to_owned(),
    };
    let ours = with(usual(), &ContainerMode::None, &Proxy::default(), Some(&ca));
    same_as_arc("none with a CA", &ours);
    let from_secret = RunnerCa {
        source: CaSource::Secret("ca".to_owned()),
        ..ca
    };
    let ours = with(usual(), &dind_mode(dind()), &Proxy::default(), Some(&from_secret));
    let volumes = spec(&ours)["volumes"].as_array().unwrap().clone();
    let of_secret = json!({"name": "github-server-tls-cert", "secret": {"secretName": "ca", "items":
        [{"key": "ca.crt", "path": "ca.crt"}]}});
    assert!(volumes.contains(&of_secret), "{volumes:?}");
}

#[test]
fn b50_what_people_missed_are_values() {
    let mode = dind_mode(Dind {
        image: "registry.example.com/docker:28-dind".to_owned(),
        socket: "/run/dind/docker.sock".to_owned(),
        group_id: 1001,
        args: vec!["--mtu=1400".to_owned()],
        resources: Some(serde_json::from_value(json!({"limits": {"memory": "4Gi"}})).unwrap()),
        copy_externals: false,
        ..dind()
    });
    let spec = spec(&in_mode(usual(), &mode));
    let daemon = &spec["initContainers"][0];
    assert_eq!(daemon["image"], "registry.example.com/docker:28-dind");
    assert_eq!(
        daemon["args"],
        json!([
            "dockerd",
            "--host=unix:///run/dind/docker.sock",
            "--group=$(DOCKER_GROUP_GID)",
            "--mtu=1400"
        ])
    );
    assert_eq!(
        daemon["env"],
        json!([{"name": "DOCKER_GROUP_GID", "value": "1001"},
            {"name": "DOCKER_HOST", "value": "unix:///run/dind/docker.sock"}])
    );
    assert_eq!(daemon["resources"], json!({"limits": {"memory": "4Gi"}}));
    assert_eq!(spec["initContainers"].as_array().unwrap().len(), 1, "no externals");
    assert!(!spec["volumes"].to_string().contains("externals"));
    let runner = &spec["containers"][0];
    assert_eq!(
        runner["env"][0],
        json!({"name": "DOCKER_HOST", "value": "unix:///run/dind/docker.sock"})
    );
    assert_eq!(
        runner["volumeMounts"][1],
        json!({"name": "dind-sock", "mountPath": "/run/dind"})
    );
}

#[test]
fn b53_the_templates_own_word_counts_more_than_the_modes() {
    let template = json!({"spec": {
        "serviceAccountName": "mine",
        "volumes": [{"name": "work", "hostPath": {"path": "/fast"}}],
        "initContainers": [{"name": "warm-up", "image": "w"}],
        "containers": [
            {"name": "dind", "image": "mirror/docker:dind", "env": [{"name": "DOCKER_GROUP_GID", "value": "7"},
                {"name": "MINE", "value": "1"}], "volumeMounts": [{"name": "cache", "mountPath": "/cache"}]},
            {"name": "log", "image": "l"},
            {"name": "runner", "image": "r", "env": [{"name": "RUNNER_WAIT_FOR_DOCKER_IN_SECONDS", "value": "5"}],
                "volumeMounts": [{"name": "work", "mountPath": "/elsewhere"}]},
        ],
    }});
    let spec = spec(&in_mode(template.clone(), &dind_mode(dind())));
    let names = |list: &str| -> Vec<String> {
        let all = spec[list].as_array().unwrap().iter();
        all.map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("initContainers"), ["init-dind-externals", "dind", "warm-up"]);
    assert_eq!(names("containers"), ["runner", "log"]);
    let daemon = &spec["initContainers"][1];
    assert_eq!(daemon["image"], "mirror/docker:dind");
    assert_eq!(
        daemon["securityContext"]["privileged"], true,
        "what it does not say stays"
    );
    assert_eq!(
        daemon["env"],
        json!([{"name": "DOCKER_GROUP_GID", "value": "7"}, {"name": "MINE", "value": "1"}])
    );
    assert_eq!(daemon["volumeMounts"].as_array().unwrap().len(), 4);
    let runner = &spec["containers"][0];
    assert_eq!(runner["env"][0]["value"], "5");
    assert_eq!(runner["volumeMounts"][0]["mountPath"], "/elsewhere");
    assert_eq!(
        runner["volumeMounts"].as_array().unwrap().len(),
        2,
        "work is mounted once"
    );
    assert_eq!(
        spec["volumes"][0],
        json!({"name": "work", "hostPath": {"path": "/fast"}})
    );
    assert_eq!(spec["serviceAccountName"], "mine");

    let spec = self::spec(&in_mode(template, &kubernetes_mode(kubernetes(true))));
    assert_eq!(spec["serviceAccountName"], "mine");
    assert_eq!(spec["automountServiceAccountToken"], Value::Null, "the hooks need it");
}

#[test]
fn b52_the_proxy_is_set_in_both_letter_cases_for_the_runner_and_the_docker_daemon() {
    let proxy = Proxy {
        http: Some("http://proxy.example.com:3128".parse().unwrap()),
        https: Some("http://proxy.example.com:3129".parse().unwrap()),
        no_proxy: vec![".example.com".to_owned()],
        ..Proxy::default()
    };
    let side = json!({"spec": {"containers": [{"name": "runner"}, {"name": "side", "image": "s"}]}});
    let spec_of = |mode: &ContainerMode, proxy: &Proxy| spec(&with(side.clone(), mode, proxy, None));
    let value = |container: &Value, name: &str| -> Value {
        let env = container["env"].as_array().cloned().unwrap_or_default();
        let found = env.into_iter().find(|variable| variable["name"] == name);
        found.map_or(Value::Null, |mut variable| variable["value"].take())
    };
    let spec = spec_of(&dind_mode(dind()), &proxy);
    for container in [&spec["containers"][0], &spec["initContainers"][1]] {
        for (name, url) in [
            ("http_proxy", "http://proxy.example.com:3128"),
            ("https_proxy", "http://proxy.example.com:3129"),
            ("no_proxy", ".example.com"),
        ] {
            assert_eq!(value(container, name), url);
            assert_eq!(value(container, &name.to_uppercase()), url);
        }
    }
    assert_eq!(
        value(&spec["containers"][1], "http_proxy"),
        Value::Null,
        "no sidecar of others"
    );

    let spec = spec_of(&kubernetes_mode(kubernetes(false)), &proxy);
    let direct = ".example.com,$(KUBERNETES_SERVICE_HOST),kubernetes.default.svc";
    assert_eq!(
        value(&spec["containers"][0], "no_proxy"),
        direct,
        "hooks call the API server"
    );

    let with_credentials = Proxy {
        runners_secret: Some("runner-proxy".to_owned()),
        ..proxy
    };
    let spec = spec_of(&ContainerMode::None, &with_credentials);
    let env = spec["containers"][0]["env"].as_array().unwrap();
    for name in ["https_proxy", "HTTPS_PROXY"] {
        let found = env.iter().find(|variable| variable["name"] == name).unwrap();
        let reference = json!({"secretKeyRef": {"name": "runner-proxy", "key": "https_proxy"}});
        assert_eq!(found["valueFrom"], reference);
    }
    let none = spec_of(&ContainerMode::None, &Proxy::default());
    assert!(!none.to_string().to_lowercase().contains("proxy"));
}

#[test]
fn b53_windows_and_arm_runners_are_a_matter_of_the_template() {
    let windows = json!({"spec": {"nodeSelector": {"kubernetes.io/os": "windows"}, "os": {"name": "windows"},
        "containers": [{"name": "runner", "image": "w", "command": ["cmd.exe", "/c", "C:\\run.cmd"]}]}});
    let shown = spec(&blueprint(windows.clone()));
    assert_eq!(shown["nodeSelector"], windows["spec"]["nodeSelector"]);
    assert_eq!(shown["os"], windows["spec"]["os"]);
    assert_eq!(
        shown["containers"][0]["command"],
        windows["spec"]["containers"][0]["command"]
    );
    let arm = json!({"spec": {"nodeSelector": {"kubernetes.io/arch": "arm64"}, "containers": [{"name": "runner"}],
        "tolerations": [{"key": "arch", "operator": "Equal", "value": "arm64", "effect": "NoSchedule"}]}});
    let shown = spec(&in_mode(arm.clone(), &dind_mode(dind())));
    assert_eq!(shown["nodeSelector"], arm["spec"]["nodeSelector"]);
    assert_eq!(shown["tolerations"], arm["spec"]["tolerations"]);
}

fn name() -> RunnerName {
    RunnerName::new("linux-large-abcde-0123456789")
}

#[test]
fn an_empty_template_gets_every_default() {
    let pod = blueprint(json!({})).pod(&name(), Purpose::Demand, Meets::InSet, Some(7), Some("uuid"));
    insta::assert_snapshot!(serde_json::to_string_pretty(&pod).unwrap());
}

#[test]
fn b29_the_jit_configuration_is_referenced_by_the_runner_container_only() {
    let pod = blueprint(json!({"spec": {
        "containers": [{"name": "side", "image": "s"}, {"name": "runner", "image": "r"}],
        "initContainers": [{"name": "init", "image": "i"}],
    }}))
    .pod(&name(), Purpose::Demand, Meets::InSet, None, None);
    let spec = serde_json::to_value(pod.spec).unwrap();
    let refers = |c: &Value| c.to_string().contains(JIT_ENV);
    assert_eq!(spec["containers"][0]["name"], "runner");
    assert!(refers(&spec["containers"][0]));
    assert!(!refers(&spec["containers"][1]));
    assert!(!refers(&spec["initContainers"][0]));
    let secret = secret(&name(), "uid-1", &"jit".to_owned().into());
    assert_eq!(secret.immutable, Some(true));
    assert_eq!(secret.metadata.owner_references.unwrap()[0].uid, "uid-1");
}

#[test]
fn b34_only_spare_runners_start_safe_to_evict() {
    let safe = |purpose| {
        let pod = blueprint(json!({})).pod(&name(), purpose, Meets::InSet, None, None);
        pod.metadata.annotations.unwrap()[keys::SAFE_TO_EVICT].clone()
    };
    assert_eq!(safe(Purpose::Demand), "false");
    assert_eq!(safe(Purpose::Spare), "true");
    assert_eq!(
        busy_patch(None)["metadata"]["annotations"][keys::SAFE_TO_EVICT],
        "false"
    );
}

#[test]
fn a_strangers_job_name_becomes_an_annotation_never_a_label() {
    let job = Job {
        id: "0a1b".into(),
        request_id: 0,
        display_name: "x".repeat(5000) + "<script>",
        ..Job::default()
    };
    let patch = busy_patch(Some(&job));
    assert_eq!(patch["metadata"]["labels"][keys::JOB_ID], "0a1b");
    assert_eq!(
        patch["metadata"]["annotations"][keys::JOB_NAME].as_str().unwrap().len(),
        ANNOTATION_MAX
    );
}

#[test]
fn the_templates_working_directory_is_the_runners_work_folder() {
    let with = blueprint(json!({"spec": {"containers": [{"name": "runner", "workingDir": "/work"}]}}));
    assert_eq!(with.work_folder(), "/work");
    assert_eq!(blueprint(json!({})).work_folder(), "_work");
}

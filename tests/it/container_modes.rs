//! Container modes, proxies and certificates as the file gives them, and what a real API server makes of the pods.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use gharts_listener::{
    config::{self, Config, ContainerMode, Environment, Problem},
    ids::{Namer, SetName},
    plan::runner::{Meets, Purpose},
    runner::manifest::Blueprint,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};

const FILE: &str = "
github:
  configUrl: https://github.com/acme
  auth: { pat: { tokenEnv: TOKEN } }
GITHUB
kubernetes: { namespace: runners }
scaleSets:
  - name: linux
    maxRunners: 5
SET
";

fn text(github: &str, set: &str) -> String {
    let indent = |text: &str, by: &str| -> String { text.lines().map(|line| format!("{by}{line}\n")).collect() };
    FILE.replace("GITHUB\n", &indent(github, "  "))
        .replace("SET\n", &indent(set, "    "))
}

fn environment() -> Environment {
    [("TOKEN", "t"), ("PROXY", "joe:secret"), ("BAD", "joe")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn load(github: &str, set: &str) -> Result<Config, Vec<Problem>> {
    config::parse(&text(github, set), &environment())
}

fn loaded(github: &str, set: &str) -> Config {
    let config = load(github, set).unwrap();
    // What is shown means the same.
    let shown = config::show(&config).unwrap();
    assert_eq!(config::parse(&shown, &environment()).unwrap(), config, "{shown}");
    config
}

fn refused(github: &str, set: &str) -> String {
    let problems = load(github, set).unwrap_err();
    let lines = problems
        .iter()
        .map(|p| format!("{}: {}\n  -> {}", p.path, p.message, p.remedy));
    lines.collect::<Vec<_>>().join("\n")
}

const DIND: &str = "containerMode: dind
dind:
  image: mirror/docker:28-dind
  groupId: 1001
  socket: /run/dind/docker.sock
  args: [--mtu=1400]
  resources: { requests: { cpu: 2 }, limits: { memory: 4Gi } }
  waitForDocker: 90s";
const KUBERNETES: &str = "containerMode: kubernetes
kubernetesMode:
  serviceAccount: hooks
  workVolumeClaim: { storageClassName: fast, resources: { requests: { storage: 10Gi } } }
  hookTemplate: { configMap: job-pods }";

#[test]
fn b50_b51_every_mode_is_read_with_its_defaults_and_shown() {
    let mode = |set: &str| loaded("", set).scale_sets[0].container_mode.clone();
    for name in ["none", "dind", "kubernetes", "kubernetes-novolume"] {
        assert_eq!(mode(&format!("containerMode: {name}")).as_str(), name);
    }
    let ContainerMode::Dind(dind) = mode(DIND) else {
        panic!("no dind")
    };
    assert_eq!((dind.group_id, dind.wait_for_docker.as_secs()), (1001, 90));
    let requests = dind.resources.unwrap().requests.unwrap();
    assert_eq!(requests["cpu"].0, "2", "a number is a quantity here too");
    let ContainerMode::Kubernetes(kubernetes) = mode(KUBERNETES) else {
        panic!("no kubernetes")
    };
    assert_eq!(kubernetes.hook_template.unwrap().key, "extension");
    let claim = kubernetes.work_volume_claim.unwrap();
    assert_eq!(claim.access_modes.unwrap(), ["ReadWriteOnce"]);
}

#[test]
fn b50_b51_what_does_not_go_together_is_refused_with_its_place() {
    insta::assert_snapshot!(refused("", "containerMode: dind\ndind: { socket: docker.sock, resources: { limit: {} } }
kubernetesMode: { hook: /k8s/index.js }"), @"
        scaleSets[0].dind.resources.limit: is not a field of a container's resources
          -> check its spelling and indentation (`kubectl explain pod.spec`)
        scaleSets[0].dind.socket: is not the absolute path of a file
          -> /var/run/docker.sock is the default
        scaleSets[0].kubernetesMode: is for containerMode: kubernetes or kubernetes-novolume
          -> remove it, or choose that mode
        ");
    let novolume = "containerMode: kubernetes-novolume
kubernetesMode: { workVolumeClaim: { accessModes: [ReadWriteOnce] }, hookTemplate: {} }";
    let said = refused("", novolume);
    for part in [
        "scaleSets[0].kubernetesMode.hookTemplate.configMap: is required",
        "scaleSets[0].kubernetesMode.workVolumeClaim: is for containerMode: kubernetes\n",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let said = refused("", "dind: { image: docker:dind }");
    assert!(
        said.starts_with("scaleSets[0].dind: is for containerMode: dind\n"),
        "{said}"
    );
}

#[test]
fn b53_windows_needs_a_command_and_takes_no_mode() {
    let windows = "template: { spec: { nodeSelector: { kubernetes.io/os: windows }, containers: [ { name: runner, image: w } ] } }";
    insta::assert_snapshot!(refused("", &format!("containerMode: dind\n{windows}")), @r#"
        scaleSets[0].containerMode: is dind, and the template's pods run on Windows
          -> use containerMode: none for Windows
        scaleSets[0].template.spec.containers[0].command: is required for Windows, where the default /home/runner/run.sh is not
          -> such as [cmd.exe, /c, 'C:\actions-runner\run.cmd']
        "#);
    let with_command = windows.replace("image: w", "image: w, command: [cmd.exe, /c, 'C:\\run.cmd']");
    loaded("", &with_command);
}

const PROXY: &str = "proxy: { https: http://proxy.example.com:3128, credentialsEnv: PROXY, runnersSecret: runner-proxy, noProxy: [.example.com] }";

#[test]
fn b52_proxies_with_credentials_name_them_and_never_hold_them() {
    let proxy = loaded(PROXY, "").github.proxy;
    assert_eq!(proxy.runners_secret.as_deref(), Some("runner-proxy"));
    insta::assert_snapshot!(refused("proxy: { https: 'http://joe:secret@proxy:3128', credentialsEnv: BAD }", ""), @"
        github.proxy.credentialsEnv: the environment variable holds no user:password
          -> write user:password into it, on one line
        github.proxy.https: must not hold credentials
          -> put user:password into a file and name it with credentialsFile
        github.proxy.runnersSecret: is required with credentials: the runners need them too, and they must not stand in pods
          -> make a Secret in the runner namespace with the keys http_proxy and https_proxy, whole URLs with credentials, and name it here
        ");
    let said = refused(
        "proxy: { runnersSecret: x }\ntls: { runners: { configMap: a, secret: b } }",
        "",
    );
    for part in [
        "github.proxy: has credentials and no proxy",
        "github.tls.runners: names no source, or two",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let said = refused("tls: { runners: { configMap: a, mountPath: certs } }", "");
    assert!(
        said.starts_with("github.tls.runners.mountPath: is not an absolute path"),
        "{said}"
    );
}

#[test]
fn b52_a_ca_for_the_runners_comes_from_a_config_map_or_a_secret() {
    let ca = loaded("tls: { runners: { configMap: github-ca } }", "")
        .github
        .runner_ca
        .unwrap();
    assert_eq!(
        (ca.key.as_str(), ca.mount_path.as_str()),
        ("ca.crt", "/usr/local/share/ca-certificates")
    );
}

/// Every mode with every switch, and what a template may add.
fn configurations() -> Vec<(String, Config)> {
    let outside = format!("{PROXY}\ntls: {{ runners: {{ secret: github-ca, key: corp.pem }} }}");
    let arm = "template:
  spec:
    nodeSelector: { kubernetes.io/arch: arm64 }
    tolerations: [ { key: arch, operator: Equal, value: arm64, effect: NoSchedule } ]
    initContainers: [ { name: warm-up, image: w } ]
    containers: [ { name: runner, image: r, workingDir: /work }, { name: dind, image: d, env: [ { name: A, value: b } ] } ]";
    let windows = "template: { spec: { os: { name: windows }, nodeSelector: { kubernetes.io/os: windows }, \
                   containers: [ { name: runner, image: w, command: [cmd.exe] } ] } }";
    let old = "containerMode: dind\ndind: { nativeSidecar: false, copyExternals: false }";
    let mut sets = vec![
        DIND.to_owned(),
        format!("{DIND}\n{arm}"),
        old.to_owned(),
        windows.to_owned(),
    ];
    for mode in ["none", "dind", "kubernetes", "kubernetes-novolume"] {
        sets.push(format!("containerMode: {mode}"));
    }
    sets.push(KUBERNETES.to_owned());
    let both = |set: &String| ["", &outside].map(|github| (format!("{github}\n{set}"), loaded(github, set)));
    sets.iter().flat_map(both).collect()
}

#[tokio::test]
async fn b50_b51_b52_b53_a_real_api_server_takes_every_pod_as_it_is() {
    let Ok(path) = std::env::var("GHARTS_TEST_KUBECONFIG") else {
        println!("SKIPPED: no GHARTS_TEST_KUBECONFIG, so no pod was tried on a real API server");
        return;
    };
    let file = kube::config::Kubeconfig::read_from(path).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let settings = kube::Config::from_custom_kubeconfig(file, &options).await.unwrap();
    let api: Api<Pod> = Api::namespaced(kube::Client::try_from(settings).unwrap(), "default");
    for (text, config) in configurations() {
        let set = &config.scale_sets[0];
        let blueprint = Blueprint::new(&set.name, set.into());
        let name = Namer::new("uid", &SetName::new("linux")).next(&mut fastrand::Rng::with_seed(1));
        let pod = blueprint.pod(&name, Purpose::Demand, Meets::InSet, Some(1), None);
        let strict = PostParams {
            dry_run: true,
            field_manager: None,
        };
        let made = api.create(&strict, &pod).await;
        let made =
            made.unwrap_or_else(|error| panic!("{error}\n{text}\n{}", serde_json::to_string_pretty(&pod).unwrap()));
        // What we set is what the API server keeps: it drops nothing as unknown.
        let (ours, theirs) = (
            serde_json::to_value(&pod.spec).unwrap(),
            serde_json::to_value(&made.spec).unwrap(),
        );
        assert_contained(&ours, &theirs, "spec");
    }
}

fn assert_contained(ours: &serde_json::Value, theirs: &serde_json::Value, at: &str) {
    use serde_json::Value;
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, value) in ours {
                // Zero is left out of what comes back.
                if value != &serde_json::json!(0) {
                    assert_contained(value, theirs.get(key).unwrap_or(&Value::Null), &format!("{at}.{key}"));
                }
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if at.ends_with("tolerations") => {
            assert!(ours.iter().all(|t| theirs.contains(t)), "{at}");
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            assert!(ours.len() <= theirs.len(), "{at}");
            for (n, (one, other)) in ours.iter().zip(theirs).enumerate() {
                assert_contained(one, other, &format!("{at}[{n}]"));
            }
        }
        (ours, theirs) => assert_eq!(ours, theirs, "{at}"),
    }
}

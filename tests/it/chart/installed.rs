//! Installed, upgraded and uninstalled by real Helm on a real API server.

use serde_json::{Value, json};

use super::{DAEMON_NAMESPACE, Objects, RUNNER_NAMESPACE, all_values, cluster::Cluster, values};

/// What the Prometheus operator brings.
fn service_monitors() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
        "spec": {"group": "monitoring.coreos.com", "scope": "Namespaced",
            "names": {"kind": "ServiceMonitor", "plural": "servicemonitors", "singular": "servicemonitor"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

/// What an administrator has done before.
fn prepare(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", RUNNER_NAMESPACE]);
    cluster.apply(&service_monitors());
    let all = [
        "wait",
        "--for=condition=Established",
        "customresourcedefinition",
        "--all",
    ];
    cluster.kubectl(&all);
}

#[test]
fn b35_installed_upgraded_and_uninstalled_the_chart_leaves_nothing() {
    let Some(cluster) = Cluster::start("chart-installed") else {
        return;
    };
    prepare(&cluster);
    let full = values("full");
    let said = cluster.install(&["--values", &full]);
    assert!(said.contains("looks after 2 scale sets"), "{said}");
    let installed = cluster.everything();
    for object in [
        "deployment.apps/gharts-listener",
        "lease.coordination.k8s.io/gharts-listener",
        "service/gharts-listener",
    ] {
        assert!(installed.iter().any(|name| name == object), "{object}: {installed:?}");
    }

    // A replica has taken the Lease meanwhile: an upgrade leaves that alone.
    let held = json!({"spec": {"holderIdentity": "gharts-listener-0", "leaseDurationSeconds": 10}}).to_string();
    let lease = [
        "--namespace",
        DAEMON_NAMESPACE,
        "patch",
        "lease",
        "gharts-listener",
        "--type=merge",
        "--patch",
    ];
    cluster.kubectl(&[&lease[..], &[&held]].concat());
    for file in all_values() {
        cluster.helm_does(&[
            "upgrade",
            "gharts-listener",
            &super::chart(),
            "--namespace",
            DAEMON_NAMESPACE,
            "--values",
            &file,
        ]);
    }
    let lease = [
        "--namespace",
        DAEMON_NAMESPACE,
        "get",
        "lease",
        "gharts-listener",
        "--output=jsonpath={.spec.holderIdentity}",
    ];
    assert_eq!(cluster.kubectl(&lease), "gharts-listener-0");

    cluster.helm_does(&["uninstall", "gharts-listener", "--namespace", DAEMON_NAMESPACE]);
    assert_eq!(cluster.everything(), Vec::<String>::new());
    let monitors = cluster.kubectl(&["get", "servicemonitors", "--all-namespaces", "--output", "name"]);
    assert_eq!(monitors, "");
}

/// Two teams, say, with a daemon each, that share the namespaces: what one's release does is no affair of the other's.
#[test]
fn b35_two_releases_share_both_namespaces_and_the_end_of_one_leaves_the_other_whole() {
    let Some(cluster) = Cluster::start("chart-two") else {
        return;
    };
    prepare(&cluster);
    let release = |verb: &str, name: &str, more: &[&str]| {
        let chart = super::chart();
        let all = [
            verb,
            name,
            &chart,
            "--namespace",
            DAEMON_NAMESPACE,
            "--create-namespace",
        ];
        cluster.helm_does(&[&all[..], more].concat())
    };
    let full = values("full");
    release("install", "gharts-listener", &["--values", &full]);
    let alone = cluster.everything();
    let kubernetes_mode = values("kubernetes-mode");
    release("install", "team-b", &["--values", &kubernetes_mode]);
    let both = cluster.everything();
    let of_b: Vec<&String> = both.iter().filter(|name| !alone.contains(name)).collect();
    assert!(alone.iter().all(|name| both.contains(name)), "{both:?}");
    for object in [
        "deployment.apps/team-b-gharts-listener",
        "lease.coordination.k8s.io/team-b-gharts-listener",
        "role.rbac.authorization.k8s.io/team-b-gharts-listener",
    ] {
        assert!(of_b.iter().any(|name| *name == object), "{object}: {of_b:?}");
    }
    // Neither may renew the other's Lease.
    for (account, lease, may) in [
        ("gharts-listener", "gharts-listener", true),
        ("gharts-listener", "team-b-gharts-listener", false),
        ("team-b-gharts-listener", "gharts-listener", false),
    ] {
        let user = format!("system:serviceaccount:{DAEMON_NAMESPACE}:{account}");
        let resource = format!("leases/{lease}");
        let asked = [
            "--namespace",
            DAEMON_NAMESPACE,
            "auth",
            "can-i",
            "update",
            &resource,
            "--as",
            &user,
        ];
        let said = cluster.try_kubectl(&asked);
        let said = String::from_utf8_lossy(&said.stdout);
        assert_eq!(said.trim() == "yes", may, "{account}, {lease}: {said}");
    }
    release(
        "upgrade",
        "team-b",
        &["--values", &kubernetes_mode, "--set", "config.maxRunners=3"],
    );
    cluster.helm_does(&["uninstall", "gharts-listener", "--namespace", DAEMON_NAMESPACE]);
    let left = cluster.everything();
    assert!(of_b.iter().all(|name| left.contains(name)), "{left:?}");
    cluster.helm_does(&["uninstall", "team-b", "--namespace", DAEMON_NAMESPACE]);
    assert_eq!(cluster.everything(), Vec::<String>::new());
}

/// As the kubelet would see it: the pods of every set of values pass the strictest of the Pod Security Standards, and
/// the API server takes every object with nothing unknown in it.
#[test]
fn b35_the_daemons_pod_passes_the_restricted_standard_and_every_object_the_strict_decoder() {
    let Some(cluster) = Cluster::start("chart-restricted") else {
        return;
    };
    prepare(&cluster);
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    cluster.apply(
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": DAEMON_NAMESPACE, "labels": labels}}),
    );
    for file in all_values() {
        let objects: Objects = cluster.helm.template(&["--values", &file]);
        let template = &objects.only("Deployment")["spec"]["template"];
        let mut all = objects.0.clone();
        let mut metadata = template["metadata"].clone();
        metadata["name"] = "daemon".into();
        metadata["namespace"] = DAEMON_NAMESPACE.into();
        all.push(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}));
        let path = cluster.dir.join("all.json");
        let list = json!({"apiVersion": "v1", "kind": "List", "items": all});
        std::fs::write(&path, list.to_string()).unwrap();
        let strict = [
            "create",
            "--dry-run=server",
            "--validate=strict",
            "--filename",
            path.to_str().unwrap(),
        ];
        let said = cluster.kubectl(&strict);
        assert!(said.contains("pod/daemon created"), "{file}: {said}");
    }

    // The namespace means it.
    let mut privileged = cluster.helm.template(&[
        "--values",
        &values("minimal"),
        "--set",
        "securityContext.allowPrivilegeEscalation=true",
    ]);
    let template = privileged
        .0
        .iter_mut()
        .find(|object| object["kind"] == "Deployment")
        .unwrap()["spec"]["template"]
        .take();
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "daemon", "namespace": DAEMON_NAMESPACE}, "spec": template["spec"]});
    let path = cluster.dir.join("privileged.json");
    std::fs::write(&path, pod.to_string()).unwrap();
    let refused = cluster.try_kubectl(&["create", "--dry-run=server", "--filename", path.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("violates PodSecurity"), "{said}");
}

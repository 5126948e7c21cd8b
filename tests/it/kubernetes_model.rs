//! What only the simulated Kubernetes has: virtual time, switches, counters, and its own ways in.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{pin::pin, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _};
use gharts_listener::{
    clock::Clock,
    shutdown::Tasks,
    sim::{
        keys::SigningKey,
        kubernetes::{Authority, Fault, Model, Trouble, client, kubeconfig, serve_tls},
    },
};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    runtime::watcher::{self, watcher},
};
use serde_json::json;

fn cluster() -> Model {
    let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
    let model = Model::new(7, clock, SigningKey::shared("k").unwrap());
    model.add_namespace("runners");
    model
}

fn admin(model: &Model) -> kube::Client {
    client(model, model.admin_token(), "runners")
}

fn pod(name: &str) -> Pod {
    let pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "runner", "image": "x"}]}});
    serde_json::from_value(pod).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_watcher_of_the_daemon_lists_follows_and_recovers_from_compaction() {
    let model = cluster();
    let pods: Api<Pod> = Api::default_namespaced(admin(&model));
    pods.create(&PostParams::default(), &pod("p1")).await.unwrap();
    let mut events = pin!(watcher(pods.clone(), watcher::Config::default()));
    assert!(matches!(events.try_next().await, Ok(Some(watcher::Event::Init))));
    let Ok(Some(watcher::Event::InitApply(first))) = events.try_next().await else {
        panic!("no pod listed");
    };
    assert_eq!(first.metadata.name.as_deref(), Some("p1"));
    assert!(matches!(events.try_next().await, Ok(Some(watcher::Event::InitDone))));
    pods.delete("p1", &DeleteParams::default()).await.unwrap();
    assert!(matches!(events.try_next().await, Ok(Some(watcher::Event::Apply(_)))));
    assert!(matches!(events.try_next().await, Ok(Some(watcher::Event::Delete(_)))));

    // The watch breaks, the history is forgotten meanwhile: the watcher lists anew.
    model.cut_watches();
    pods.create(&PostParams::default(), &pod("p2")).await.unwrap();
    model.compact();
    loop {
        if let Ok(Some(watcher::Event::InitApply(found))) = events.try_next().await {
            assert_eq!(found.metadata.name.as_deref(), Some("p2"));
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_hears_bookmarks_and_ends_on_time() {
    let model = cluster();
    let pods: Api<Pod> = Api::default_namespaced(admin(&model));
    let started = tokio::time::Instant::now();
    let params = WatchParams::default().timeout(200);
    let mut events = pods.watch(&params, "100").await.unwrap().boxed();
    // Versions that others' writes made are told, so that a resumed watch need not start before them.
    model.add_namespace("elsewhere");
    let mut bookmarks = Vec::new();
    while let Some(event) = events.try_next().await.unwrap() {
        if let WatchEvent::Bookmark(bookmark) = event {
            bookmarks.push((started.elapsed().as_secs(), bookmark.metadata.resource_version));
        }
    }
    let revision = model.revision().to_string();
    let expected: Vec<(u64, String)> = [60, 120, 180].map(|at| (at, revision.clone())).to_vec();
    assert_eq!(bookmarks, expected);
    assert_eq!(started.elapsed(), Duration::from_secs(200));
}

#[tokio::test(start_paused = true)]
async fn every_request_is_counted_by_who_and_what() {
    let model = cluster();
    let client = admin(&model);
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let secrets: Api<Secret> = Api::default_namespaced(client);
    pods.create(&PostParams::default(), &pod("p1")).await.unwrap();
    secrets
        .create(
            &PostParams::default(),
            &serde_json::from_value(json!({"metadata": {"name": "p1"}})).unwrap(),
        )
        .await
        .unwrap();
    let busy = json!({"metadata": {"labels": {"state": "busy"}}});
    pods.patch("p1", &PatchParams::default(), &Patch::Merge(&busy))
        .await
        .unwrap();
    pods.list(&ListParams::default()).await.unwrap();
    pods.delete("p1", &DeleteParams::default()).await.unwrap();
    let counted: Vec<(String, u64)> = model
        .requests()
        .into_iter()
        .filter(|(kind, _)| kind.is_write())
        .map(|(kind, n)| (format!("{} {} {}", kind.user, kind.verb, kind.resource), n))
        .collect();
    let expected = [
        "admin create pods",
        "admin create secrets",
        "admin delete pods",
        "admin patch pods",
    ];
    assert_eq!(counted, expected.map(|what| (what.to_owned(), 1)));
    model.reset_requests();
    assert!(model.requests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn troubles_come_and_go_as_told() {
    let model = cluster();
    let pods: Api<Pod> = Api::default_namespaced(admin(&model));
    let code = |result: Result<Pod, kube::Error>| match result {
        Ok(_) => 0,
        Err(kube::Error::Api(status)) => status.code,
        Err(_) => 1,
    };
    let create = async |name: &str| code(pods.create(&PostParams::default(), &pod(name)).await);

    model.add_fault(
        Fault::new(Trouble::Throttled { retry_after: 3 })
            .verb("create")
            .resource("pods")
            .times(1),
    );
    assert_eq!(create("p1").await, 429);
    assert_eq!(create("p1").await, 0);
    model.add_fault(Fault::new(Trouble::Unavailable).times(1));
    assert_eq!(create("p2").await, 503);
    assert!(model.get("pods", "runners", "p2").is_none());
    model.add_fault(Fault::new(Trouble::Lost).times(1));
    assert_eq!(create("p2").await, 1);
    assert!(
        model.get("pods", "runners", "p2").is_some(),
        "the answer was lost, not the deed"
    );

    let mut watch = pods.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    model.set_outage(true);
    assert_eq!(create("p3").await, 1);
    while watch.try_next().await.unwrap().is_some() {}
    model.set_outage(false);
    assert_eq!(create("p3").await, 0);

    let before = tokio::time::Instant::now();
    model.add_fault(Fault::new(Trouble::Slow(Duration::from_secs(7))).times(1));
    assert_eq!(create("p4").await, 0);
    assert_eq!(before.elapsed(), Duration::from_secs(7));
    model.add_fault(Fault::new(Trouble::Hang).times(1));
    let hung = tokio::time::timeout(Duration::from_secs(100), pods.get("p4")).await;
    assert!(hung.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_service_accounts_token_dies_with_its_time_and_its_account() {
    let model = cluster();
    model
        .create(
            &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "l", "namespace": "runners"}}),
        )
        .unwrap();
    let token = async || {
        let request = http::Request::post("/api/v1/namespaces/runners/serviceaccounts/l/token")
            .body(json!({"spec": {}}).to_string().into_bytes())
            .unwrap();
        let answer: serde_json::Value = admin(&model).request(request).await.unwrap();
        answer["status"]["token"].as_str().unwrap().to_owned()
    };
    let code = async |token: &str| {
        let pods: Api<Pod> = Api::default_namespaced(client(&model, token, "runners"));
        match pods.list(&ListParams::default()).await {
            Err(kube::Error::Api(status)) => status.code,
            other => panic!("{other:?}"),
        }
    };
    let first = token().await;
    assert_eq!(code(&first).await, 403);
    tokio::time::advance(Duration::from_secs(3601)).await;
    assert_eq!(code(&first).await, 401);
    let second = token().await;
    assert_eq!(code(&second).await, 403);
    model.delete("serviceaccounts", "runners", "l").unwrap();
    assert_eq!(code(&second).await, 401);
}

#[tokio::test(start_paused = true)]
async fn one_seed_makes_one_world() {
    let uid = |seed: u64| {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let model = Model::new(seed, clock, SigningKey::shared("k").unwrap());
        model.get("namespaces", "", "default").unwrap()["metadata"]["uid"].clone()
    };
    assert_eq!(uid(1), uid(1));
    assert_ne!(uid(1), uid(2));
}

#[tokio::test(start_paused = true)]
async fn thousands_of_pods_reach_every_watcher() {
    let model = cluster();
    let pods: Api<Pod> = Api::default_namespaced(admin(&model));
    let mut watches = Vec::new();
    for _ in 0..5 {
        watches.push(pods.watch(&WatchParams::default(), "0").await.unwrap().boxed());
    }
    for i in 0..2000 {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{i}"), "namespace": "runners"},
            "spec": {"containers": [{"name": "runner", "image": "x"}]}});
        model.create(&pod).unwrap();
    }
    for watch in &mut watches {
        let seen = watch
            .by_ref()
            .take(2000)
            .filter(|e| std::future::ready(matches!(e, Ok(WatchEvent::Added(_)))));
        assert_eq!(seen.count().await, 2000);
    }
    assert_eq!(model.list("pods", "runners").len(), 2000);
}

#[tokio::test(start_paused = true)]
async fn logs_are_what_was_set() {
    let model = cluster();
    let pods: Api<Pod> = Api::default_namespaced(admin(&model));
    let mut bound = pod("p1");
    bound.spec.as_mut().unwrap().node_name = Some("n1".to_owned());
    pods.create(&PostParams::default(), &bound).await.unwrap();
    model.set_log("runners", "p1", "runner", "one\ntwo\nthree\n");
    let tail = kube::api::LogParams {
        tail_lines: Some(2),
        ..Default::default()
    };
    assert_eq!(pods.logs("p1", &tail).await.unwrap(), "two\nthree\n");
}

#[tokio::test]
async fn it_is_served_over_tls_to_clients_with_its_kubeconfig() {
    // The first of two that install it wins; either is the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let model = cluster();
    let authority = Authority::generate().unwrap();
    let tasks = Tasks::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serve_tls(&model, &authority, listener, &tasks).unwrap();
    let text = kubeconfig(&authority, address, model.admin_token(), "runners");
    let file = kube::config::Kubeconfig::from_yaml(&text).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(file, &Default::default())
        .await
        .unwrap();
    config.default_retry = false;
    let pods: Api<Pod> = Api::default_namespaced(kube::Client::try_from(config).unwrap());
    let mut events = pods.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    pods.create(&PostParams::default(), &pod("p1")).await.unwrap();
    assert!(matches!(events.try_next().await.unwrap(), Some(WatchEvent::Added(_))));
    model.add_fault(Fault::new(Trouble::Lost).verb("create").times(1));
    pods.create(&PostParams::default(), &pod("p2")).await.unwrap_err();
    assert!(model.get("pods", "runners", "p2").is_some());
    drop((events, pods));
    tasks.stop();
    tasks.finished().await;
}

/// What people type. The fleet's part (binding, phases) is not played.
#[tokio::test]
async fn kubectl_gets_describes_creates_and_deletes_pods() {
    if tokio::process::Command::new("kubectl")
        .arg("version")
        .arg("--client")
        .output()
        .await
        .is_err()
    {
        println!("SKIPPED: there is no kubectl here, so it was not tried against the simulation");
        return;
    }
    let model = cluster();
    let authority = Authority::generate().unwrap();
    let tasks = Tasks::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serve_tls(&model, &authority, listener, &tasks).unwrap();
    let home = std::env::temp_dir().join(format!("gharts-kubectl-{:08x}", fastrand::u32(..)));
    tokio::fs::create_dir_all(&home).await.unwrap();
    let config = home.join("kubeconfig");
    let text = kubeconfig(&authority, address, model.admin_token(), "runners");
    tokio::fs::write(&config, text).await.unwrap();
    let manifest = home.join("pod.json");
    let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p1", "labels": {"set": "a"}},
        "spec": {"containers": [{"name": "runner", "image": "runner:1"}]}});
    tokio::fs::write(&manifest, body.to_string()).await.unwrap();
    let kubectl = async |line: &str| {
        let output = tokio::process::Command::new("kubectl")
            .args(line.split(' '))
            .env("KUBECONFIG", &config)
            .env("HOME", &home)
            .output()
            .await
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "kubectl {line}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    };
    let create = format!("create --validate=false -f {}", manifest.display());
    assert_eq!(kubectl(&create).await, "pod/p1 created\n");
    assert!(kubectl("get pods").await.contains("p1"));
    assert!(kubectl("get po -l set=a -o name").await.contains("pod/p1"));
    assert!(kubectl("get pods -A -o wide").await.contains("runners"));
    assert!(kubectl("get secrets").await.is_empty());
    let described = kubectl("describe pod p1").await;
    assert!(
        described.contains("runner:1") && described.contains("Pending"),
        "{described}"
    );
    assert!(kubectl("get events").await.is_empty());
    assert_eq!(kubectl("label pod p1 set=b --overwrite").await, "pod/p1 labeled\n");
    assert!(kubectl("delete pod p1").await.starts_with("pod \"p1\" deleted"));
    assert!(model.get("pods", "runners", "p1").is_none());
    tasks.stop();
    tasks.finished().await;
    tokio::fs::remove_dir_all(&home).await.unwrap();
}

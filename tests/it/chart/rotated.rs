//! `helm upgrade` and changed Secrets reach the running daemon through its mounted folders, under load: no restart, no
//! failed job. Nothing mounts volumes on a test's machine, so the test is the kubelet: it takes the volumes of the chart's
//! pod from the API server and writes them as a kubelet does, a folder with a date and the link `..data` swapped to it.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use gharts_listener::{
    clock::Clock,
    config::{Proxy, Tls},
    http::{IDLE_BRIEF, SharedTransport, reqwest_transport, send},
    shutdown::Tasks,
    sim::{
        github::{GitHub, JobHandle, JobState, NewJobs, Pat},
        keys::SigningKey,
        kubernetes::Authority,
        oidc,
        serve::{ServeOptions, Served, serve},
        world::{
            APP_CLIENT, APP_INSTALLATION, Credential, GhartsLimits, MACHINE, ORGANIZATION, Options, Provisioner,
            SetOptions, TEAM,
        },
    },
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{DAEMON_NAMESPACE, chart, cluster::Cluster};
use crate::killed::{LOOK_EVERY, PATIENCE, Process};

/// So many are always waiting or at work, ten at a time for four seconds each.
const JOBS: usize = 30;

/// Brings the volumes of the chart's Deployment into folders of this machine.
struct Kubelet<'a> {
    cluster: &'a Cluster,
    dir: PathBuf,
}

impl Kubelet<'_> {
    fn get(&self, kind: &str, name: &str) -> Value {
        let text = self
            .cluster
            .kubectl(&["--namespace", DAEMON_NAMESPACE, "get", kind, name, "--output=json"]);
        serde_json::from_str(&text).unwrap()
    }

    fn file(&self, volume: &str, name: &str) -> PathBuf {
        self.dir.join(volume).join(name)
    }

    /// A new one of the chart's account.
    fn token(&self, audience: &str) -> String {
        let wanted = [
            "create",
            "token",
            "gharts-listener",
            "--audience",
            audience,
            "--duration=600s",
        ];
        let token = self
            .cluster
            .kubectl(&[&["--namespace", DAEMON_NAMESPACE], &wanted[..]].concat());
        token.trim().to_owned()
    }

    /// What the volume holds now, by file name.
    fn content(&self, volume: &Value) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        if let Some(name) = volume["configMap"]["name"].as_str() {
            for (file, text) in self.get("configmap", name)["data"].as_object().unwrap() {
                all.insert(file.clone(), text.as_str().unwrap().into());
            }
        }
        for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
            if let Some(audience) = source["serviceAccountToken"]["audience"].as_str() {
                let file = source["serviceAccountToken"]["path"].as_str().unwrap();
                all.insert(file.to_owned(), self.token(audience).into());
            }
            for kind in ["secret", "configMap"] {
                let Some(name) = source[kind]["name"].as_str() else {
                    continue;
                };
                let object = self.get(kind, name);
                for item in source[kind]["items"].as_array().unwrap() {
                    let text = object["data"][item["key"].as_str().unwrap()].as_str().unwrap();
                    let bytes = match kind {
                        "secret" => STANDARD.decode(text).unwrap(),
                        _ => text.into(),
                    };
                    all.insert(item["path"].as_str().unwrap().to_owned(), bytes);
                }
            }
        }
        all
    }

    /// All volumes as the API server has them now.
    fn refresh(&self) {
        let pod = &self.get("deployment", "gharts-listener")["spec"]["template"]["spec"];
        for volume in pod["volumes"].as_array().unwrap() {
            let folder = self.dir.join(volume["name"].as_str().unwrap());
            mount(&folder, &self.content(volume));
        }
    }
}

/// Every file is a link through `..data`, so that all of them change at one moment.
fn mount(folder: &Path, content: &BTreeMap<String, Vec<u8>>) {
    fs::create_dir_all(folder).unwrap();
    let dated = format!("..{}", fs::read_dir(folder).unwrap().count());
    fs::create_dir(folder.join(&dated)).unwrap();
    for (file, bytes) in content {
        fs::write(folder.join(&dated).join(file), bytes).unwrap();
    }
    symlink(&dated, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    for file in content.keys().filter(|file| !folder.join(file).exists()) {
        symlink(Path::new("..data").join(file), folder.join(file)).unwrap();
    }
}

/// What the world serves on a plain port, by TLS: with whichever certificate is the latest at each handshake.
struct Front {
    port: u16,
    tls: watch::Sender<TlsAcceptor>,
    /// Handshakes so far that came to their end.
    met: Arc<AtomicU32>,
}

impl Front {
    async fn start(authority: &Authority, world: u16, tasks: &Tasks) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tls, latest) = watch::channel(authority.acceptor().unwrap());
        let met = Arc::new(AtomicU32::new(0));
        let (counted, connections) = (met.clone(), tasks.clone());
        tasks.spawn("front", async move {
            while let Some(Ok((stream, _))) = connections.token().run_until_cancelled(listener.accept()).await {
                let (acceptor, met) = (latest.borrow().clone(), counted.clone());
                connections.spawn("front's connection", async move {
                    let Ok(mut outer) = acceptor.accept(stream).await else {
                        return;
                    };
                    met.fetch_add(1, Ordering::Relaxed);
                    let mut inner = tokio::net::TcpStream::connect(("127.0.0.1", world)).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                });
            }
        });
        Self { port, tls, met }
    }

    /// From the next handshake on.
    fn change(&self, authority: &Authority) {
        self.tls.send_replace(authority.acceptor().unwrap());
    }

    fn met(&self) -> u32 {
        self.met.load(Ordering::Relaxed)
    }
}

/// The chart's values for a world at this port, whose GHARTS and issuer are reached by TLS at the other one.
fn values(port: u16, front: u16) -> Value {
    let at = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let by_tls = |path: &str| format!("https://127.0.0.1:{front}{path}");
    json!({
        "replicaCount": 0,
        "image": {"repository": "registry.example.com/gharts-listener"},
        "credentials": {
            "githubAppKey": {"secretName": "github-app"},
            "ghartsClientSecret": {"secretName": "gharts-client"},
            "ca": {"configMapName": "company-ca"},
        },
        "config": {
            "github": {"configUrl": at("/acme"),
                "auth": {"app": {"clientId": APP_CLIENT, "installationId": APP_INSTALLATION}}},
            "gharts": {"baseUrl": by_tls("/gharts"), "team": TEAM,
                "limits": {"requestsPerSecond": 100, "burst": 100, "maxInFlight": 16},
                "oidc": {"provider": "external", "audience": at("/gharts"),
                    "external": {"tokenUrl": by_tls("/oidc/oauth/token"), "clientId": MACHINE.0, "scope": "runners"}}},
            "server": {"listen": format!("127.0.0.1:{}", port + 2)},
            "logging": {"format": "human"},
            "scaleSets": [{"name": "linux", "maxRunners": 10,
                "template": {"spec": {"containers": [{"name": "runner", "image": "ghcr.io/actions/actions-runner:latest"}]}}}],
        },
    })
}

fn put_secret(cluster: &Cluster, name: &str, key: &str, text: &str) {
    cluster.apply(&json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": DAEMON_NAMESPACE}, "stringData": {key: text}}));
}

fn put_ca(cluster: &Cluster, bundle: &str) {
    cluster.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "company-ca", "namespace": DAEMON_NAMESPACE}, "data": {"ca.crt": bundle}}));
}

/// All the jobs that there were.
async fn keep_busy(github: GitHub, enough: CancellationToken) -> Vec<JobHandle> {
    let some = NewJobs::for_set(ORGANIZATION, "linux", JOBS).lasting(Duration::from_secs(4));
    let mut jobs = Vec::new();
    while !enough.is_cancelled() {
        if github.unfinished_jobs() < JOBS {
            jobs.extend(github.queue_jobs(&some));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    jobs
}

async fn until(what: &str, log: &Path, condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        panic!("never came: {what}\n{}", fs::read_to_string(log).unwrap_or_default());
    }
}

async fn status(transport: &SharedTransport, port: u16) -> Option<Value> {
    let request = http::Request::get(format!("http://127.0.0.1:{}/api/v1/status", port + 2));
    let request = request.body(Bytes::new()).unwrap();
    let answer = send(transport.as_ref(), request, Duration::from_secs(5)).await.ok()?;
    serde_json::from_slice(answer.body()).ok()
}

/// The daemon, to which is said by variables what stands elsewhere than in a pod.
fn run(cluster: &Cluster, places: &[(&str, PathBuf)]) -> Process {
    let variable = |(name, path): &(&str, PathBuf)| (format!("GHARTS_LISTENER_{name}"), path.display().to_string());
    let variables: Vec<(String, String)> = places.iter().map(variable).collect();
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, path)| (&**name, &**path)).collect();
    Process::start_with(&cluster.dir, "run.log", &["run"], &variables)
}

/// The file of a secret has changed so often, as the daemon says.
async fn until_taken_over(log: &Path, file: &str, times: usize) {
    until(file, log, async || {
        let text = fs::read_to_string(log).unwrap();
        let all = text
            .lines()
            .filter(|line| line.contains("secrets have changed: taken over"));
        all.filter(|line| line.contains(file)).count() == times
    })
    .await;
}

/// Each job that was queued succeeded.
fn assert_succeeded(github: &GitHub, jobs: &[JobHandle]) {
    let of = |job: &JobHandle| github.job(&job.id).unwrap().result;
    let failed: Vec<_> = jobs
        .iter()
        .map(of)
        .filter(|result| result.as_deref() != Some("succeeded"))
        .collect();
    assert!(failed.is_empty() && jobs.len() >= JOBS, "{failed:?} of {}", jobs.len());
}

async fn world(cluster: &Cluster, port: u16, credential: Credential, tasks: &Tasks) -> Served {
    let options = Options {
        credential,
        sets: vec![SetOptions::new("linux", Provisioner::Gharts, 10)],
        gharts_limits: GhartsLimits::WIDE,
        ..Options::default()
    };
    let place = ServeOptions {
        dir: cluster.dir.join("world"),
        port_base: Some(port),
        daemon: None,
        kubeconfig: Some(cluster.kubeconfig().into()),
        human_logs: true,
    };
    serve(options, &place, &Clock::system(), tasks).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn b38_helm_upgrade_and_every_changed_secret_reach_the_running_daemon_under_load_without_a_failed_job() {
    let Some(cluster) = Cluster::start("rotated") else {
        return;
    };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let tasks = Tasks::new();
    let [old_ca, new_ca] = [(); 2].map(|()| Authority::generate().unwrap());
    let front = Front::start(&old_ca, port, &tasks).await;
    let file = cluster.dir.join("values.json");
    fs::write(&file, values(port, front.port).to_string()).unwrap();
    cluster.kubectl(&["create", "namespace", super::RUNNER_NAMESPACE]);
    cluster.install(&["--values", file.to_str().unwrap()]);
    // A key of the App for the daemon; GHARTS has one of its own.
    let first = SigningKey::generate("first").unwrap();
    put_secret(&cluster, "github-app", "private-key.pem", first.private_pem());
    put_secret(&cluster, "gharts-client", "client-secret", MACHINE.1);
    put_ca(&cluster, old_ca.ca_pem());
    let kubelet = Kubelet {
        cluster: &cluster,
        dir: cluster.dir.join("volumes"),
    };
    kubelet.refresh();

    let served = world(&cluster, port, Credential::App, &tasks).await;
    let (github, oidc) = (served.world.services.github.clone(), served.world.services.oidc.clone());
    assert!(github.add_app_key(first.public_pem()));
    let places = [
        ("CONFIG", kubelet.file("file", "config.yaml")),
        ("_KUBERNETES__KUBECONFIG", cluster.dir.join("world/kubeconfig")),
        (
            "_GITHUB__AUTH__APP__PRIVATE_KEY_FILE",
            kubelet.file("credentials", "githubAppKey"),
        ),
        (
            "_GHARTS__OIDC__EXTERNAL__CLIENT_SECRET_FILE",
            kubelet.file("credentials", "ghartsClientSecret"),
        ),
        ("_GITHUB__TLS__CA_FILE", kubelet.file("credentials", "ca")),
        ("_GHARTS__TLS__CA_FILE", kubelet.file("credentials", "ca")),
    ];
    let mut daemon = run(&cluster, &places);
    let log = cluster.dir.join("run.log");
    let transport = reqwest_transport(&Tls::default(), &Proxy::default(), IDLE_BRIEF).unwrap();
    until("a session", &log, async || {
        github.set("linux").is_some_and(|set| set.polling)
    })
    .await;

    let enough = CancellationToken::new();
    let load = tasks.spawn("load", keep_busy(github.clone(), enough.clone()));
    let at_work = || github.jobs().iter().any(|job| job.state == JobState::Running);
    until("jobs at work", &log, async || at_work()).await;
    // The configuration.
    cluster.helm_does(&[
        "upgrade",
        "gharts-listener",
        &chart(),
        "--namespace",
        DAEMON_NAMESPACE,
        "--reuse-values",
        "--set",
        "config.maxRunners=9",
    ]);
    kubelet.refresh();
    until("the second generation", &log, async || {
        let said = status(&transport, port).await.unwrap_or_default();
        said["configuration"]["generation"] == 2
    })
    .await;

    // Another key; then the first one is taken back.
    let second = SigningKey::generate("second").unwrap();
    assert!(github.add_app_key(second.public_pem()));
    let tokens = github.answered("access token", 201);
    put_secret(&cluster, "github-app", "private-key.pem", second.private_pem());
    kubelet.refresh();
    until_taken_over(&log, "credentials/githubAppKey", 1).await;
    until("a token by the new key", &log, async || {
        github.answered("access token", 201) > tokens
    })
    .await;
    github.remove_app_key(first.public_pem());

    // The client's secret at the issuer of tokens for GHARTS.
    let issued = oidc.tokens_issued();
    oidc.register(oidc::Client::machine(MACHINE.0, "another"));
    put_secret(&cluster, "gharts-client", "client-secret", "another");
    kubelet.refresh();
    until_taken_over(&log, "credentials/ghartsClientSecret", 1).await;
    until("a token by the new secret", &log, async || {
        oidc.tokens_issued() > issued
    })
    .await;

    // The authority of GHARTS and the issuer: both are trusted, the server changes, the new one alone is.
    put_ca(&cluster, &format!("{}{}", old_ca.ca_pem(), new_ca.ca_pem()));
    kubelet.refresh();
    until_taken_over(&log, "credentials/ca", 1).await;
    front.change(&new_ca);
    put_ca(&cluster, new_ca.ca_pem());
    let met = front.met();
    kubelet.refresh();
    until_taken_over(&log, "credentials/ca", 2).await;
    until("calls by the new certificate", &log, async || front.met() > met).await;
    // A round of jobs by it.
    let ended = github.jobs().len();
    until("more jobs", &log, async || github.jobs().len() >= ended + JOBS).await;

    enough.cancel();
    let jobs = load.await.unwrap();
    until("the end of every job", &log, async || github.unfinished_jobs() == 0).await;
    assert_succeeded(&github, &jobs);
    assert_eq!(github.answered("open session", 200), 1, "no session was dropped");
    assert_eq!((github.answered("access token", 401), oidc.tokens_refused()), (0, 0));
    let text = fs::read_to_string(&log).unwrap();
    assert!(!text.contains("runner not provisioned"), "{text}");
    assert!(daemon.0.try_wait().unwrap().is_none(), "one process did all of it");
    let said = status(&transport, port).await.unwrap();
    assert_eq!(said["configuration"]["generation"], 2, "{said:#}");
    assert_eq!(daemon.terminate(), Some(0));
    tasks.stop();
}

/// The daemon's token for GHARTS comes by the kubelet, as a volume of the pod.
#[tokio::test(flavor = "multi_thread")]
async fn b38_a_projected_token_and_a_personal_one_are_replaced_under_load() {
    let Some(cluster) = Cluster::start("projected") else {
        return;
    };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut values = values(port, port);
    let gharts = format!("http://127.0.0.1:{port}/gharts");
    values["credentials"] = json!({"githubToken": {"secretName": "github-token"}});
    values["projectedToken"] = json!({"audience": gharts});
    values["config"]["github"].as_object_mut().unwrap().remove("auth");
    values["config"]["gharts"]["baseUrl"] = json!(gharts);
    values["config"]["gharts"]["oidc"] = json!({"provider": "file"});
    let file = cluster.dir.join("values.json");
    fs::write(&file, values.to_string()).unwrap();
    cluster.kubectl(&["create", "namespace", super::RUNNER_NAMESPACE]);
    cluster.install(&["--values", file.to_str().unwrap()]);
    let tasks = Tasks::new();
    let served = world(&cluster, port, Credential::Pat, &tasks).await;
    let (services, github) = (&served.world.services, served.world.services.github.clone());
    put_secret(&cluster, "github-token", "token", services.pat());
    let kubelet = Kubelet {
        cluster: &cluster,
        dir: cluster.dir.join("volumes"),
    };
    kubelet.refresh();
    let places = [
        ("CONFIG", kubelet.file("file", "config.yaml")),
        ("_KUBERNETES__KUBECONFIG", cluster.dir.join("world/kubeconfig")),
        (
            "_GITHUB__AUTH__PAT__TOKEN_FILE",
            kubelet.file("credentials", "githubToken"),
        ),
        ("_GHARTS__OIDC__TOKEN_FILE", kubelet.file("token", "token")),
    ];
    let mut daemon = run(&cluster, &places);
    let log = cluster.dir.join("run.log");
    let at_work = || github.jobs().iter().any(|job| job.state == JobState::Running);
    until("a session", &log, async || {
        github.set("linux").is_some_and(|set| set.polling)
    })
    .await;
    let enough = CancellationToken::new();
    let load = tasks.spawn("load", keep_busy(github.clone(), enough.clone()));
    until("jobs at work", &log, async || at_work()).await;

    // Each refresh brings another token.
    kubelet.refresh();
    until_taken_over(&log, "token/token", 1).await;
    let new = "ghp_00000000000000000000000000004242";
    github.put_pat(Pat {
        token: new.to_owned(),
        manages_runners: true,
        only_in: None,
    });
    put_secret(&cluster, "github-token", "token", new);
    kubelet.refresh();
    until_taken_over(&log, "credentials/githubToken", 1).await;
    github.remove_pat(services.pat());
    github.revoke_admin_tokens();
    let before = github.jobs().len();
    until("more jobs", &log, async || github.jobs().len() >= before + JOBS).await;

    enough.cancel();
    let jobs = load.await.unwrap();
    until("the end of every job", &log, async || github.unfinished_jobs() == 0).await;
    assert_succeeded(&github, &jobs);
    assert_eq!(github.answered("open session", 200), 1, "no session was dropped");
    assert_eq!(github.answered("registration token", 401), 0);
    let text = fs::read_to_string(&log).unwrap();
    assert!(!text.contains("runner not provisioned"), "{text}");
    assert_eq!(daemon.terminate(), Some(0));
    tasks.stop();
}

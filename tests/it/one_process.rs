//! `run` as one process on real sockets: SIGHUP and the files that it follows, what it does where a peer is not there,
//! and its exit codes.

use std::{fs, net::TcpListener, path::PathBuf, process::Command, time::Duration};

use bytes::Bytes;
use gharts_listener::{
    clock::Clock,
    config::{Proxy, Tls},
    http::{IDLE_BRIEF, SharedTransport, reqwest_transport, send},
    shutdown::Tasks,
    sim::{
        github::{JobState, NewJobs, Pat},
        oidc,
        serve::{ServeOptions, serve},
        world::{GITHUB_TOKEN_FILE, MACHINE, ORGANIZATION, Options, Provisioner, SetOptions},
    },
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::killed::{LOOK_EVERY, ONE_AT_A_TIME, PATIENCE, Process, Sim, nothing_left, scratch};

/// Less than the 10 s between two looks at the file that nobody asks for: of two changes in a row at least one is not
/// seen by them in time.
const AT_ONCE: Duration = Duration::from_secs(8);

/// A daemon, and the port that it answers on.
struct Daemon {
    process: Process,
    dir: PathBuf,
    file: PathBuf,
    transport: SharedTransport,
    url: String,
}

impl Daemon {
    /// By the file of a world that is served in `dir/world`, as `edit` leaves it.
    fn start(dir: PathBuf, edit: impl FnOnce(String) -> String) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let world = dir.join("world");
        let addresses: Value = serde_json::from_slice(&fs::read(world.join("sim.json")).unwrap()).unwrap();
        let file = dir.join("config.yaml");
        fs::write(&file, edit(fs::read_to_string(world.join("config.yaml")).unwrap())).unwrap();
        Self {
            process: Process::start(&dir, "run.log", &["run", "--config", file.to_str().unwrap()]),
            transport: reqwest_transport(&Tls::default(), &Proxy::default(), IDLE_BRIEF).unwrap(),
            url: addresses["daemon"].as_str().unwrap().to_owned(),
            dir,
            file,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("run.log")).unwrap()
    }

    /// What its port says; nothing while it does not answer.
    async fn get(&self, path: &str) -> (u16, String) {
        let request = http::Request::get(format!("{}{path}", self.url));
        let request = request.body(Bytes::new()).unwrap();
        match send(self.transport.as_ref(), request, Duration::from_secs(5)).await {
            Ok(answer) => (
                answer.status().as_u16(),
                String::from_utf8(answer.body().to_vec()).unwrap(),
            ),
            Err(_) => (0, String::new()),
        }
    }

    async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/api/v1/status").await.1).unwrap_or_default()
    }

    async fn metric(&self, name: &str) -> Option<f64> {
        let text = self.get("/metrics").await.1;
        let line = text.lines().find(|line| line.split(['{', ' ']).next() == Some(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
    }

    /// What `gharts-listener status` says, and its exit code.
    fn asked(&self, arguments: &[&str]) -> (String, Option<i32>) {
        let output = Command::new(env!("CARGO_BIN_EXE_gharts-listener"))
            .arg("status")
            .args(arguments)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (String::from_utf8(said).unwrap(), output.status.code())
    }

    /// How long it took until the daemon's status was so.
    async fn until(&mut self, what: &str, condition: impl Fn(&Value) -> bool) -> Duration {
        let begun = Instant::now();
        loop {
            let status = self.status().await;
            if condition(&status) {
                return begun.elapsed();
            }
            let ended = self.process.0.try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < PATIENCE,
                "never came: {what} ({ended:?})\n{status:#}\n{}",
                self.log()
            );
            tokio::time::sleep(LOOK_EVERY / 4).await;
        }
    }

    /// Another file and SIGHUP; the daemon's status is so at once.
    async fn reads(&mut self, text: &str, what: &str, condition: impl Fn(&Value) -> bool) {
        let next = self.file.with_extension("next");
        fs::write(&next, text).unwrap();
        fs::rename(&next, &self.file).unwrap();
        self.process.signal("-HUP");
        let took = self.until(what, condition).await;
        assert!(took < AT_ONCE, "{what}: {took:?}\n{}", self.log());
    }
}

fn max_runners(status: &Value) -> &Value {
    &status["scaleSets"][0]["maxRunners"]
}

#[tokio::test(flavor = "multi_thread")]
async fn b38_after_sighup_a_changed_file_is_in_effect_at_once_and_a_wrong_one_is_told_in_log_metric_and_status() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let dir = scratch("hangup");
    let sim = Sim::start(&dir, None).await;
    let mut daemon = Daemon::start(dir, |text| text);
    let sessions = |state: &Value| state["left"]["sessions"] == 1;
    sim.control.until("a session", sessions).await;
    let good = fs::read_to_string(&daemon.file).unwrap();
    let with = |max: &str| good.replace("maxRunners: 50", &format!("maxRunners: {max}"));

    daemon.reads(&with("7"), "seven", |s| *max_runners(s) == 7).await;
    let log = daemon.log();
    assert!(log.contains("SIGHUP: the file is looked at"), "{log}");
    assert!(log.contains("scaleSets[set-1].maxRunners: 50 -> 7"), "{log}");
    assert_eq!(daemon.metric("gharts_listener_config_refused").await, Some(0.0));

    let refused = |s: &Value| s["configuration"]["problems"] != json!([]);
    daemon.reads(&with("many"), "the refusal", refused).await;
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("the file is refused")).unwrap();
    assert!(
        line.contains("scaleSets[0].maxRunners: expected a whole number"),
        "{line}"
    );
    assert_eq!(daemon.metric("gharts_listener_config_refused").await, Some(1.0));
    // By the very file that is wrong.
    let file = daemon.file.to_str().unwrap().to_owned();
    for arguments in [["--config", &file], ["--url", &daemon.url]] {
        let (said, code) = daemon.asked(&arguments);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("the file has been refused since"), "{said}");
        assert!(
            said.contains("scaleSets[0].maxRunners: expected a whole number"),
            "{said}"
        );
        assert!(said.contains("of 0..7"), "the older settings are in effect: {said}");
    }
    let jobs = json!({"scaleSet": "set-1", "count": 3, "durationSeconds": 0.1});
    sim.control.ask("POST", "/jobs", &jobs).await;
    let done = |state: &Value| state["jobs"] == json!({"finished": 3}) && nothing_left(state);
    sim.control.until("jobs by the older settings", done).await;

    // Not even YAML: the command says so, and the daemon lives on.
    let no_yaml = |s: &Value| s["configuration"]["problems"][0]["path"] == "(file)";
    daemon.reads("scaleSets: [", "another refusal", no_yaml).await;
    let (said, code) = daemon.asked(&["--config", &file]);
    assert!(
        code == Some(64) && said.contains("is not YAML") && said.contains("--url"),
        "{said}"
    );

    let mended = |s: &Value| *max_runners(s) == 9 && s["configuration"]["problems"] == json!([]);
    daemon.reads(&with("9"), "nine", mended).await;
    assert!(
        daemon.log().contains("scaleSets[set-1].maxRunners: 7 -> 9"),
        "{}",
        daemon.log()
    );
    assert_eq!(daemon.metric("gharts_listener_config_refused").await, Some(0.0));
    let (said, code) = daemon.asked(&["--config", &file]);
    assert!(
        code == Some(0) && !said.contains("refused") && said.contains("of 0..9"),
        "{said}"
    );
    let state = sim.control.ask("GET", "/state", &Value::Null).await;
    assert_eq!(state["left"]["sessions"], 1, "{state:#}");
    assert_eq!(daemon.process.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn b38_a_token_and_a_client_secret_are_replaced_under_load_in_one_process() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let dir = scratch("secrets");
    let tasks = Tasks::new();
    let options = Options {
        sets: vec![SetOptions::new("linux", Provisioner::Gharts, 10)],
        ..Options::default()
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let place = ServeOptions {
        dir: dir.join("world"),
        port_base: Some(port),
        daemon: None,
        kubeconfig: None,
        human_logs: true,
    };
    let served = serve(options, &place, &Clock::system(), &tasks).await.unwrap();
    let (github, oidc) = (served.world.services.github.clone(), served.world.services.oidc.clone());
    let secret = dir.join("client-secret");
    fs::write(&secret, MACHINE.1).unwrap();
    let machine = format!(
        "  oidc: {{ provider: external, audience: '{}', external: {{ tokenUrl: '{}', clientId: {}, clientSecretFile: \
         '{}', scope: runners }} }}\n",
        served.addresses.gharts,
        oidc.token_url(),
        MACHINE.0,
        secret.display()
    );
    let token = dir.join("world").join(GITHUB_TOKEN_FILE);
    let mut daemon = Daemon::start(dir, |text| {
        let (before, rest) = text.split_once("  oidc:\n").unwrap();
        format!("{before}{machine}{}", &rest[rest.find("  # A real GHARTS").unwrap()..])
    });
    let polling = |s: &Value| s["scaleSets"][0]["session"] == "polling";
    daemon.until("a session", polling).await;
    let new_jobs = |count| {
        let jobs = NewJobs::for_set(ORGANIZATION, "linux", count).lasting(Duration::from_secs(2));
        github.queue_jobs(&jobs)
    };
    let mut all = new_jobs(40);
    let of_state = |state: JobState| github.jobs().iter().filter(|job| job.state == state).count();
    daemon.until("jobs at work", |_| of_state(JobState::Running) > 0).await;

    let new = format!("ghp_{:032x}", 4242);
    github.put_pat(Pat {
        token: new.clone(),
        manages_runners: true,
        only_in: None,
    });
    oidc.register(oidc::Client::machine(MACHINE.0, "another"));
    let issued = oidc.tokens_issued();
    fs::write(&token, &new).unwrap();
    fs::write(&secret, "another").unwrap();
    daemon.process.signal("-HUP");
    daemon
        .until("a token by the new secret", |_| oidc.tokens_issued() > issued)
        .await;
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("secrets have changed: taken over"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    assert!(
        line.contains(GITHUB_TOKEN_FILE) && line.contains("client-secret"),
        "{line}"
    );
    github.remove_pat(served.world.services.pat());
    github.revoke_admin_tokens();
    all.extend(new_jobs(10));
    daemon
        .until("the end of every job", |_| of_state(JobState::Finished) == all.len())
        .await;
    let succeeded = |id: &str| github.job(id).unwrap().result.as_deref() == Some("succeeded");
    assert!(all.iter().all(|job| succeeded(&job.id)));
    assert_eq!(
        (github.answered("registration token", 401), oidc.tokens_refused()),
        (0, 0)
    );
    assert_eq!(github.answered("open session", 200), 1, "no session was dropped");
    let log = daemon.log();
    for secret in [&new, served.world.services.pat(), MACHINE.1, "another"] {
        assert!(!log.contains(secret), "a secret stands in the log");
    }
    assert_eq!(daemon.process.terminate(), Some(0));
    tasks.stop();
    tasks.finished().await;
}

/// A port where nobody listens.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Carries every connection on.
async fn open_way(from: u16, to: u16, tasks: &Tasks) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", from)).await.unwrap();
    let ways = tasks.clone();
    tasks.spawn("way", async move {
        while let Some(Ok((mut near, _))) = ways.token().run_until_cancelled(listener.accept()).await {
            ways.spawn("connection", async move {
                let mut far = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                // Either end may hang up whenever it likes.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn b48_a_daemon_whose_peers_cannot_be_reached_at_its_start_says_so_and_serves_as_soon_as_they_can() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let dir = scratch("unreachable");
    let sim = Sim::start(&dir, None).await;
    let (closed, tasks) = (closed_port(), Tasks::new());
    let port: u16 = sim.control.url.split([':', '/']).nth(4).unwrap().parse().unwrap();
    let mut daemon = Daemon::start(dir, |text| {
        let (here, there) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{closed}"));
        // The audience is a name, whatever the way.
        let moved = |line: &str| match line.contains("audience") {
            true => line.to_owned(),
            false => line.replace(&here, &there),
        };
        text.lines().map(|line| moved(line) + "\n").collect()
    });
    let reasons = |s: &Value| s["scaleSets"][0]["reasons"].clone();
    let unreachable = |s: &Value| {
        reasons(s)
            .as_array()
            .is_some_and(|all| all.iter().any(|r| r["code"] == "unreachable"))
    };
    daemon.until("the reason", unreachable).await;
    assert_eq!(daemon.get("/livez").await.0, 200);
    let (said, code) = daemon.asked(&["--url", &daemon.url]);
    assert!(
        code == Some(0) && said.contains("unreachable") && said.contains("help: "),
        "{said}"
    );

    open_way(closed, port, &tasks).await;
    let jobs = json!({"scaleSet": "set-1", "count": 3, "durationSeconds": 0.1});
    let sessions = |state: &Value| state["left"]["sessions"] == 1;
    sim.control.until("a session", sessions).await;
    sim.control.ask("POST", "/jobs", &jobs).await;
    let done = |state: &Value| state["jobs"] == json!({"finished": 3});
    sim.control.until("the end of every job", done).await;
    assert_eq!(daemon.process.terminate(), Some(0));
    tasks.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn b36_b39_a_daemon_without_an_api_server_at_its_start_stays_up_not_ready_and_ends_when_told() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let dir = scratch("no-api-server");
    let sim = Sim::start(&dir, None).await;
    let kubeconfig = dir.join("kubeconfig");
    let text = fs::read_to_string(dir.join("world/kubeconfig")).unwrap();
    let server = text.lines().find(|line| line.contains("server:")).unwrap();
    let elsewhere = format!("{}:{}", server.rsplit_once(':').unwrap().0, closed_port());
    fs::write(&kubeconfig, text.replace(server, &elsewhere)).unwrap();
    let served = dir.join("world/kubeconfig").display().to_string();
    let mut daemon = Daemon::start(dir, |text| text.replace(&served, kubeconfig.to_str().unwrap()));
    daemon
        .until("what it lacks", |s| {
            s["notReady"][0]
                .as_str()
                .is_some_and(|why| why.contains("namespace runners: "))
        })
        .await;
    assert_eq!(
        (daemon.get("/livez").await.0, daemon.get("/readyz").await.0),
        (200, 503)
    );
    // SIGHUP is heard meanwhile, too.
    daemon.process.signal("-HUP");
    tokio::time::sleep(LOOK_EVERY).await;
    assert_eq!(daemon.process.terminate(), Some(0), "{}", daemon.log());
    let state = sim.control.ask("GET", "/state", &Value::Null).await;
    assert_eq!(state["calls"], json!({}), "nobody else was called: {state:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn b37_a_second_signal_ends_it_at_once_whatever_is_in_flight() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let dir = scratch("twice");
    let sim = Sim::start(&dir, None).await;
    let mut daemon = Daemon::start(dir, |text| text);
    let sessions = |state: &Value| state["left"]["sessions"] == 1;
    sim.control.until("a session", sessions).await;
    let frozen = json!({"freezeSeconds": 300});
    sim.control.ask("PATCH", "/gharts", &frozen).await;
    let jobs = json!({"scaleSet": "set-1", "count": 1, "durationSeconds": 0.1});
    sim.control.ask("POST", "/jobs", &jobs).await;
    let begun = |s: &Value| s["scaleSets"][0]["runners"]["provisioning"] == 1;
    daemon.until("a call that is not answered", begun).await;

    daemon.process.signal("-TERM");
    daemon.until("what is said of it", |_| true).await;
    let begun = Instant::now();
    while !daemon.log().contains("draining: no more polls") {
        assert!(begun.elapsed() < PATIENCE, "{}", daemon.log());
        tokio::time::sleep(LOOK_EVERY / 4).await;
    }
    assert!(daemon.process.0.try_wait().unwrap().is_none(), "it waits for the call");
    let begun = Instant::now();
    assert_eq!(daemon.process.terminate(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(daemon.log().contains("told twice to end"), "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_75_where_there_is_no_cluster_to_speak_to() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let dir = scratch("no-cluster");
    let _sim = Sim::start(&dir, None).await;
    let text = fs::read_to_string(dir.join("world/config.yaml")).unwrap();
    let without = text.lines().filter(|line| !line.contains("kubeconfig: "));
    let file = dir.join("config.yaml");
    fs::write(&file, without.collect::<Vec<_>>().join("\n")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_gharts-listener"))
        .args(["run", "--config", file.to_str().unwrap()])
        .env("KUBECONFIG", dir.join("nothing"))
        .env("HOME", &dir)
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(75), "{said}");
    assert!(said.contains("cannot start: no Kubernetes client"), "{said}");
}

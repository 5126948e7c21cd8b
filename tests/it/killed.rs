//! The real thing: `sim` and `run` as processes on real sockets, `run` killed in the middle of a hundred jobs and
//! started again. With a real Kubernetes API server where there is one (`tests/all.sh` gets it).
//!
//! One replica: started again, it closes the session that it left open, which its Lease names. What was cut off between
//! registration and pod is found by the second comparison, two minutes after the start.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use gharts_listener::{
    config::{Proxy, Tls},
    http::{IDLE_BRIEF, SharedTransport, reqwest_transport, send},
};
use serde_json::{Value, json};

const JOBS: u64 = 100;
pub const LOOK_EVERY: Duration = Duration::from_millis(200);
pub const PATIENCE: Duration = Duration::from_secs(400);

/// A process that does not outlive its test.
pub struct Process(pub Child);

impl Process {
    pub fn start(dir: &Path, log: &str, arguments: &[&str]) -> Self {
        Self::start_with(dir, log, arguments, &[])
    }

    /// With these variables, too.
    pub fn start_with(dir: &Path, log: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let log = fs::File::create(dir.join(log)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_gharts-listener"))
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        Self(child.unwrap())
    }

    /// Ends it by SIGTERM; its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal("-TERM");
        self.0.wait().unwrap().code()
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Control {
    pub transport: SharedTransport,
    pub url: String,
}

impl Control {
    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .body(Bytes::from(body.to_string()))
            .unwrap();
        let answer = send(self.transport.as_ref(), request, Duration::from_secs(20)).await;
        serde_json::from_slice(answer.unwrap().body()).unwrap()
    }

    pub async fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let waiting = async {
            loop {
                let state = self.ask("GET", "/state", &Value::Null).await;
                if condition(&state) {
                    return state;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(state) => state,
            Err(_) => panic!(
                "never came: {what}: {:#}",
                self.ask("GET", "/state", &Value::Null).await
            ),
        }
    }
}

pub fn nothing_left(state: &Value) -> bool {
    let left = state["left"].as_object().unwrap();
    left.iter().all(|(what, n)| n == 0 || what == "sessions")
}

pub fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// On a real cluster they share the namespace and the Lease.
pub static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The world outside as a process.
pub struct Sim {
    pub process: Process,
    pub control: Control,
    /// The file for `run`.
    pub config: PathBuf,
}

impl Sim {
    pub async fn start(dir: &Path, kubeconfig: Option<&str>) -> Self {
        // The binaries install it in their `main`; here it is for this process's own client.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let world = dir.join("world");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (world_text, port) = (world.to_str().unwrap(), port.to_string());
        let mut arguments = vec!["sim", "--dir", world_text, "--port-base", &port];
        if let Some(kubeconfig) = kubeconfig {
            arguments.extend(["--kubeconfig", kubeconfig]);
        }
        let mut sim = Process::start(dir, "sim.log", &arguments);
        let addresses = world.join("sim.json");
        let control = tokio::time::timeout(PATIENCE, async {
            loop {
                assert!(
                    sim.0.try_wait().unwrap().is_none(),
                    "{}",
                    fs::read_to_string(dir.join("sim.log")).unwrap()
                );
                let text = fs::read_to_string(&addresses).ok();
                if let Some(addresses) = text.and_then(|text| serde_json::from_str::<Value>(&text).ok()) {
                    return addresses["control"].as_str().unwrap().to_owned();
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        let control = Control {
            transport: reqwest_transport(&Tls::default(), &Proxy::default(), IDLE_BRIEF).unwrap(),
            url: control.await.unwrap(),
        };
        Self {
            process: sim,
            control,
            config: world.join("config.yaml"),
        }
    }
}

async fn a_killed_daemon_finishes_what_it_began(name: &str, kubeconfig: Option<&str>) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let dir = scratch(name);
    let Sim {
        process: mut sim,
        control,
        config,
    } = Sim::start(&dir, kubeconfig).await;
    let run = ["run", "--config", config.to_str().unwrap()];

    let mut daemon = Process::start(&dir, "run-1.log", &run);
    control.until("a session", |state| state["left"]["sessions"] == 1).await;
    let jobs = json!({"scaleSet": "set-1", "count": JOBS, "durationSeconds": 3});
    control.ask("POST", "/jobs", &jobs).await;
    control
        .until("jobs at work", |state| state["jobs"]["running"].as_u64() >= Some(10))
        .await;
    daemon.kill();
    let mut daemon = Process::start(&dir, "run-2.log", &run);
    let state = control
        .until("the end of every job, and nothing left of any", |state| {
            state["jobs"] == json!({"finished": JOBS}) && nothing_left(state)
        })
        .await;
    assert_eq!(state["limitExceeded"], json!([]), "{state:#}");

    assert_eq!(daemon.terminate(), Some(0));
    let state = control.ask("GET", "/state", &Value::Null).await;
    assert_eq!(state["left"]["sessions"], 0, "SIGTERM closes the session");
    assert_eq!(sim.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn b4_b9_b37_a_killed_daemon_finishes_what_it_began() {
    a_killed_daemon_finishes_what_it_began("killed", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b4_b9_b37_a_killed_daemon_finishes_what_it_began_on_a_real_api_server() {
    match std::env::var("GHARTS_TEST_KUBECONFIG") {
        Ok(kubeconfig) => a_killed_daemon_finishes_what_it_began("killed-real", Some(&kubeconfig)).await,
        Err(_) => println!("SKIPPED: no real API server: b4, b9, b37 on one are not shown"),
    }
}

//! Two replicas as processes on real sockets, against `sim`: the leader is killed with jobs in flight again and again,
//! told to end, and stopped beyond its Lease. With a real Kubernetes API server where there is one.
//!
//! Two kills in the usual run; `GHARTS_TEST_TAKEOVERS=10` wants ten, and stops the leader for 30 s, too.

use std::{net::TcpListener, path::PathBuf, time::Duration};

use bytes::Bytes;
use gharts_listener::http::send;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::killed::{LOOK_EVERY, ONE_AT_A_TIME, PATIENCE, Process, Sim, nothing_left, scratch};

const JOBS: u64 = 50;
const USUAL_KILLS: u32 = 2;
const KILLS: &str = "GHARTS_TEST_TAKEOVERS";

struct Pair {
    dir: PathBuf,
    sim: Sim,
    replicas: [Process; 2],
    ports: [u16; 2],
    lives: u32,
    jobs: u64,
}

impl Pair {
    async fn start(name: &str, kubeconfig: Option<&str>) -> Self {
        let dir = scratch(name);
        let sim = Sim::start(&dir, kubeconfig).await;
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ports = [port(), port()];
        let launch = |n: usize| Self::launch(&dir, &sim, ports[n], &format!("run-{n}-1.log"));
        Self {
            replicas: [launch(0), launch(1)],
            ports,
            sim,
            dir,
            lives: 1,
            jobs: 0,
        }
    }

    fn launch(dir: &std::path::Path, sim: &Sim, port: u16, log: &str) -> Process {
        let listen = format!("127.0.0.1:{port}");
        let run = ["run", "--config", sim.config.to_str().unwrap()];
        Process::start_with(dir, log, &run, &[("GHARTS_LISTENER__SERVER__LISTEN", &listen)])
    }

    fn start_again(&mut self, n: usize) {
        self.lives += 1;
        let log = format!("run-{n}-{}.log", self.lives);
        self.replicas[n] = Self::launch(&self.dir, &self.sim, self.ports[n], &log);
    }

    /// What the queue's task of replica `n` says of itself; empty while the replica does not answer.
    async fn session(&self, n: usize) -> String {
        let request = http::Request::get(format!("http://127.0.0.1:{}/api/v1/status", self.ports[n]));
        let request = request.body(Bytes::new()).unwrap();
        let answer = send(self.sim.control.transport.as_ref(), request, Duration::from_secs(2)).await;
        let Ok(answer) = answer else { return String::new() };
        let status: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        status["scaleSets"][0]["session"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// How long it took until replica `n` says so.
    async fn until(&self, n: usize, session: &str) -> Duration {
        let begun = Instant::now();
        while self.session(n).await != session {
            assert!(
                begun.elapsed() < PATIENCE,
                "replica {n} never said {session}: see {:?}",
                self.dir
            );
            tokio::time::sleep(LOOK_EVERY / 4).await;
        }
        begun.elapsed()
    }

    async fn leader(&self) -> usize {
        let begun = Instant::now();
        loop {
            for n in 0..2 {
                if self.session(n).await == "polling" {
                    return n;
                }
            }
            assert!(begun.elapsed() < PATIENCE, "nobody polls: see {:?}", self.dir);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Fifty jobs, and some of them at work.
    async fn jobs_in_flight(&mut self) {
        self.jobs += JOBS;
        let jobs = json!({"scaleSet": "set-1", "count": JOBS, "durationSeconds": 3});
        self.sim.control.ask("POST", "/jobs", &jobs).await;
        let working = |state: &Value| state["jobs"]["running"].as_u64() >= Some(10);
        self.sim.control.until("jobs at work", working).await;
    }

    async fn all_done(&self) {
        let done = json!({"finished": self.jobs});
        let over = |state: &Value| state["jobs"] == done && nothing_left(state);
        let state = self
            .sim
            .control
            .until("the end of every job, and nothing left of any", over)
            .await;
        assert_eq!(state["limitExceeded"], json!([]), "{state:#}");
    }
}

async fn two_replicas(name: &str, kubeconfig: Option<&str>) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let wanted = std::env::var(KILLS).ok().and_then(|text| text.parse().ok());
    let mut pair = Pair::start(name, kubeconfig).await;
    pair.leader().await;

    for kill in 1..=wanted.unwrap_or(USUAL_KILLS) {
        let leader = pair.leader().await;
        pair.until(1 - leader, "standby").await;
        pair.jobs_in_flight().await;
        pair.replicas[leader].kill();
        let took = pair.until(1 - leader, "polling").await;
        println!("{name}: kill {kill}: took over after {took:?}");
        assert!(took <= Duration::from_secs(20), "{took:?}");
        pair.start_again(leader);
        pair.until(leader, "standby").await;
    }
    pair.all_done().await;

    // SIGTERM.
    let leader = pair.leader().await;
    pair.jobs_in_flight().await;
    assert_eq!(pair.replicas[leader].terminate(), Some(0));
    let took = pair.until(1 - leader, "polling").await;
    println!("{name}: handed over {took:?} after the leader's end");
    assert!(took <= Duration::from_secs(3), "{took:?}");

    // One replica, killed and started again.
    let alone = 1 - leader;
    pair.jobs_in_flight().await;
    pair.replicas[alone].kill();
    pair.start_again(alone);
    let took = pair.until(alone, "polling").await;
    println!("{name}: one replica: polling {took:?} after its start");
    assert!(took <= Duration::from_secs(5), "{took:?}");
    pair.start_again(leader);
    pair.until(leader, "standby").await;

    if wanted.is_some() {
        // SIGSTOP beyond the Lease, and SIGCONT.
        pair.jobs_in_flight().await;
        let begun = Instant::now();
        pair.replicas[alone].signal("-STOP");
        let took = pair.until(leader, "polling").await;
        println!("{name}: a leader that was stopped: taken over after {took:?}");
        assert!(took <= Duration::from_secs(20), "{took:?}");
        tokio::time::sleep(Duration::from_secs(30).saturating_sub(begun.elapsed())).await;
        pair.replicas[alone].signal("-CONT");
        pair.until(alone, "standby").await;
        assert_eq!(pair.session(leader).await, "polling");
    }
    pair.all_done().await;

    for replica in &mut pair.replicas {
        assert_eq!(replica.terminate(), Some(0));
    }
    let state = pair.sim.control.ask("GET", "/state", &Value::Null).await;
    assert_eq!(state["left"]["sessions"], 0, "SIGTERM closes the session");
    assert_eq!(pair.sim.process.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn b1_b37_b42_one_of_two_processes_leads_whatever_happens_to_the_other() {
    two_replicas("two", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b1_b37_b42_one_of_two_processes_leads_on_a_real_api_server() {
    match std::env::var("GHARTS_TEST_KUBECONFIG") {
        Ok(kubeconfig) => two_replicas("two-real", Some(&kubeconfig)).await,
        Err(_) => println!("SKIPPED: no real API server: b1, b37, b42 on one are not shown"),
    }
}

//! What the daemon says of itself, what it may do, and what it must never tell.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gharts_listener::{
    clock::Clock,
    config::{LogFormat, Logging},
    sim::{
        github::{JobHandle, NewJobs},
        world::{ORGANIZATION, Options, Provisioner, SetOptions, account_name},
    },
    telemetry::logs,
};

use super::harness::{Running, with_provisioner};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// All that is written to it, in memory.
#[derive(Clone, Default)]
pub(super) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Takes what this thread logs, for as long as the guards live.
    pub(super) fn logs(&self, format: LogFormat, level: &str) -> impl Sized {
        let writer = self.clone();
        let logging = Logging {
            format,
            level: level.to_owned(),
        };
        let clock = Clock::simulated("2026-11-23T00:00:00Z".parse().unwrap());
        let subscriber = logs::subscriber(&logging, clock, move || writer.clone()).unwrap();
        // With one subscriber alone, an event that another test's thread meets first is off for every thread.
        let second = tracing::Dispatch::new(tracing_subscriber::registry());
        (tracing::subscriber::set_default(subscriber), second)
    }
}

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn served(running: &Running, set: &str, count: usize) -> Vec<JobHandle> {
    let jobs = running.queue(&NewJobs::for_set(ORGANIZATION, set, count)).await;
    running.until_finished(&jobs, 15 * MINUTE).await;
    jobs
}

/// Everything secret that went over the daemon's wires in this run: what the peers handed out or were shown.
fn secrets(running: &Running) -> BTreeSet<String> {
    let mut all = running.daemon.cable.secrets();
    all.insert(running.world.token.clone());
    all
}

/// A full run of both provisioners with every word logged: none of its secrets stands anywhere.
async fn nothing_secret_is_told(format: LogFormat) {
    let captured = Captured::default();
    let _logs = captured.logs(format, "trace");
    let options = Options {
        sets: vec![
            SetOptions::new("linux", Provisioner::Gharts, 5),
            SetOptions::new("plain", Provisioner::ScaleSet, 5),
        ],
        ..Options::default()
    };
    let running = Running::start(options).await;
    let mut shown = String::new();
    for set in ["linux", "plain"] {
        let jobs = running.queue(&NewJobs::for_set(ORGANIZATION, set, 3)).await;
        tokio::time::sleep(10 * SECOND).await;
        for pod in running.pods() {
            shown.push_str(&pod.to_string());
        }
        running.until_finished(&jobs, 10 * MINUTE).await;
    }
    shown.push_str(&serde_json::to_string(&*running.status()).unwrap());
    shown.push_str(&running.daemon.sources.metrics.render());
    let secrets = secrets(&running);
    assert!(
        secrets.len() >= 10,
        "six configurations and more tokens: {}",
        secrets.len()
    );
    running.end().await;
    let logged = captured.text();
    assert!(logged.contains("job completed"), "the logs are captured");
    for secret in &secrets {
        // As it is, and as Kubernetes would carry it.
        for form in [secret.clone(), STANDARD.encode(secret)] {
            let place = logged
                .find(&form)
                .map(|at| logged[..at].rfind('\n').map_or(0, |n| n + 1));
            if let Some(line) = place {
                panic!(
                    "a secret is logged: {}",
                    logged[line..].chars().take(300).collect::<String>()
                );
            }
            assert!(!shown.contains(&form), "a secret is shown");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b29_b39_no_secret_is_told_in_json_logs_status_metrics_or_pods() {
    nothing_secret_is_told(LogFormat::Json).await;
}

#[tokio::test(start_paused = true)]
async fn b29_b39_no_secret_is_told_in_logs_for_people() {
    nothing_secret_is_told(LogFormat::Human).await;
}

#[tokio::test(start_paused = true)]
async fn b35_what_a_full_run_asks_of_the_api_is_within_the_role() {
    let running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    served(&running, "linux", 20).await;
    let world = running.end().await;
    let granted = [
        "get pods",
        "list pods",
        "watch pods",
        "create pods",
        "patch pods",
        "delete pods",
        "create secrets",
        "create events",
        "get namespaces",
        "create serviceaccounts/token",
        "get leases.coordination.k8s.io",
        "create leases.coordination.k8s.io",
        "update leases.coordination.k8s.io",
    ];
    for (kind, _) in world.kubernetes.requests() {
        let asked = format!("{} {}", kind.verb, kind.resource);
        assert!(
            kind.user != account_name() || granted.contains(&asked.as_str()),
            "{asked}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn b40_metrics_tell_the_run() {
    let running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    served(&running, "linux", 12).await;
    running
        .until("the news of every end", |_| {
            running.metric("gha_completed_jobs_total", &[]) == 12.0
        })
        .await;
    assert_eq!(running.metric("gha_started_jobs_total", &[]), 12.0);
    assert_eq!(running.metric("gha_job_execution_duration_seconds_count", &[]), 12.0);
    assert_eq!(running.metric("gha_max_runners", &["name=\"linux\""]), 10.0);
    assert_eq!(
        running.metric("arc_gharts_provision_attempts_total", &["status=\"success\""]),
        12.0
    );
    for stage in ["jit", "pod", "started"] {
        let label = format!("stage=\"{stage}\"");
        let count = running.metric("gharts_listener_stage_seconds_count", &[&label]);
        assert_eq!(count, 12.0, "{stage}");
    }
    tokio::time::sleep(2 * MINUTE).await;
    assert_eq!(running.metric("gha_assigned_jobs", &["name=\"linux\""]), 0.0);
    assert!(running.metric("gharts_listener_poll_age_seconds", &[]) < 60.0);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b39_readiness_comes_with_the_first_list_of_pods() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    running.until("readiness", |_| running.status().ready).await;
    running.world.kubernetes.set_outage(true);
    tokio::time::sleep(5 * MINUTE).await;
    running.daemon.assert_alive();
    running.world.kubernetes.set_outage(false);
    served(&running, "linux", 2).await;
    running.end().await;
}

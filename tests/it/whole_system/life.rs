//! One daemon's life in a world that outlives it, and what it says of itself meanwhile.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use gharts_listener::{
    app::{self, ConfigFile, Externals},
    clock::Clock,
    config::{Config, Environment},
    http::{IDLE_BRIEF, reqwest_transport},
    server::{HEARTBEAT_LIMIT, Sources},
    shutdown::{Freeze, Tasks},
    sim::{
        cable::{Cable, Kill},
        github::{JobHandle, JobState},
        kubernetes::Object,
        world::{RUNNER_NAMESPACE, World, account_name},
    },
    status::{SetStatus, Status},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::DeleteParams};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::harness::{REPLICA, Running};

/// A daemon at work, or killed.
#[derive(Debug)]
pub struct Daemon {
    pub stop: CancellationToken,
    pub task: JoinHandle<Result<(), app::Error>>,
    pub cable: Cable,
    pub sources: Sources,
    freeze: Freeze,
    /// SIGHUP.
    pub hangup: mpsc::Sender<oneshot::Sender<()>>,
    /// How often new transports were made.
    pub dialled: Arc<AtomicU32>,
}

impl Daemon {
    /// `seed` must be another one for each life: names are drawn from it. `identity`: the same for each life of one
    /// replica, another for each replica. With `file`, it follows the changes of that.
    pub fn launch(
        world: &World,
        config: &Config,
        file: Option<&Path>,
        tasks: &Tasks,
        identity: &str,
        seed: u64,
    ) -> Self {
        Self::launch_by(&world.clock, world, config, file, tasks, identity, seed)
    }

    /// The same on a machine with a clock of its own.
    pub fn launch_by(
        clock: &Clock,
        world: &World,
        config: &Config,
        file: Option<&Path>,
        tasks: &Tasks,
        identity: &str,
        seed: u64,
    ) -> Self {
        let freeze = Freeze::default();
        let (cable, stop) = (Cable::default(), CancellationToken::new());
        let dialled = Arc::new(AtomicU32::new(0));
        let wire = {
            let (cable, services) = (cable.clone(), world.services.clone());
            move || cable.transport(services.transport())
        };
        let externals = Externals {
            github: wire(),
            gharts: wire(),
            dial: Arc::new({
                let dialled = dialled.clone();
                move |config| {
                    // As the real one does.
                    reqwest_transport(&config.github.tls, &config.github.proxy, IDLE_BRIEF)
                        .map_err(|error| error.to_string())?;
                    dialled.fetch_add(1, Ordering::Relaxed);
                    Ok((wire(), wire()))
                }
            }),
            kubernetes: cable.client(&world.daemon_client(), &config.kubernetes.namespace),
            kubernetes_for_lease: cable.client(&world.daemon_client(), &config.kubernetes.namespace),
            clock: clock.clone(),
            seed,
            identity: identity.to_owned(),
        };
        let tasks_of_it = Tasks::that_freeze(freeze.clone());
        let mut daemon = app::Daemon::new(config.clone(), externals).within(tasks_of_it);
        let (hangup, asked) = mpsc::channel(1);
        if let Some(path) = file {
            daemon = daemon.following(ConfigFile {
                path: path.to_owned(),
                environment: Environment::new(),
                asked,
            });
        }
        let sources = daemon.sources();
        let task = tasks.spawn("daemon", cable.counted(daemon.serve(None, stop.clone())));
        Self {
            stop,
            task,
            cable,
            sources,
            freeze,
            hangup,
            dialled,
        }
    }

    /// SIGKILL: no call of this daemon's is answered any more, nor any other made.
    pub fn kill(&self) {
        self.cable.cut();
        // What is left of it in this process has nobody to talk to, and ends.
        self.stop.cancel();
    }

    /// SIGSTOP: nothing of it moves until [`Self::thaw`], while the world goes on.
    pub fn freeze(&self) {
        self.freeze.set(true);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.freeze.set(false);
    }

    /// While it is not killed, its loop must beat.
    pub fn assert_alive(&self) {
        assert!(!self.task.is_finished(), "the daemon ended");
        if !self.cable.is_cut() {
            let age = self.sources.heartbeat.age();
            assert!(age < HEARTBEAT_LIMIT, "the control loop has not moved for {age:?}");
        }
    }
}

impl Running {
    /// SIGKILL: no call of this daemon's is answered any more, nor any other made.
    pub fn kill(&self) {
        self.daemon.kill();
    }

    /// Waits until a kill that was ordered by its place has happened. False: the daemon made fewer calls.
    pub async fn killed(&self, kill: Kill, patience: Duration) -> bool {
        self.daemon.cable.cut_at(kill);
        let begun = self.world.clock.instant();
        while !self.daemon.cable.is_cut() && self.world.clock.instant() - begun < patience {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let happened = self.daemon.cable.is_cut();
        self.kill();
        happened
    }

    /// Another process with the same file.
    pub fn start_again(&mut self) {
        self.lives += 1;
        self.daemon = Daemon::launch(
            &self.world,
            &self.config,
            Some(&self.file),
            &self.tasks,
            REPLICA,
            self.seed.wrapping_add(7919 * self.lives),
        );
    }

    /// SIGTERM; how long the daemon took to end.
    pub async fn stop(&mut self) -> Duration {
        let begun = self.world.clock.instant();
        self.daemon.stop.cancel();
        (&mut self.daemon.task).await.unwrap().unwrap();
        // The process is gone, and with it whatever it had not finished.
        self.daemon.cable.cut();
        self.world.clock.instant() - begun
    }

    pub fn status(&self) -> Arc<Status> {
        self.daemon.sources.status.borrow().clone()
    }

    pub fn set_status(&self, set: &str) -> SetStatus {
        let status = self.status();
        let found = status.scale_sets.iter().find(|s| s.name == set);
        found.cloned().unwrap_or_default()
    }

    /// Whether `code` is among the reasons of the set now.
    pub fn has_reason(&self, set: &str, code: &str) -> bool {
        self.set_status(set).reasons.iter().any(|r| r.code == code)
    }

    /// The sum of the series of `metric` that carry all of `labels` (`set="linux"`).
    pub fn metric(&self, metric: &str, labels: &[&str]) -> f64 {
        let text = self.daemon.sources.metrics.render();
        text.lines()
            .filter(|line| {
                let name = line.split(['{', ' ']).next();
                name == Some(metric) && labels.iter().all(|label| line.contains(label))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Failed runners counted under `reason`.
    pub fn failures(&self, reason: &str) -> f64 {
        self.metric("gharts_listener_failures_total", &[&format!("reason=\"{reason}\"")])
    }

    pub fn pods(&self) -> Vec<Object> {
        self.world.kubernetes.list("pods", RUNNER_NAMESPACE)
    }

    /// What the daemon asked of the API server so far: answered or refused.
    pub fn requests(&self, verb: &str, resource: &str) -> u64 {
        let daemon = account_name();
        let all = self.world.kubernetes.requests();
        let asked = all
            .iter()
            .filter(|(kind, _)| kind.user == daemon && kind.verb == verb && kind.resource == resource);
        asked.map(|(_, count)| count).sum()
    }
}

impl Running {
    /// Waits for the end of every job, whatever its result.
    pub async fn until_ended(&self, jobs: &[JobHandle], within: Duration) {
        let ended = |world: &World| {
            let finished = |job: &JobHandle| world.github.job(&job.id).is_some_and(|j| j.state == JobState::Finished);
            jobs.iter().all(finished)
        };
        self.until_within("the end of every job", within, ended).await;
    }

    /// Waits until nothing is left of any runner but `idle` ones that are ready, each with all its parts.
    pub async fn settle(&self, idle: usize, within: Duration) {
        let begun = self.world.clock.instant();
        loop {
            let leaks = self.world.leaks().await.unwrap();
            let all = [leaks.pods, leaks.runners, leaks.secrets, leaks.agents];
            let records = leaks.gharts_records == idle || leaks.gharts_records == 0;
            if all == [idle; 4] && records {
                return;
            }
            self.collect_lost_pods().await;
            self.daemon.assert_alive();
            assert!(
                self.world.clock.instant() - begun < within,
                "left over beside {idle} idle runners: {leaks:?}\n{:#?}",
                self.status()
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// What Kubernetes' garbage collector does where a node is gone: pods that nobody lets go of are forced.
    pub async fn collect_lost_pods(&self) {
        let api: Api<Pod> = Api::namespaced(self.world.admin_client(), RUNNER_NAMESPACE);
        for pod in self.pods() {
            let Some(since) = pod["metadata"]["deletionTimestamp"].as_str() else {
                continue;
            };
            let overdue = self.world.clock.since(since.parse().unwrap()) > Duration::from_secs(60);
            if let (true, Some(name)) = (overdue, pod["metadata"]["name"].as_str()) {
                let _ = api.delete(name, &DeleteParams::default().grace_period(0)).await;
            }
        }
    }

    /// As [`Self::until`], within a deadline of its own.
    pub async fn until_within(&self, what: &str, within: Duration, condition: impl Fn(&World) -> bool) {
        let begun = self.world.clock.instant();
        while !condition(&self.world) {
            self.daemon.assert_alive();
            assert!(
                self.world.clock.instant() - begun <= within + Duration::from_millis(250),
                "never came: {what}\n{:#?}\n{:#?}",
                self.status(),
                self.world.github.sets()
            );
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}

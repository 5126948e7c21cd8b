//! One world and one daemon in it, watched by a deadline in virtual time.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use gharts_listener::{
    clock::Clock,
    config::{self, Config},
    gharts::Client,
    identity::{Cached, github_token_source, kubernetes::ServiceAccountTokens},
    ids::{Namer, RunnerName, SetName},
    provision::{
        JitRequest, Provisioner as _,
        gharts::{Binding, GhartsProvisioner},
    },
    scaleset::{Authority, Connection, Session, Spec, ensure},
    server::Sources,
    shutdown::Tasks,
    sim::{
        github::{JobHandle, JobState, NewJobs},
        world::{
            ACCOUNT, DAEMON_NAMESPACE, Leaks, ORGANIZATION, Options, Provisioner, RUNNER_NAMESPACE, SetOptions, World,
        },
    },
    status::{ReasonStatus, SetStatus},
};

use super::life::Daemon;

/// How often conditions are looked at.
const TICK: Duration = Duration::from_millis(250);
/// The one replica, where there is one.
pub const REPLICA: &str = "replica-1";
/// Longest wait for any condition.
const PATIENCE: Duration = Duration::from_secs(3600);

pub fn with_provisioner(provisioner: Provisioner) -> Options {
    Options {
        sets: vec![SetOptions::new("linux", provisioner, 10)],
        ..Options::default()
    }
}

/// `count` jobs of one minute for the set `set`.
pub fn jobs(set: &str, count: usize) -> NewJobs {
    NewJobs::for_set(ORGANIZATION, set, count)
}

/// One of several runs in a test: says which one it was that failed.
pub struct Run(String);

impl Run {
    pub fn called(what: String) -> Self {
        Self(what)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this run failed: {}", self.0);
        }
    }
}

/// A world whose daemon has not been started yet.
pub struct Stage {
    pub world: World,
    config: Config,
    file: PathBuf,
    tasks: Tasks,
    seed: u64,
}

impl Stage {
    pub async fn set(options: Options) -> Self {
        Self::set_with(options, |text| text).await
    }

    /// With the daemon's file as `edit` leaves it.
    pub async fn set_with(options: Options, edit: impl FnOnce(String) -> String) -> Self {
        if let Ok(filter) = std::env::var("TEST_LOG") {
            // The second world of a process finds the first one's.
            let _ = tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_test_writer()
                .without_time()
                .try_init();
        }
        let tasks = Tasks::new();
        let clock = Clock::simulated("2026-11-23T00:00:00Z".parse().unwrap());
        let seed = options.seed;
        let world = World::start(options, clock, &tasks).await.unwrap();
        let (file, config) = read_file(&world, edit);
        Self {
            world,
            config,
            file,
            tasks,
            seed,
        }
    }

    /// Another program with the daemon's GitHub credential.
    pub fn rival(&self) -> Rival {
        Rival::new(&self.config, &self.config.github, &self.world)
    }

    /// The same with the credential that the daemon has for one set.
    pub fn rival_of(&self, set: &str) -> Rival {
        let sets = &self.config.scale_sets;
        let set = sets.iter().find(|s| s.name.as_str() == set).unwrap();
        Rival::new(&self.config, &set.github, &self.world)
    }

    /// A name that the daemon could give to a runner of the set.
    pub fn lost_runner(&self, set: &str) -> RunnerName {
        lost_runner(&self.world, set)
    }

    pub fn start(self) -> Running {
        let daemon = Daemon::launch(
            &self.world,
            &self.config,
            Some(&self.file),
            &self.tasks,
            REPLICA,
            self.seed,
        );
        Running {
            sources: daemon.sources.clone(),
            daemon,
            world: self.world,
            config: self.config,
            file: self.file,
            tasks: self.tasks,
            seed: self.seed,
            lives: 0,
        }
    }
}

fn lost_runner(world: &World, set: &str) -> RunnerName {
    let namespace = world.kubernetes.get("namespaces", "", RUNNER_NAMESPACE).unwrap();
    let uid = namespace["metadata"]["uid"].as_str().unwrap();
    Namer::new(uid, &SetName::new(set)).next(&mut fastrand::Rng::with_seed(7))
}

/// Another program with the same GitHub credential: an older daemon, a colleague's, an administrator's script.
pub struct Rival {
    pub connection: Connection,
    /// With the daemon's identity, where its file names a GHARTS.
    gharts: Option<GhartsProvisioner>,
    runner_group: String,
}

impl Rival {
    fn new(config: &Config, github: &config::GitHub, world: &World) -> Self {
        let (transport, clock) = (world.services.transport(), world.clock.clone());
        let source = github_token_source(github, transport.clone(), clock.clone()).unwrap();
        let token = Arc::new(Cached::new(source, clock.clone()));
        let url = github.config_url.clone();
        Self {
            connection: Connection::new(transport, clock, url, Authority::Rest(token), 99),
            gharts: config.gharts.as_ref().map(|gharts| gharts_as_daemon(gharts, world)),
            runner_group: github.runner_group.clone(),
        }
    }

    /// Registers a runner of that name through GHARTS.
    pub async fn grant(&self, name: &str, scale_set_id: i64) {
        let request = JitRequest {
            set: SetName::new("linux"),
            scale_set_id,
            name: RunnerName::new(name),
            labels: vec!["linux".to_owned()],
            work_folder: "_work".to_owned(),
        };
        self.gharts.as_ref().unwrap().provision(&request).await.unwrap();
    }

    /// Finds or makes the set; its id.
    pub async fn register(&self, set: &str) -> i64 {
        let spec = Spec {
            group: self.runner_group.clone(),
            name: set.to_owned(),
            labels: vec![set.to_owned()],
            disable_update: true,
            known_id: None,
            inherited_id: None,
        };
        ensure(&self.connection, &spec).await.unwrap().scale_set.id
    }

    /// Takes the set's one session.
    pub async fn hold(&self, set: &str) -> Session {
        let id = self.register(set).await;
        self.connection.open_session(id, "rival").await.unwrap()
    }
}

fn gharts_as_daemon(gharts: &config::Gharts, world: &World) -> GhartsProvisioner {
    let (transport, clock) = (world.services.transport(), world.clock.clone());
    let audience = world.services.addresses.gharts.clone();
    let hour = Duration::from_secs(3600);
    let tokens = ServiceAccountTokens::new(world.daemon_client(), DAEMON_NAMESPACE, ACCOUNT, &audience, hour);
    let token = Arc::new(Cached::new(Arc::new(tokens), clock.clone()));
    let client = Client::new(transport, clock.clone(), &gharts.base_url, token, gharts.timeout);
    GhartsProvisioner::new(Arc::new(client), clock, gharts.team.clone(), Binding::ScaleSet)
}

pub struct Running {
    pub world: World,
    pub sources: Sources,
    pub(super) config: Config,
    /// The daemon's file, whose changes it follows.
    pub(super) file: PathBuf,
    pub(super) tasks: Tasks,
    pub(super) daemon: Daemon,
    pub(super) seed: u64,
    /// Daemons that there were before this one.
    pub(super) lives: u64,
}

impl Running {
    pub async fn start(options: Options) -> Self {
        Self::start_with(options, |text| text).await
    }

    /// With the daemon's file as `edit` leaves it.
    pub async fn start_with(options: Options, edit: impl FnOnce(String) -> String) -> Self {
        Stage::set_with(options, edit).await.start()
    }

    /// A name that the daemon could have given to a runner of the set.
    pub fn lost_runner(&self, set: &str) -> RunnerName {
        lost_runner(&self.world, set)
    }

    /// The next daemon reads the file as `edit` leaves it.
    pub fn edit_file(&mut self, edit: impl FnOnce(String) -> String) {
        (self.file, self.config) = read_file(&self.world, edit);
    }

    /// What the daemon says of a set; `None` before its first word.
    pub fn said_of(&self, set: &str) -> Option<SetStatus> {
        let status = self.sources.status.borrow().clone();
        status.scale_sets.iter().find(|s| s.name == set).cloned()
    }

    /// The reason with this code, if the daemon gives it for the set now.
    pub fn reason(&self, set: &str, code: &str) -> Option<ReasonStatus> {
        let reasons = self.said_of(set)?.reasons;
        reasons.into_iter().find(|r| r.code == code)
    }

    pub async fn until_reason(&self, set: &str, code: &str) -> ReasonStatus {
        self.until(code, |_| self.reason(set, code).is_some()).await;
        self.reason(set, code).unwrap()
    }

    pub async fn until_no_reason(&self, set: &str, code: &str) {
        self.until(&format!("the end of {code}"), |_| self.reason(set, code).is_none())
            .await;
    }

    /// Lets time pass; the daemon must live.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
        self.daemon.assert_alive();
    }

    /// How many of these jobs are in this state.
    pub fn count(&self, jobs: &[JobHandle], state: JobState) -> usize {
        let of = |job: &&JobHandle| self.world.github.job(&job.id).is_some_and(|j| j.state == state);
        jobs.iter().filter(of).count()
    }

    /// Queues jobs once the set is there to take them.
    pub async fn queue(&self, jobs: &NewJobs) -> Vec<JobHandle> {
        let set = jobs.set.clone().unwrap();
        self.until("a session", |world| world.github.set(&set).is_some_and(|s| s.polling))
            .await;
        self.world.github.queue_jobs(jobs)
    }

    pub async fn until(&self, what: &str, condition: impl Fn(&World) -> bool) {
        let waiting = async {
            while !condition(&self.world) {
                self.daemon.assert_alive();
                tokio::time::sleep(TICK).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!(
                "never came: {what}\nsets {:#?}\nlive {}\nviolations {:?}\nstatus {:#?}",
                self.world.github.sets(),
                self.world.counters.live(),
                self.world.github.violations(),
                self.sources.status.borrow().scale_sets
            );
        }
    }

    pub async fn until_finished(&self, jobs: &[JobHandle], within: Duration) {
        let begun = self.world.clock.instant();
        self.until("the end of every job", |world| {
            jobs.iter()
                .all(|job| world.github.job(&job.id).is_some_and(|j| j.state == JobState::Finished))
        })
        .await;
        let took = self.world.clock.instant() - begun;
        assert!(took <= within, "it took {took:?}");
    }

    /// Waits until nothing is left of any runner, drains the daemon, and judges the world.
    pub async fn end(self) -> World {
        self.end_with_spares(0).await
    }

    /// The same where this many idle runners are kept (`minRunners`).
    pub async fn end_with_spares(self, spares: usize) -> World {
        let clean = |leaks: &Leaks| {
            let all = [leaks.runners, leaks.secrets, leaks.pods, leaks.agents];
            all.iter().all(|left| *left == spares) && leaks.gharts_records <= spares
        };
        let mut leaks = self.world.leaks().await.unwrap();
        for _ in 0..2400 {
            leaks = self.world.leaks().await.unwrap();
            if clean(&leaks) {
                break;
            }
            tokio::time::sleep(TICK).await;
        }
        assert!(clean(&leaks), "left over beside {spares}: {leaks:?}");
        self.daemon.stop.cancel();
        self.daemon.task.await.unwrap().unwrap();
        let leaks = self.world.leaks().await.unwrap();
        assert!(
            clean(&leaks) && leaks.sessions == 0,
            "left over after the end: {leaks:?}"
        );
        assert_eq!(self.world.counters.exceeded(), []);
        assert_eq!(self.world.github.violations(), []);
        self.tasks.stop();
        self.tasks.finished().await;
        self.world
    }
}

/// The daemon's file as `edit` leaves it, read.
fn read_file(world: &World, edit: impl FnOnce(String) -> String) -> (PathBuf, Config) {
    let dir = scratch();
    let text = edit(world.config(&dir).unwrap());
    let file = dir.join("config.yaml");
    std::fs::write(&file, text).unwrap();
    let config = config::load(&file, &config::Environment::new()).unwrap();
    (file, config)
}

fn scratch() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("world-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

//! Two replicas of one deployment in one world: one leads, the other stands by. Whatever happens to the leader, no job
//! is lost, nothing is made beyond demand, and the other one is at work soon.

use std::time::Duration;

use gharts_listener::{
    clock::Clock,
    sim::{
        fleet::FleetSettings,
        gharts::Latency,
        github::{JobHandle, JobState, NewJobs},
        kubernetes::{Fault, Trouble},
        network,
        world::{DAEMON_NAMESPACE, LEASE, Options, Provisioner, SetOptions, World, account_name},
    },
    status::SetStatus,
};
use serde_json::{Value, json};

use super::{
    harness::{REPLICA, Run, Running, jobs, with_provisioner},
    life::Daemon,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(50);
const NAMES: [&str; 2] = [REPLICA, "replica-2"];

/// The first one leads at the beginning.
struct Pair {
    running: Running,
    daemons: [Daemon; 2],
    lives: u64,
    /// What each one's own clock is ahead of the world's, in seconds.
    skew: [i64; 2],
}

fn options(provisioner: Provisioner, seed: u64) -> Options {
    Options {
        seed,
        fleet: Some(FleetSettings {
            seed,
            start_delay: 2 * SECOND,
            exit_delay: SECOND,
            ..FleetSettings::default()
        }),
        ..with_provisioner(provisioner)
    }
}

impl Pair {
    async fn start(options: Options) -> Self {
        Self::start_with_clocks(options, [0, 0]).await
    }

    async fn start_with_clocks(options: Options, skew: [i64; 2]) -> Self {
        let stage = super::harness::Stage::set(options).await;
        let running = stage.start();
        // The harness' own daemon makes room for ours.
        running.kill();
        let daemons = [0, 1].map(|n| Self::launch(&running, skew[n], n, 1));
        let pair = Self {
            running,
            daemons,
            lives: 1,
            skew,
        };
        pair.until("somebody polls", MINUTE, |pair| (0..2).any(|n| pair.polls(n)))
            .await;
        pair
    }

    fn launch(running: &Running, skew: i64, n: usize, life: u64) -> Daemon {
        let world = &running.world;
        let clock = Clock::simulated(world.clock.now() + jiff::SignedDuration::from_secs(skew));
        let seed = life * 100 + u64::try_from(n).unwrap();
        let file = Some(running.file.as_path());
        Daemon::launch_by(&clock, world, &running.config, file, &running.tasks, NAMES[n], seed)
    }

    fn start_again(&mut self, n: usize) {
        self.lives += 1;
        self.daemons[n] = Self::launch(&self.running, self.skew[n], n, self.lives);
    }

    fn world(&self) -> &World {
        &self.running.world
    }

    fn said(&self, n: usize) -> SetStatus {
        let status = self.daemons[n].sources.status.borrow().clone();
        status.scale_sets.first().cloned().unwrap_or_default()
    }

    fn said_of(&self, n: usize, set: &str) -> Option<SetStatus> {
        let status = self.daemons[n].sources.status.borrow().clone();
        status.scale_sets.iter().find(|said| said.name == set).cloned()
    }

    fn is_dead(&self, n: usize) -> bool {
        self.daemons[n].cable.is_cut()
    }

    fn polls(&self, n: usize) -> bool {
        !self.is_dead(n) && self.said(n).session == "polling"
    }

    /// The one that polls; the other one does not.
    fn leader(&self) -> usize {
        let polling: Vec<usize> = (0..2).filter(|n| self.polls(*n)).collect();
        assert_eq!(polling.len(), 1, "{:?}", [self.said(0), self.said(1)]);
        polling[0]
    }

    /// How long it took.
    async fn until(&self, what: &str, within: Duration, condition: impl Fn(&Self) -> bool) -> Duration {
        let begun = self.world().clock.instant();
        while !condition(self) {
            let waited = self.world().clock.instant() - begun;
            assert!(
                waited <= within,
                "never came: {what}\n{:#?}\n{:#?}",
                [self.said(0), self.said(1)],
                self.world().github.sets()
            );
            tokio::time::sleep(TICK).await;
        }
        self.world().clock.instant() - begun
    }

    async fn until_polls(&self, n: usize, within: Duration) -> Duration {
        self.until(&format!("{} polls", NAMES[n]), within, |pair| pair.polls(n))
            .await
    }

    fn queue(&self, jobs: &NewJobs) -> Vec<JobHandle> {
        self.world().github.queue_jobs(jobs)
    }

    async fn until_finished(&self, jobs: &[JobHandle], within: Duration) {
        self.until("the end of every job", within, |pair| {
            pair.running.count(jobs, JobState::Finished) == jobs.len()
        })
        .await;
        for job in jobs {
            let result = self.world().github.job(&job.id).unwrap().result;
            assert_eq!(result.as_deref(), Some("succeeded"));
        }
    }

    fn lease(&self) -> Value {
        Value::clone(&self.world().kubernetes.get("leases", DAEMON_NAMESPACE, LEASE).unwrap())
    }

    /// Sessions that the Lease names.
    /// The sets whose sessions the Lease names.
    fn known_sessions(&self) -> Vec<String> {
        let lease = self.lease();
        let text = lease["metadata"]["annotations"]["gharts-listener/sessions"].as_str();
        let known: Value = text.map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
        known
            .as_object()
            .into_iter()
            .flatten()
            .map(|(set, _)| set.clone())
            .collect()
    }

    /// Waits until nothing is left of any runner, ends the replicas, and judges the world.
    async fn end(mut self) -> World {
        for n in 0..2 {
            if self.is_dead(n) {
                self.start_again(n);
            }
        }
        let [first, second] = self.daemons;
        second.stop.cancel();
        second.task.await.unwrap().unwrap();
        self.running.daemon = first;
        self.running.sources = self.running.daemon.sources.clone();
        self.running.end().await
    }
}

#[tokio::test(start_paused = true)]
async fn b42_who_stands_by_is_ready_says_who_leads_and_calls_nobody() {
    let pair = Pair::start(options(Provisioner::Gharts, 1)).await;
    let (leader, other) = (pair.leader(), 1 - pair.leader());
    let done = pair.queue(&jobs("linux", 3).lasting(20 * SECOND));
    pair.until_finished(&done, 3 * MINUTE).await;

    let status = pair.daemons[other].sources.status.borrow().clone();
    assert!(status.ready && status.not_ready.is_empty(), "{status:?}");
    assert_eq!(
        (status.leader.leads, status.leader.leader.as_deref()),
        (false, Some(NAMES[leader]))
    );
    assert_eq!(status.leader.lease, "gharts-listener/gharts-listener");
    let said = pair.said(other);
    assert_eq!(
        (said.session.as_str(), said.degraded, said.capacity),
        ("standby", false, 0)
    );
    let reason = &said.reasons[0];
    assert_eq!(reason.code, "not_leader");
    let expected = format!(
        "{} leads, by the Lease gharts-listener/gharts-listener; this replica stands by",
        NAMES[leader]
    );
    assert_eq!(reason.message, expected);
    assert!(
        pair.daemons[other]
            .sources
            .metrics
            .render()
            .contains("gharts_listener_leader 0")
    );
    assert!(
        pair.daemons[leader]
            .sources
            .metrics
            .render()
            .contains("gharts_listener_leader 1")
    );
    let called = pair.daemons[other].cable.log();
    assert!(called.is_empty(), "neither GitHub nor GHARTS: {called:?}");
    let world = pair.end().await;
    assert_eq!(world.counters.created(), 3);
}

async fn killed_again_and_again(provisioner: Provisioner, seed: u64) {
    let mut pair = Pair::start(options(provisioner, seed)).await;
    let mut all = Vec::new();
    for round in 0..10_u64 {
        let _run = Run::called(format!("{provisioner:?}: kill {round}"));
        let leader = pair.leader();
        all.extend(pair.queue(&jobs("linux", 8).lasting(15 * SECOND)));
        // At another moment of the jobs' lives each time: with runners asked for, made, at work, and at their end.
        tokio::time::sleep(Duration::from_millis(300 + 2111 * round)).await;
        pair.daemons[leader].kill();
        let took = pair.until_polls(1 - leader, 20 * SECOND).await;
        println!("{provisioner:?}: took over after {took:?}");
        pair.start_again(leader);
        tokio::time::sleep(7 * SECOND).await;
        assert_eq!(pair.leader(), 1 - leader, "who comes back stands by");
    }
    pair.until_finished(&all, 20 * MINUTE).await;
    let world = pair.end().await;
    assert!(world.counters.max_live() <= 10, "maxRunners at one time");
}

#[tokio::test(start_paused = true)]
async fn b1_b42_a_leader_that_is_killed_with_jobs_in_flight_is_succeeded_within_20_s_each_time() {
    killed_again_and_again(Provisioner::ScaleSet, 11).await;
    killed_again_and_again(Provisioner::Gharts, 12).await;
}

/// The watch of the one who stands by is down while the leader makes runners and dies.
#[tokio::test(start_paused = true)]
async fn b1_b15_b42_a_successor_whose_view_of_the_pods_is_old_lists_them_before_it_makes_any() {
    for seed in 0..3 {
        let _run = Run::called(format!("seed {seed}"));
        let pair = Pair::start(options(Provisioner::ScaleSet, seed)).await;
        let leader = pair.leader();
        pair.until("both see the pods", MINUTE, |pair| {
            (0..2).all(|n| pair.daemons[n].sources.status.borrow().ready)
        })
        .await;
        let deaf = Fault::new(Trouble::Throttled { retry_after: 1 }).verb("watch");
        let deaf = pair
            .world()
            .kubernetes
            .add_fault(deaf.resource("pods").user(&account_name()));
        pair.world().kubernetes.cut_watches();
        let all = pair.queue(&jobs("linux", 10).lasting(30 * SECOND));
        pair.until("ten pods", MINUTE, |pair| pair.world().counters.live() == 10)
            .await;
        pair.daemons[leader].kill();
        pair.until_polls(1 - leader, 20 * SECOND).await;
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(pair.world().counters.created(), 10, "every job has its runner");
        pair.world().kubernetes.end_fault(deaf);
        pair.until_finished(&all, 20 * MINUTE).await;
        let world = pair.end().await;
        assert!(world.counters.max_live() <= 10, "maxRunners at one time");
    }
}

#[tokio::test(start_paused = true)]
async fn b37_b42_sigterm_hands_over_within_3_s_of_the_last_call() {
    for seed in 0..5 {
        let _run = Run::called(format!("seed {seed}"));
        let mut pair = Pair::start(options(Provisioner::Gharts, seed)).await;
        pair.world().gharts.set_latency(Latency::RECORDED);
        let leader = pair.leader();
        let done = pair.queue(&jobs("linux", 6).lasting(30 * SECOND));
        tokio::time::sleep(SECOND + Duration::from_millis(431 * seed)).await;
        pair.daemons[leader].stop.cancel();
        // The session is closed when the last call in flight has ended.
        let session = |pair: &Pair| pair.world().github.set("linux").unwrap().session;
        let before = session(&pair);
        let closed = |pair: &Pair| session(pair) != before;
        pair.until("the session's end", MINUTE, closed).await;
        let took = pair.until_polls(1 - leader, 3 * SECOND).await;
        println!("handed over in {took:?}");
        (&mut pair.daemons[leader].task).await.unwrap().unwrap();
        pair.daemons[leader].cable.cut();
        pair.until_finished(&done, 5 * MINUTE).await;
        let world = pair.end().await;
        assert_eq!(world.counters.created(), 6, "one runner per job");
    }
}

/// What only waits for its turn is the next leader's.
#[tokio::test(start_paused = true)]
async fn b37_b42_sigterm_waits_for_no_call_that_has_not_begun() {
    let mut pair = Pair::start(options(Provisioner::Gharts, 1)).await;
    let leader = pair.leader();
    let all = pair.queue(&jobs("linux", 10).lasting(MINUTE));
    let ended = |pair: &Pair| {
        let jobs = pair.world().github.jobs();
        jobs.iter().filter(|job| job.state == JobState::Finished).count()
    };
    pair.until("all at work", MINUTE, |pair| pair.world().counters.created() == 10)
        .await;
    // Four at a time, and ten seconds each: the others wait for their turn.
    let late = network::Trouble::Late(10 * SECOND);
    let late = pair.world().network.disturb("gharts.test", "DELETE /", late);
    pair.until("the ends", 5 * MINUTE, |pair| ended(pair) == 10).await;
    pair.until("removals", 10 * SECOND, |_| late.met() >= 4).await;
    pair.daemons[leader].stop.cancel();
    pair.until_polls(1 - leader, 13 * SECOND).await;
    (&mut pair.daemons[leader].task).await.unwrap().unwrap();
    pair.daemons[leader].cable.cut();
    late.end();
    pair.until_finished(&all, 10 * MINUTE).await;
    pair.end().await;
}

#[tokio::test(start_paused = true)]
async fn b37_the_last_one_leaves_no_session_and_a_lease_that_nobody_holds() {
    let pair = Pair::start(options(Provisioner::ScaleSet, 3)).await;
    pair.until("the session's id", 5 * SECOND, |pair| {
        pair.known_sessions() == ["linux"]
    })
    .await;
    let world = pair.end().await;
    let lease = world.kubernetes.get("leases", DAEMON_NAMESPACE, LEASE).unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], Value::Null, "{lease:#}");
    assert_eq!(
        lease["metadata"]["annotations"]["gharts-listener/sessions"],
        Value::Null
    );
    assert_eq!(world.leaks().await.unwrap().sessions, 0);
}

#[tokio::test(start_paused = true)]
async fn b1_b42_a_replica_that_is_started_again_takes_its_own_lease_back_and_polls_within_5_s() {
    for alone in [true, false] {
        let mut pair = Pair::start(options(Provisioner::ScaleSet, 4)).await;
        let leader = pair.leader();
        if alone {
            pair.daemons[1 - leader].kill();
        }
        pair.until("the session's id", 5 * SECOND, |pair| {
            pair.known_sessions() == ["linux"]
        })
        .await;
        let done = pair.queue(&jobs("linux", 5).lasting(30 * SECOND));
        tokio::time::sleep(3 * SECOND).await;
        pair.daemons[leader].kill();
        pair.start_again(leader);
        let took = pair.until_polls(leader, 5 * SECOND).await;
        println!("polling again after {took:?}, alone: {alone}");
        pair.until_finished(&done, 5 * MINUTE).await;
        pair.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn b1_b42_where_no_id_was_written_github_frees_the_session_and_the_status_says_who_holds_it() {
    let mut pair = Pair::start(options(Provisioner::ScaleSet, 5)).await;
    let leader = pair.leader();
    let other = 1 - leader;
    // A new session, whose id is never written: the leader dies before.
    pair.until("the session's id", 5 * SECOND, |pair| {
        pair.known_sessions() == ["linux"]
    })
    .await;
    let kubernetes = &pair.world().kubernetes;
    kubernetes.add_fault(
        Fault::new(Trouble::Unavailable)
            .verb("update")
            .resource("leases.coordination.k8s.io"),
    );
    assert!(pair.world().github.lose_session("linux"));
    tokio::time::sleep(3 * SECOND).await;
    assert!(pair.polls(leader));
    pair.daemons[leader].kill();
    let killed = pair.world().clock.instant();
    pair.world().kubernetes.clear_faults();
    let done = pair.queue(&jobs("linux", 2).lasting(10 * SECOND));
    let conflict = |pair: &Pair| pair.said(other).reasons.iter().any(|r| r.code == "session_conflict");
    pair.until("the conflict", 20 * SECOND, conflict).await;
    let said = pair.said(other);
    let reason = said.reasons.iter().find(|r| r.code == "session_conflict").unwrap();
    assert!(reason.message.starts_with(NAMES[leader]), "{reason:?}");
    let took = pair.until_polls(other, 130 * SECOND).await;
    println!("the session was free after {took:?} more");
    let took = pair.world().clock.instant() - killed;
    assert!(
        took <= 98 * SECOND,
        "{took:?}: GitHub ends it within 92 s, and then it is asked for within 5 s"
    );
    pair.start_again(leader);
    pair.until_finished(&done, 5 * MINUTE).await;
    pair.end().await;
}

#[tokio::test(start_paused = true)]
async fn b38_b42_who_stands_by_takes_over_a_changed_file_and_leads_by_it() {
    let mut options = options(Provisioner::Gharts, 6);
    options.sets.push(SetOptions::new("gone", Provisioner::ScaleSet, 5));
    let mut pair = Pair::start(options).await;
    let leader = pair.leader();
    let other = 1 - leader;
    let long = pair.queue(&jobs("gone", 2).lasting(5 * MINUTE));
    pair.until("at work", MINUTE, |pair| {
        pair.running.count(&long, JobState::Running) == 2
    })
    .await;

    // One set goes with two busy runners, one comes, one changes.
    let (text, gone, linux) = (
        pair.running.text(),
        pair.running.section("gone"),
        pair.running.section("linux"),
    );
    let changed = linux.replacen("maxRunners: 10", "maxRunners: 3", 1);
    assert_ne!(changed, linux);
    let added = linux.replacen("name: linux\n", "name: added\n", 1);
    pair.world().counters.told("added", 0, 10);
    pair.running
        .write(&(text.replace(&gone, "").replace(&linux, &changed) + &added));
    pair.until("both have taken it over", MINUTE, |pair| {
        let generation = |daemon: &Daemon| daemon.sources.status.borrow().configuration.generation;
        pair.daemons.iter().all(|daemon| generation(daemon) == 2)
    })
    .await;
    pair.until("the sessions of both sets in the Lease", MINUTE, |pair| {
        pair.known_sessions() == ["added", "linux"] && pair.world().github.set("gone").unwrap().session.is_none()
    })
    .await;
    pair.world().counters.told("linux", 0, 3);
    let session = |set| pair.said_of(other, set).map(|said| said.session);
    for (set, expected) in [("linux", "standby"), ("added", "standby"), ("gone", "closed")] {
        assert_eq!(session(set).as_deref(), Some(expected), "{set}");
    }
    let called = pair.daemons[other].cable.log();
    assert!(called.is_empty(), "neither GitHub nor GHARTS: {called:?}");

    pair.daemons[leader].kill();
    pair.until("both sets polled", 20 * SECOND, |pair| {
        let polls = |set| pair.said_of(other, set).is_some_and(|said| said.session == "polling");
        polls("linux") && polls("added")
    })
    .await;
    assert_eq!(pair.said_of(other, "linux").map(|said| said.max_runners), Some(3));
    let busy = pair
        .said_of(other, "gone")
        .and_then(|said| said.runners.get("busy").copied());
    assert_eq!(busy, Some(2), "what is left of the set that went is known");
    let all: Vec<JobHandle> = [("linux", 6), ("added", 2)]
        .iter()
        .flat_map(|(set, count)| pair.queue(&jobs(set, *count).lasting(10 * SECOND)))
        .collect();
    pair.until_finished(&all, 3 * MINUTE).await;
    pair.until_finished(&long, 6 * MINUTE).await;
    // One that starts again stands by, and has the set in its file no more.
    pair.start_again(leader);
    pair.until("nothing known of it any more", 14 * MINUTE, |pair| {
        [0, 1].iter().all(|n| pair.said_of(*n, "gone").is_none()) && pair.said_of(leader, "added").is_some()
    })
    .await;
    pair.end().await;
}

/// The leader stands still for 30 s, at a moment that `after` jobs were queued decides; then it wakes.
async fn paused(provisioner: Provisioner, after: Duration, seed: u64) {
    let mut options = options(provisioner, seed);
    options.quota = None;
    let pair = Pair::start(options).await;
    if provisioner == Provisioner::Gharts {
        pair.world().gharts.set_latency(Latency::RECORDED);
    }
    let leader = pair.leader();
    let mut done = pair.queue(&jobs("linux", 10).lasting(20 * SECOND));
    tokio::time::sleep(after).await;
    pair.daemons[leader].freeze();
    pair.until_polls(1 - leader, 20 * SECOND).await;
    tokio::time::sleep(10 * SECOND).await;
    done.extend(pair.queue(&jobs("linux", 4).lasting(20 * SECOND)));
    tokio::time::sleep(5 * SECOND).await;
    pair.daemons[leader].thaw();
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(pair.leader(), 1 - leader, "who wakes stands by");
    assert_eq!(pair.said(leader).session, "standby");
    pair.until_finished(&done, 10 * MINUTE).await;
    let world = pair.end().await;
    assert!(world.counters.max_live() <= 10);
}

#[tokio::test(start_paused = true)]
async fn b42_a_leader_that_slept_through_the_end_of_its_lease_does_no_harm() {
    for (provisioner, steps) in [(Provisioner::ScaleSet, 12), (Provisioner::Gharts, 24)] {
        for step in 0..steps {
            let after = Duration::from_millis(step * 397);
            let _run = Run::called(format!("{provisioner:?}: paused after {after:?}"));
            paused(provisioner, after, 100 + step).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b36_b42_an_outage_of_the_api_server_stops_creation_and_the_sessions_close_only_with_the_lease() {
    let pair = Pair::start(options(Provisioner::ScaleSet, 6)).await;
    let leader = pair.leader();
    let mut done = pair.queue(&jobs("linux", 3).lasting(20 * SECOND));
    pair.until("three at work", MINUTE, |pair| {
        pair.running.count(&done, JobState::Running) == 3
    })
    .await;
    pair.world().kubernetes.set_outage(true);
    tokio::time::sleep(8 * SECOND).await;
    assert!(pair.polls(leader), "an outage is no loss of the Lease");
    let asked = pair.world().github.calls().get("generateJitConfig").copied();
    done.extend(pair.queue(&jobs("linux", 3).lasting(20 * SECOND)));
    tokio::time::sleep(SECOND).await;
    let codes: Vec<String> = pair.said(leader).reasons.into_iter().map(|r| r.code).collect();
    assert!(codes.contains(&"cluster_unavailable".to_owned()), "{codes:?}");
    pair.until("the session's end", 10 * SECOND, |pair| !pair.polls(leader))
        .await;
    tokio::time::sleep(40 * SECOND).await;
    assert_eq!(pair.world().github.calls().get("generateJitConfig").copied(), asked);
    pair.world().kubernetes.set_outage(false);
    pair.until("somebody polls", 15 * SECOND, |pair| (0..2).any(|n| pair.polls(n)))
        .await;
    pair.until_finished(&done, 5 * MINUTE).await;
    pair.end().await;
}

#[tokio::test(start_paused = true)]
async fn b36_b42_a_leader_that_alone_has_lost_the_api_server_gives_way() {
    let pair = Pair::start(options(Provisioner::ScaleSet, 7)).await;
    let leader = pair.leader();
    let done = pair.queue(&jobs("linux", 6).lasting(20 * SECOND));
    tokio::time::sleep(3 * SECOND).await;
    pair.daemons[leader].cable.lose_cluster(true);
    let took = pair.until_polls(1 - leader, 20 * SECOND).await;
    println!("took over after {took:?}");
    assert!(!pair.polls(leader));
    pair.daemons[leader].cable.lose_cluster(false);
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!(pair.leader(), 1 - leader);
    pair.until_finished(&done, 5 * MINUTE).await;
    pair.end().await;
}

#[tokio::test(start_paused = true)]
async fn b42_clocks_that_differ_by_minutes_change_nothing() {
    for skew in [[120, -120], [-120, 120]] {
        let _run = Run::called(format!("skew {skew:?}"));
        let mut pair = Pair::start_with_clocks(options(Provisioner::ScaleSet, 8), skew).await;
        let mut done = Vec::new();
        for _ in 0..3 {
            tokio::time::sleep(MINUTE).await;
            let leader = pair.leader();
            done.extend(pair.queue(&jobs("linux", 4).lasting(20 * SECOND)));
            tokio::time::sleep(3 * SECOND).await;
            pair.daemons[leader].kill();
            pair.until_polls(1 - leader, 20 * SECOND).await;
            pair.start_again(leader);
        }
        pair.until_finished(&done, 5 * MINUTE).await;
        pair.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn b42_a_lease_that_is_deleted_by_hand_changes_nothing() {
    let pair = Pair::start(options(Provisioner::ScaleSet, 9)).await;
    let leader = pair.leader();
    let done = pair.queue(&jobs("linux", 4).lasting(20 * SECOND));
    for _ in 0..10 {
        pair.world()
            .kubernetes
            .delete("leases", DAEMON_NAMESPACE, LEASE)
            .unwrap();
        tokio::time::sleep(3 * SECOND + Duration::from_millis(333)).await;
        assert_eq!(pair.leader(), leader);
    }
    assert_eq!(pair.known_sessions(), ["linux"]);
    pair.until_finished(&done, 5 * MINUTE).await;
    pair.end().await;
}

#[tokio::test(start_paused = true)]
async fn b42_a_lease_that_is_taken_by_hand_ends_the_session_and_is_led_again_when_it_ends() {
    let pair = Pair::start(options(Provisioner::ScaleSet, 10)).await;
    let leader = pair.leader();
    let done = pair.queue(&jobs("linux", 4).lasting(20 * SECOND));
    tokio::time::sleep(3 * SECOND).await;
    let api: kube::Api<k8s_openapi::api::coordination::v1::Lease> =
        kube::Api::namespaced(pair.world().admin_client(), DAEMON_NAMESPACE);
    let stolen = json!({"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 86400}});
    let patch = kube::api::Patch::Merge(&stolen);
    api.patch(LEASE, &kube::api::PatchParams::default(), &patch)
        .await
        .unwrap();
    pair.until("the session's end", 4 * SECOND, |pair| !pair.polls(leader))
        .await;
    let said = pair.said(leader).reasons.remove(0);
    assert!(said.message.starts_with("somebody leads"), "{said:?}");
    // Nobody renews it, so it ends: a minute at most, whatever was written into it.
    pair.until("somebody polls", 70 * SECOND, |pair| (0..2).any(|n| pair.polls(n)))
        .await;
    pair.until_finished(&done, 5 * MINUTE).await;
    pair.end().await;
}

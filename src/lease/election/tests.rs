//! Two or three elections around one Lease that is kept as an API server keeps it.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1;

use super::*;

/// The API server's side of one Lease.
#[derive(Debug, Default)]
struct Server {
    lease: Option<v1::Lease>,
    versions: u64,
    /// It does not answer.
    down: bool,
}

impl Server {
    fn look(&self) -> Result<Option<Record>, Failure> {
        self.up()?;
        Ok(self.lease.clone().map(Record::from))
    }

    fn write(&mut self, mut lease: v1::Lease, create: bool) -> Result<Record, Failure> {
        self.up()?;
        let stored = self.lease.as_ref().map(|lease| lease.metadata.resource_version.clone());
        match stored {
            None if create => {}
            None => return Err(Failure::Gone("no such Lease".to_owned())),
            Some(version) if !create && version == lease.metadata.resource_version => {}
            Some(_) => return Err(Failure::Overtaken),
        }
        self.versions += 1;
        lease.metadata.resource_version = Some(self.versions.to_string());
        self.lease = Some(lease.clone());
        Ok(Record::from(lease))
    }

    fn up(&self) -> Result<(), Failure> {
        if self.down {
            return Err(Failure::Trouble("connection refused".to_owned()));
        }
        Ok(())
    }

    fn holder(&self) -> Option<String> {
        Record::from(self.lease.clone()?).holder().map(str::to_owned)
    }
}

/// Replicas, their server, and time in steps of 100 ms.
struct World {
    server: Server,
    replicas: Vec<Replica>,
    start: Instant,
    millis: u64,
}

struct Replica {
    name: &'static str,
    election: Election,
    /// What its own wall clock is ahead of the true one, in seconds.
    skew: i64,
    /// SIGSTOP.
    paused: bool,
    cut_off: bool,
    /// The answers to its writes are lost.
    deaf: bool,
}

impl World {
    fn of(names: &[&'static str]) -> Self {
        let replica = |name: &&'static str| Replica {
            name,
            election: Election::new((*name).to_owned()),
            skew: 0,
            paused: false,
            cut_off: false,
            deaf: false,
        };
        Self {
            server: Server::default(),
            replicas: names.iter().map(replica).collect(),
            start: Instant::now(),
            millis: 0,
        }
    }

    fn replica(&mut self, name: &str) -> &mut Replica {
        self.replicas.iter_mut().find(|r| r.name == name).unwrap()
    }

    fn election(&mut self, name: &str) -> &mut Election {
        &mut self.replica(name).election
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.millis += 100;
            let now = self.start + Duration::from_millis(self.millis);
            let wall = Timestamp::from_second(1_800_000_000).unwrap() + Duration::from_millis(self.millis);
            for replica in self.replicas.iter_mut().filter(|r| !r.paused) {
                replica.step(now, wall, &mut self.server);
            }
            let leaders = self.leaders();
            assert!(leaders.len() <= 1, "after {} ms: {leaders:?}", self.millis);
        }
    }

    /// Who believes to lead; one that is paused believes nothing.
    fn leaders(&self) -> Vec<&'static str> {
        let leads = |r: &&Replica| !r.paused && r.election.term.is_some();
        self.replicas.iter().filter(leads).map(|r| r.name).collect()
    }

    /// Seconds until `name` leads.
    fn until_leads(&mut self, name: &'static str) -> f64 {
        let begun = self.millis;
        while self.leaders() != [name] {
            self.pass_tick();
            assert!(self.millis - begun < 60_000, "{name} never leads");
        }
        Duration::from_millis(self.millis - begun).as_secs_f64()
    }

    fn pass_tick(&mut self) {
        self.millis += 100;
        let now = self.start + Duration::from_millis(self.millis);
        let wall = Timestamp::from_second(1_800_000_000).unwrap() + Duration::from_millis(self.millis);
        for replica in self.replicas.iter_mut().filter(|r| !r.paused) {
            replica.step(now, wall, &mut self.server);
        }
    }
}

impl Replica {
    fn step(&mut self, now: Instant, wall: Timestamp, server: &mut Server) {
        self.election.pass_time(now);
        let Next::Call(call) = self.election.next(now) else {
            return;
        };
        self.election.begin(now);
        let away = || Failure::Trouble("no route".to_owned());
        match call {
            Call::Look => {
                let answer = if self.cut_off { Err(away()) } else { server.look() };
                self.election.looked(now, answer);
            }
            Call::Write { base, create, legacy } => {
                let wall = wall + jiff::SignedDuration::from_secs(self.skew);
                let lease = base.next(Some(self.name), &legacy, wall);
                let answer = if self.cut_off {
                    Err(away())
                } else {
                    server
                        .write(lease, create)
                        .and_then(|record| if self.deaf { Err(away()) } else { Ok(record) })
                };
                self.election.wrote(now, &legacy, answer);
            }
        }
    }
}

fn session(id: &str) -> SessionRef {
    SessionRef(7, id.to_owned())
}

fn linux() -> SetName {
    SetName::new("linux")
}

#[test]
fn b42_the_first_one_leads_at_once_and_renews() {
    let mut world = World::of(&["a"]);
    world.pass(1);
    assert_eq!(world.leaders(), ["a"]);
    let Standing::Leading(term) = world.election("a").standing() else {
        panic!();
    };
    assert_eq!((term.number, term.after_self), (1, true));
    world.pass(60);
    assert_eq!(world.leaders(), ["a"]);
    assert!((29..=32).contains(&world.server.versions), "{}", world.server.versions);
}

#[test]
fn b42_a_leader_that_is_killed_is_succeeded_when_its_lease_ends_and_its_sessions_are_known() {
    let mut world = World::of(&["a", "b"]);
    world.pass(5);
    assert_eq!(world.leaders(), ["a"]);
    world.election("a").opened(linux(), session("s-1"));
    world.pass(1);
    world.replica("a").paused = true;
    let took = world.until_leads("b");
    assert!((8.0..=12.0).contains(&took), "{took}");
    let Standing::Leading(term) = world.election("b").standing() else {
        panic!();
    };
    assert_eq!(
        term.inherited.sessions,
        crate::lease::Sessions::from([(linux(), session("s-1"))])
    );
    assert!(!term.after_self);
    // SIGCONT: it finds out before it does anything else.
    world.replica("a").paused = false;
    world.pass(20);
    assert_eq!(world.leaders(), ["b"]);
}

#[test]
fn b42_one_that_is_started_again_takes_its_own_lease_back_at_once() {
    let mut world = World::of(&["a", "b"]);
    world.pass(5);
    world.election("a").opened(linux(), session("s-1"));
    world.pass(1);
    world.replica("a").election = Election::new("a".to_owned());
    let took = world.until_leads("a");
    assert!(took <= 0.5, "{took}");
    let Standing::Leading(term) = world.election("a").standing() else {
        panic!();
    };
    assert_eq!((term.inherited.sessions.len(), term.after_self), (1, true));
}

#[test]
fn b42_a_lease_that_is_released_is_taken_within_a_second() {
    let mut world = World::of(&["a", "b"]);
    world.pass(5);
    world.election("a").opened(linux(), session("s-1"));
    world.election("a").closed(&linux(), &session("s-1"));
    let (base, legacy) = world.election("a").resign().unwrap();
    assert!(legacy.sessions.is_empty());
    let released = base.next(None, &legacy, Timestamp::from_second(1_800_000_100).unwrap());
    world.server.write(released, false).unwrap();
    world.replicas.remove(0);
    let took = world.until_leads("b");
    assert!(took <= 1.2, "{took}");
}

#[test]
fn b42_skewed_clocks_change_nothing() {
    for skew in [-86_400, -30, 30, 86_400] {
        let mut world = World::of(&["a", "b"]);
        world.replica("a").skew = skew;
        world.pass(30);
        assert_eq!(world.leaders(), ["a"]);
        world.replica("a").paused = true;
        let took = world.until_leads("b");
        assert!((8.0..=12.0).contains(&took), "{took}");
    }
}

#[test]
fn b42_an_api_server_that_does_not_answer_ends_the_lease_by_our_own_clock_and_no_sooner() {
    let mut world = World::of(&["a", "b"]);
    world.pass(5);
    world.server.down = true;
    world.pass(7);
    assert_eq!(world.leaders(), ["a"], "an outage is no loss");
    world.pass(4);
    assert!(world.leaders().is_empty());
    world.server.down = false;
    world.pass(3);
    assert_eq!(world.leaders().len(), 1, "whoever comes first");
}

#[test]
fn b42_who_alone_cannot_reach_the_api_server_gives_way_before_the_other_one_takes_over() {
    let mut world = World::of(&["a", "b"]);
    world.pass(5);
    world.replica("a").cut_off = true;
    let took = world.until_leads("b");
    assert!((8.0..=12.0).contains(&took), "{took}");
    world.replica("a").cut_off = false;
    world.pass(20);
    assert_eq!(world.leaders(), ["b"]);
}

#[test]
fn b42_a_lease_that_is_deleted_by_hand_stays_with_its_leader() {
    let mut world = World::of(&["a", "b"]);
    world.pass(5);
    world.election("a").opened(linux(), session("s-1"));
    for _ in 0..20 {
        world.server.lease = None;
        world.pass(3);
        assert_eq!(world.leaders(), ["a"]);
    }
    let stored = Record::from(world.server.lease.clone().unwrap());
    assert_eq!(stored.sessions().len(), 1, "with all that stood in it");
}

#[test]
fn b42_a_lease_that_somebody_took_by_hand_is_respected_until_it_ends() {
    let mut world = World::of(&["a", "b"]);
    world.pass(5);
    let stored = Record::from(world.server.lease.clone().unwrap());
    let stolen = stored.next(
        Some("nobody"),
        &Legacy::default(),
        Timestamp::from_second(1_900_000_000).unwrap(),
    );
    world.server.write(stolen, false).unwrap();
    world.pass(3);
    assert!(world.leaders().is_empty());
    assert_eq!(world.server.holder().as_deref(), Some("nobody"));
    world.pass(10);
    assert_eq!(world.leaders().len(), 1);
}

#[test]
fn a_lease_that_others_annotate_is_renewed_all_the_same() {
    let mut world = World::of(&["a", "b"]);
    world.pass(5);
    for n in 0..30 {
        let mut lease = world.server.lease.clone().unwrap();
        let annotations = lease.metadata.annotations.get_or_insert_default();
        annotations.insert("somebody/else".to_owned(), n.to_string());
        world.server.write(lease, false).unwrap();
        world.pass(1);
        assert_eq!(world.leaders(), ["a"]);
    }
    let lease = world.server.lease.unwrap();
    assert_eq!(lease.metadata.annotations.unwrap()["somebody/else"], "29");
}

#[test]
fn a_write_whose_answer_was_lost_is_found_to_have_had_its_effect() {
    let mut world = World::of(&["a", "b"]);
    world.pass(5);
    for _ in 0..10 {
        // It is renewed behind its back, as by a write of its own that it heard nothing of.
        let stored = Record::from(world.server.lease.clone().unwrap());
        let wall = Timestamp::from_second(1_800_000_500).unwrap() + Duration::from_millis(world.millis);
        let written = stored.next(Some("a"), &Legacy::default(), wall);
        world.server.write(written, false).unwrap();
        world.pass(3);
        assert_eq!(world.leaders(), ["a"]);
    }
}

#[test]
fn b42_a_write_that_had_its_effect_counts_though_its_answer_was_lost() {
    let mut world = World::of(&["a", "b"]);
    world.pass(5);
    assert_eq!(world.leaders(), ["a"]);
    world.replica("a").deaf = true;
    world.replica("b").deaf = true;
    let set = linux();
    world.election("a").opened(set.clone(), session("s"));
    world.pass(120);
    assert_eq!(
        world.leaders(),
        ["a"],
        "an API server that is slow to answer ends no term"
    );
    let stored = Record::from(world.server.lease.clone().unwrap());
    assert_eq!(stored.legacy().sessions.get(&set), Some(&session("s")));
    world.replica("a").paused = true;
    world.pass(20);
    assert_eq!(world.leaders(), ["b"], "nor does it keep anybody from leading");
    let Standing::Leading(term) = world.election("b").standing() else {
        panic!();
    };
    assert_eq!(term.inherited.sessions.get(&set), Some(&session("s")));
    assert!(!term.after_self);
}

#[test]
fn no_storm_of_calls_whatever_the_server_says() {
    let answers = [
        || Failure::Overtaken,
        || Failure::Gone("no".to_owned()),
        || Failure::Trouble("no".to_owned()),
    ];
    for answer in answers {
        let mut election = Election::new("a".to_owned());
        let start = Instant::now();
        let mut calls = 0;
        for millis in 0..60_000 {
            let now = start + Duration::from_millis(millis);
            election.pass_time(now);
            match election.next(now) {
                Next::Wait(_) => continue,
                Next::Call(Call::Look) => {
                    election.begin(now);
                    election.looked(now, Ok(None));
                }
                Next::Call(Call::Write { legacy, .. }) => {
                    election.begin(now);
                    election.wrote(now, &legacy, Err(answer()));
                }
            }
            calls += 1;
        }
        assert!(calls <= 130, "{calls} calls in a minute");
    }
}

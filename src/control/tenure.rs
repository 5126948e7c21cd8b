//! Leading and standing by: what the loop and the queues' tasks do when this replica gains the Lease or loses it.
//!
//! A replica that stands by watches the pods, so that it knows that it can, and does nothing else. Its view may be old, and
//! the last leader may have made pods until its end: so at the gain, as at a start, the pods are listed anew, and nothing
//! is made before that list is read. At a loss everything is forgotten: the next leader knows better.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kube::Resource as _;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Control, SetParts, SetSetup, rounds::AllRounds, set_world};
use crate::{
    ids::{RunnerName, SetName},
    lease::{Fence, News, ServedSet, ServedSets, SessionRef, Sessions, Standing, Term},
    plan::{
        reason::{Code, Reason},
        runner::PROVISIONING,
        world::{Session, SetWorld, World},
    },
    runner::cluster::Sighting,
    status::LeaderStatus,
};

/// How often a queue's task that may not open a session looks whether it may.
const FENCE_LOOK: Duration = Duration::from_millis(250);

const STAND_BY: &str = "nothing to do: another replica serves this scale set. If no other should run, or if it serves \
                        other scale sets, give this deployment a `lease.name` of its own";
const NO_LEASE: &str = "let the daemon's service account create, get and update Leases in that namespace \
                        (coordination.k8s.io), and see that the API server answers; `check` tries the rights";
const NOT_RENEWED: &str = "look at the API server; creation goes on as soon as the Lease is renewed";

/// One time of leading, as the queues' tasks see it.
#[derive(Debug)]
pub(super) struct Tenure {
    inherited: Sessions,
    served: ServedSets,
    pub(super) over: CancellationToken,
}

impl Tenure {
    /// The session of `set` that the last leader may have left open.
    pub(super) fn inherited(&self, set: &SetName) -> Option<SessionRef> {
        self.inherited.get(set).cloned()
    }

    /// The id that `set` had at `github` under the last leader: by its name alone it is not found in another group.
    pub(super) fn known_id(&self, set: &SetName, github: &str) -> Option<i64> {
        let ServedSet(_, at, id) = self.served.get(set)?;
        id.filter(|_| at == github)
    }
}

/// What everybody needs who does what only a leader may.
#[derive(Clone, Debug)]
pub(super) struct Mandate {
    pub(super) fence: Fence,
    tenure: watch::Receiver<Option<Arc<Tenure>>>,
    /// Wakes who waits for a tenure in the order of their coming, where a watch channel would draw lots: the same seed
    /// must run the same way each time.
    gained: Arc<Notify>,
    news: mpsc::Sender<News>,
}

impl Mandate {
    /// The tenure, as soon as there is one. `None`: the loop is gone.
    pub(super) async fn begun(&mut self) -> Option<Arc<Tenure>> {
        let all = self.gained.clone();
        loop {
            let mut gained = std::pin::pin!(all.notified());
            gained.as_mut().enable();
            let tenure = self.tenure.borrow().clone();
            if tenure.is_some() {
                return tenure;
            }
            tokio::select! {
                biased;
                () = gained => {}
                changed = self.tenure.changed() => changed.ok()?,
            }
        }
    }

    /// Waits until something new may be begun.
    pub(super) async fn opens(&self) {
        while !self.fence.is_open() {
            tokio::time::sleep(FENCE_LOOK).await;
        }
    }

    /// For the Lease: a keeper that is gone is told nothing.
    pub(super) async fn tell(&self, news: News) {
        let _ = self.news.send(news).await;
    }
}

/// The loop's end of it.
#[derive(Debug)]
pub(super) struct Leadership {
    standing: watch::Receiver<Standing>,
    fence: Fence,
    tenure: watch::Sender<Option<Arc<Tenure>>>,
    gained: Arc<Notify>,
    /// The term that the loop works in.
    term: Option<Arc<Term>>,
    pub(super) place: String,
    identity: String,
    news: mpsc::Sender<News>,
    /// The next leader is to be told which sets may have runners.
    pub(super) must_tell_of_sets: bool,
    /// The keeper of the Lease has died.
    pub(super) dead: bool,
    /// What is seen while standing by.
    pods: StandbyPods,
    views: Arc<Views>,
}

/// Views of the pods: a list and what is watched from there on. A newer one begins with a list of its own.
#[derive(Debug, Default)]
pub(super) struct Views {
    newest: AtomicU64,
    wanted: Notify,
}

impl Views {
    /// Nothing that was listed before now counts.
    fn renew(&self) {
        self.newest.fetch_add(1, Ordering::AcqRel);
        self.wanted.notify_one();
    }

    pub(super) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// Resolves when a newer one is wanted. For one waiter.
    pub(super) async fn renewed(&self) {
        self.wanted.notified().await;
    }
}

impl Leadership {
    pub(super) fn new(lease: &crate::lease::Lease, views: Arc<Views>) -> (Self, Mandate) {
        let (tenure, seen) = watch::channel(None);
        let mandate = Mandate {
            fence: lease.fence.clone(),
            tenure: seen,
            gained: Arc::default(),
            news: lease.news.clone(),
        };
        let leadership = Self {
            standing: lease.standing.clone(),
            fence: lease.fence.clone(),
            tenure,
            gained: mandate.gained.clone(),
            term: None,
            place: lease.place.clone(),
            identity: lease.identity.clone(),
            news: lease.news.clone(),
            must_tell_of_sets: false,
            dead: false,
            pods: StandbyPods::default(),
            views,
        };
        (leadership, mandate)
    }

    /// Resolves when the standing has changed.
    pub(super) async fn changed(&mut self) {
        if self.standing.changed().await.is_err() {
            self.dead = true;
        }
    }

    pub(super) fn leads(&self) -> bool {
        self.term.is_some()
    }

    /// Nobody else can lead yet, whatever the keeper of the Lease has noticed so far.
    pub(super) fn holds(&self) -> bool {
        self.leads() && self.fence.holds()
    }

    /// Whether a pod of this set has been seen while standing by.
    pub(super) fn sees_pod_of(&self, set: &SetParts) -> bool {
        let mut pods = self.pods.pods.iter().chain(&self.pods.listing).flatten();
        pods.any(|name| set.namer.is_ours(name.as_str()))
    }

    /// A set has come whose pods may be there already: nobody has looked at them so far.
    pub(super) fn list_pods_anew(&self) {
        self.views.renew();
    }

    /// Whether this view of the pods still counts.
    pub(super) fn is_newest(&self, view: u64) -> bool {
        view == self.views.newest()
    }

    /// How many pods are kept while standing by.
    pub(super) fn pods_kept(&self) -> usize {
        self.pods.pods.iter().chain(&self.pods.listing).map(BTreeSet::len).sum()
    }

    /// Why nothing new may be begun, if so.
    fn held_back(&self) -> Option<Reason> {
        let mut reason = match (&self.term, &*self.standing.borrow()) {
            (Some(_), _) if self.fence.is_open() => return None,
            (Some(_), _) => Reason {
                remedy: Some(NOT_RENEWED),
                ..Reason::new(
                    Code::ClusterUnavailable,
                    format!("the Lease {} could not be renewed in time", self.place),
                )
            },
            (
                None,
                Standing::Following {
                    trouble: Some(trouble),
                    leader,
                },
            ) => Reason {
                remedy: Some(NO_LEASE),
                ..Reason::new(
                    // As far as we know nobody else leads.
                    if self.is_of_another(leader.as_deref()) {
                        Code::NotLeader
                    } else {
                        Code::ClusterUnavailable
                    },
                    format!("the Lease {} cannot be had: {trouble}", self.place),
                )
            },
            (
                None,
                Standing::Following {
                    leader: Some(leader), ..
                },
            ) if self.is_of_another(Some(leader)) => Reason::new(
                Code::NotLeader,
                format!("{leader} leads, by the Lease {}; this replica stands by", self.place),
            ),
            (None, _) => Reason::new(
                Code::NotLeader,
                format!("nobody leads yet, by the Lease {}", self.place),
            ),
        };
        reason.remedy = reason.remedy.or(Some(STAND_BY));
        Some(reason)
    }

    /// Somebody else holds the Lease.
    fn is_of_another(&self, leader: Option<&str>) -> bool {
        leader.is_some_and(|leader| leader != self.identity)
    }

    pub(super) fn status(&self) -> LeaderStatus {
        let leader = match &*self.standing.borrow() {
            Standing::Leading(_) => Some(self.identity.clone()),
            Standing::Following { leader, .. } => leader.clone(),
        };
        LeaderStatus {
            lease: self.place.clone(),
            identity: self.identity.clone(),
            leads: self.leads(),
            leader,
        }
    }

    /// Why this replica can neither lead nor stand by, if so.
    pub(super) fn not_ready(&self) -> Option<String> {
        match &*self.standing.borrow() {
            Standing::Following {
                leader,
                trouble: Some(trouble),
            } if !self.is_of_another(leader.as_deref()) => {
                Some(format!("the Lease {} cannot be had: {trouble}", self.place))
            }
            _ => None,
        }
    }
}

/// Names of the pods in the runner namespace, for one who stands by.
#[derive(Debug, Default)]
struct StandbyPods {
    /// As of the last list that was read to its end, and what was seen since.
    pods: Option<BTreeSet<RunnerName>>,
    /// What the list under way has brought so far.
    listing: Option<BTreeSet<RunnerName>>,
}

impl StandbyPods {
    fn see(&mut self, sighting: &Sighting) {
        match sighting {
            Sighting::ListBegins => self.listing = Some(BTreeSet::new()),
            Sighting::Pod(pod) => {
                let name = pod.meta().name.as_deref().map(RunnerName::new);
                if let (Some(name), Some(pods)) = (name, self.listing.as_mut().or(self.pods.as_mut())) {
                    pods.insert(name);
                }
            }
            Sighting::Gone(name) => {
                for pods in self.listing.iter_mut().chain(&mut self.pods) {
                    pods.remove(name);
                }
            }
            Sighting::ListEnds => self.pods = self.listing.take().or(self.pods.take()),
            Sighting::Interrupted(_) => {}
        }
    }
}

impl Control {
    /// Gains or loses what the Lease says.
    pub(super) fn heed_lease(&mut self) {
        let term = match &*self.leadership.standing.borrow_and_update() {
            Standing::Leading(term) if !self.leadership.dead => Some(term.clone()),
            _ => None,
        };
        if self.leadership.term == term {
            return;
        }
        if self.leadership.leads() {
            self.lose();
        }
        if let Some(term) = term.filter(|_| self.draining_since.is_none()) {
            self.gain(term);
        }
    }

    /// As it begins.
    pub(super) fn stand_by(&mut self) {
        self.world = self.blank_world();
    }

    fn gain(&mut self, term: Arc<Term>) {
        let now = self.timeline.now();
        let tenure = Tenure {
            inherited: term.inherited.sessions.clone(),
            served: term.inherited.sets.clone(),
            over: CancellationToken::new(),
        };
        // What another leader had under way when it died comes to its end within one JIT deadline.
        let sweeps = if term.after_self { now } else { now + PROVISIONING };
        let served_before = term.inherited.sets.clone();
        self.leadership.must_tell_of_sets = true;
        for state in self.sets.values_mut() {
            state.emptied = None;
        }
        self.leadership.term = Some(term);
        self.world = self.blank_world();
        self.world.begin_carefully();
        self.recall(served_before);
        self.rounds = AllRounds::of(&self.sets, sweeps);
        self.leadership.pods = StandbyPods::default();
        self.leadership.views.renew();
        let tenure = Some(Arc::new(tenure));
        self.leadership.tenure.send_if_modified(|now| {
            *now = tenure;
            false
        });
        self.leadership.gained.notify_waiters();
    }

    fn lose(&mut self) {
        self.leadership.term = None;
        if let Some(tenure) = self.leadership.tenure.send_replace(None) {
            tenure.over.cancel();
        }
        // What has no pod yet gets none; its registration is an orphan, which the next leader removes.
        for start in std::mem::take(&mut self.starts).into_values() {
            start.given_up.cancel();
        }
        self.acks.clear();
        self.listing = None;
        self.stand_by();
        self.leadership.views.renew();
    }

    /// Leaves word of the sets that may have runners, where that is another now.
    pub(super) fn tell_of_sets(&mut self) {
        if !self.leadership.leads() || !self.leadership.must_tell_of_sets {
            return;
        }
        let served: ServedSets = self
            .sets
            .iter()
            .map(|(name, state)| (name.clone(), state.served()))
            .collect();
        // Told again with the next act, should the keeper not keep up.
        let told = self.leadership.news.try_send(News::Serves(served));
        self.leadership.must_tell_of_sets = told.is_err();
    }

    fn blank_world(&self) -> World {
        let mut world = World {
            max_runners: self.world.max_runners,
            draining: self.world.draining,
            ..World::default()
        };
        for (name, state) in &self.sets {
            let mut set = self.blank_set(&state.setup);
            if state.recalled {
                set.recall();
            } else if state.removed {
                set.remove();
            }
            world.sets.insert(name.clone(), set);
        }
        world
    }

    /// A set of which nothing is known yet.
    pub(super) fn blank_set(&self, setup: &SetSetup) -> SetWorld {
        let session = if self.leadership.leads() {
            Session::Registering
        } else {
            Session::StandingBy
        };
        set_world(setup, session)
    }

    /// What the watch shows to one who stands by.
    pub(super) fn see_standing_by(&mut self, sighting: &Sighting) {
        self.leadership.pods.see(sighting);
        self.world.synced = self.leadership.pods.pods.is_some();
    }

    /// Before each plan.
    pub(super) fn look_at_fence(&mut self) {
        self.world.held_back = self.leadership.held_back();
    }
}

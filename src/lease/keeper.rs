//! The task that keeps the Lease: makes the calls that [`super::election`] wants, and tells where this replica stands.

use std::time::Duration;

use k8s_openapi::api::coordination::v1;
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinHandle},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    election::{Call, Election, Failure, Next, Standing},
    fence::Fence,
    record::{Legacy, Record, ServedSets, SessionRef},
};
use crate::{clock::Clock, ids::SetName, shutdown::Tasks};

/// Three tries fit between a renewal and the end of the Lease.
const CALL: Duration = Duration::from_secs(3);
/// The last word at the end: whoever waits for it would have to wait for the end of the Lease otherwise.
const RESIGN: Duration = Duration::from_secs(5);
/// News that wait while a call is under way.
const NEWS: usize = 1024;

/// Which Lease, and who we are.
#[derive(Clone)]
pub struct LeaseSetup {
    pub client: Client,
    pub namespace: String,
    pub name: String,
    /// No two living processes share it, and a process that is started again has it again.
    pub identity: String,
    pub clock: Clock,
}

impl LeaseSetup {
    /// `namespace/name`
    pub fn place(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl std::fmt::Debug for LeaseSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaseSetup")
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// What the next leader must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    Opened(SetName, SessionRef),
    Closed(SetName, SessionRef),
    /// These sets, and no others, may have runners.
    Serves(ServedSets),
}

/// The Lease as the rest of the process sees it.
#[derive(Debug)]
pub struct Lease {
    pub standing: watch::Receiver<Standing>,
    pub fence: Fence,
    /// Written into the Lease at once, many together.
    pub news: mpsc::Sender<News>,
    /// `NAMESPACE/NAME`, for people.
    pub place: String,
    /// Who we are in it.
    pub identity: String,
    resign: CancellationToken,
    task: JoinHandle<()>,
}

impl Lease {
    /// Begins to look after it.
    pub fn keep(setup: LeaseSetup, tasks: &Tasks) -> Self {
        let fence = Fence::new(setup.clock.clone());
        let (news, heard) = mpsc::channel(NEWS);
        let election = Election::new(setup.identity.clone());
        let (tell, standing) = watch::channel(election.standing());
        let resign = CancellationToken::new();
        let (place, identity) = (setup.place(), setup.identity.clone());
        let keeper = Keeper {
            api: Api::namespaced(setup.client, &setup.namespace),
            name: setup.name,
            me: setup.identity,
            place: place.clone(),
            clock: setup.clock,
            fence: fence.clone(),
            election,
            tell,
            news: heard,
            resign: resign.clone(),
        };
        let task = tasks.spawn("lease", keeper.run());
        Self {
            standing,
            fence,
            news,
            place,
            identity,
            resign,
            task,
        }
    }

    /// Gives the Lease up, if it is ours, for the next one to take at once. To be called when no session is open and
    /// nothing is under way any more. An error: the task died before.
    pub async fn resign(self) -> Result<(), JoinError> {
        self.resign.cancel();
        self.task.await
    }
}

struct Keeper {
    api: Api<v1::Lease>,
    name: String,
    me: String,
    place: String,
    clock: Clock,
    fence: Fence,
    election: Election,
    tell: watch::Sender<Standing>,
    news: mpsc::Receiver<News>,
    resign: CancellationToken,
}

impl Keeper {
    async fn run(mut self) {
        let mut listening = true;
        while !self.resign.is_cancelled() {
            let now = self.clock.instant();
            self.election.pass_time(now);
            self.publish();
            let at = match self.election.next(now) {
                Next::Call(call) => {
                    self.call(call).await;
                    continue;
                }
                Next::Wait(at) => self.election.expires().map_or(at, |end| at.min(end)),
            };
            tokio::select! {
                biased;
                () = self.resign.cancelled() => {}
                news = self.news.recv(), if listening => match news {
                    Some(news) => self.take_in(news),
                    None => listening = false,
                },
                () = tokio::time::sleep_until(at) => {}
            }
        }
        while let Ok(news) = self.news.try_recv() {
            self.take_in(news);
        }
        if tokio::time::timeout(RESIGN, self.give_up()).await.is_err() {
            tracing::warn!(
                lease = self.place,
                "the Lease cannot be released: the next replica waits until it ends"
            );
        }
        self.publish();
    }

    fn take_in(&mut self, news: News) {
        match news {
            News::Opened(set, session) => self.election.opened(set, session),
            News::Closed(set, session) => self.election.closed(&set, &session),
            News::Serves(sets) => self.election.serves(sets),
        }
    }

    /// Tells where we stand, once.
    fn publish(&mut self) {
        let standing = self.election.standing();
        let leads = matches!(standing, Standing::Leading(_));
        if !leads {
            self.fence.shut();
        }
        self.tell.send_if_modified(|told| {
            if *told == standing {
                return false;
            }
            log(&self.place, told, &standing);
            *told = standing;
            true
        });
    }

    async fn call(&mut self, call: Call) {
        let before = self.election.trouble().is_some();
        self.answer(call).await;
        if let (false, Some(trouble), true) = (before, self.election.trouble(), self.fence.holds()) {
            tracing::warn!(lease = self.place, trouble, "the Lease is not renewed; trying again");
        }
    }

    async fn answer(&mut self, call: Call) {
        let began = self.fence.begin();
        let now = began.0;
        self.election.begin(now);
        // The end of the Lease must not be slept through for a call's sake.
        let end = self.election.expires().map_or(now + CALL, |end| end.min(now + CALL));
        match call {
            Call::Look => {
                let answer = seen(within(end, self.api.get_opt(&self.name)).await);
                let answer = answer.map(|found| found.map(Record::from));
                self.election.looked(self.clock.instant(), answer);
            }
            Call::Write { base, create, legacy } => {
                let lease = self.lease(&base, Some(&self.me), &legacy);
                let answer = if create {
                    made(within(end, self.api.create(&PostParams::default(), &lease)).await)
                } else {
                    within(end, self.api.replace(&self.name, &PostParams::default(), &lease)).await
                };
                if answer.is_ok() {
                    self.fence.renewed(began);
                }
                self.election.wrote(now, &legacy, answer.map(Record::from));
            }
        }
    }

    fn lease(&self, base: &Record, holder: Option<&str>, legacy: &Legacy) -> v1::Lease {
        let mut lease = base.next(holder, legacy, self.clock.now());
        lease.metadata.name = Some(self.name.clone());
        lease
    }

    async fn give_up(&mut self) {
        self.election.pass_time(self.clock.instant());
        let Some((mut base, legacy)) = self.election.resign() else {
            return;
        };
        loop {
            let lease = self.lease(&base, None, &legacy);
            let end = self.clock.instant() + CALL;
            match within(end, self.api.replace(&self.name, &PostParams::default(), &lease)).await {
                Ok(_) => {
                    tracing::info!(lease = self.place, "the Lease is released");
                    return;
                }
                Err(failure) => tracing::debug!(lease = self.place, ?failure, "the Lease is not released yet"),
            }
            let end = self.clock.instant() + CALL;
            match within(end, self.api.get_opt(&self.name)).await {
                Ok(Some(found)) => {
                    *base = Record::from(found);
                    if base.holder() != Some(self.me.as_str()) {
                        return;
                    }
                }
                Ok(None) => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(250)).await,
            }
        }
    }
}

/// One line for each change.
fn log(lease: &str, before: &Standing, now: &Standing) {
    match now {
        Standing::Leading(term) => {
            let sessions = term.inherited.sessions.len();
            tracing::info!(lease, term = term.number, sessions, "this replica leads");
        }
        Standing::Following { leader, trouble } => {
            let leader = leader.as_deref().unwrap_or("nobody");
            match trouble {
                _ if matches!(before, Standing::Leading(_)) => {
                    tracing::warn!(
                        lease,
                        leader,
                        trouble,
                        "this replica does not lead any more: its sessions are closed"
                    );
                }
                Some(trouble) => tracing::warn!(
                    lease,
                    leader,
                    trouble,
                    "the Lease cannot be read or written; trying again"
                ),
                None => tracing::info!(lease, leader, "this replica stands by"),
            }
        }
    }
}

/// Nothing can have been deleted that was to be made.
fn made<T>(answer: Result<T, Failure>) -> Result<T, Failure> {
    match answer {
        Err(Failure::Gone(words)) => Err(Failure::Trouble(words)),
        other => other,
    }
}

/// Nobody can be faster than a look.
fn seen<T>(answer: Result<T, Failure>) -> Result<T, Failure> {
    match answer {
        Err(Failure::Overtaken) => Err(Failure::Trouble("a look is answered with a conflict".to_owned())),
        Err(Failure::Gone(words)) => Err(Failure::Trouble(words)),
        other => other,
    }
}

async fn within<T>(end: Instant, call: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout_at(end, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(match status.code {
            // Another version, or made meanwhile.
            409 => Failure::Overtaken,
            404 => Failure::Gone(status.message.clone()),
            _ => Failure::Trouble(status.message.clone()),
        }),
        Ok(Err(error)) => Err(Failure::Trouble(error.to_string())),
        Err(_) => Err(Failure::Trouble("no answer in time".to_owned())),
    }
}

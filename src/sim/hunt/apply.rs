//! From a fault in a plan to what happens in the world, and its end.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::json;

use super::plan::{ApiTrouble, Blow, Fault, GhartsCall, GhartsTrouble, Ill, Peer, Plan, PodTrouble, THIEF, Timed};
use super::strangers::PLACES;
use crate::{
    http::Response,
    shutdown::Tasks,
    sim::{
        fleet::Behaviour,
        gharts::{self, GithubTrouble, Operation},
        github::{JobState, NewJobs, Pat},
        keys::SigningKey,
        kubernetes,
        network::{Disturbance, Trouble},
        oidc::Ailment,
        world::{
            APP_KEY_FILE, Credential, DAEMON_APP_KEY, DAEMON_NAMESPACE, GITHUB_TOKEN_FILE, LEASE, ORGANIZATION,
            RUNNER_NAMESPACE, World, account_name,
        },
    },
};

/// Longer than GHARTS waits for GitHub, and for keys.
const SLOW_GITHUB: Duration = Duration::from_secs(7);
const SLOW_KEYS: Duration = Duration::from_secs(12);
/// A job that comes at a bad moment.
const MET_JOB: Duration = Duration::from_secs(30);
/// A runner that waits no longer for a job.
const LEAVES_AFTER: Duration = Duration::from_secs(10);
/// The App's keys, one after the other; the first is the world's own.
const APP_KEYS: [&str; 3] = [DAEMON_APP_KEY, "the App's second key", "the App's third key"];
/// What a changed policy permits.
const OTHER_LABEL: &str = "something-else";
const SLOW_API: Duration = Duration::from_secs(3);
/// When the pods of a lost node are deleted, and when they are forced away.
const NODE_GIVEN_UP: Duration = Duration::from_secs(60);
const POD_FORCED: Duration = Duration::from_secs(90);

/// A fault at work.
pub(super) struct AtWork {
    end: Box<dyn FnOnce() + Send>,
    met: Box<dyn Fn() -> bool + Send>,
}

impl AtWork {
    fn new(end: impl FnOnce() + Send + 'static, met: impl Fn() -> bool + Send + 'static) -> Self {
        Self {
            end: Box::new(end),
            met: Box::new(met),
        }
    }

    /// It has happened at once, or had nothing to happen to.
    fn done(met: bool) -> Self {
        Self::new(|| {}, move || met)
    }

    /// Ends it. Whether anybody met it.
    pub(super) fn end(self) -> bool {
        (self.end)();
        (self.met)()
    }
}

/// What faults are applied to.
pub(super) struct Stage<'a> {
    pub(super) world: &'a World,
    pub(super) plan: &'a Plan,
    pub(super) tasks: &'a Tasks,
    /// Where the daemon's files are.
    pub(super) dir: &'a Path,
}

impl Stage<'_> {
    /// `None`: it is about the daemon's process.
    pub(super) fn begin(&self, timed: &Timed) -> Option<AtWork> {
        let fault = &timed.fault;
        self.on_the_way(fault)
            .or_else(|| self.of_github(timed))
            .or_else(|| self.of_kubernetes(fault))
            .or_else(|| self.of_pods(fault))
            .or_else(|| self.of_gharts(timed))
    }

    fn set(&self, index: usize) -> &str {
        self.plan.shape.sets.get(index).map_or("", |set| &set.name)
    }

    // ---- On the way ---------------------------------------------------------------------------------

    fn on_the_way(&self, fault: &Fault) -> Option<AtWork> {
        let lost =
            |peer: Peer, call: &str, times: u32, trouble: Trouble| Some(self.disturb(peer, call, times, trouble));
        match fault {
            Fault::Latency { peer, call, ms } => lost(*peer, call, u32::MAX, Trouble::Late(Duration::from_millis(*ms))),
            Fault::ResetBefore { peer, call, times } => lost(*peer, call, *times, Trouble::LostBefore),
            Fault::ResetAfter { peer, call, times } => lost(*peer, call, *times, Trouble::LostAfter),
            Fault::ClientError {
                peer,
                call,
                status,
                times,
            }
            | Fault::ServerError {
                peer,
                call,
                status,
                times,
            } => {
                let body = json!({"message": "said something in between", "detail": "said something in between"});
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY);
                lost(*peer, call, *times, Trouble::Answered(status, body.to_string()))
            }
            Fault::TooManyRequests {
                peer,
                call,
                retry_after,
                times,
            } => {
                let mut answer = Response::new(Bytes::from_static(b"slow down"));
                *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                if let Some(seconds) = retry_after {
                    answer.headers_mut().insert(header::RETRY_AFTER, (*seconds).into());
                }
                lost(*peer, call, *times, Trouble::Replied(answer))
            }
            Fault::ForeignBody {
                peer,
                call,
                status,
                times,
            } => {
                let mut answer = Response::new(Bytes::from_static(b"<html><body>Please sign in</body></html>"));
                *answer.status_mut() = StatusCode::from_u16(*status).unwrap_or_default();
                let html = http::HeaderValue::from_static("text/html");
                answer.headers_mut().insert(header::CONTENT_TYPE, html);
                lost(*peer, call, *times, Trouble::Replied(answer))
            }
            Fault::TruncatedBody { peer, call, times } => {
                let half = Arc::new(|body: &[u8]| Bytes::copy_from_slice(&body[..body.len() / 2]));
                lost(*peer, call, *times, Trouble::Altered(half))
            }
            Fault::Hang { peer, call, times } => lost(*peer, call, *times, Trouble::Silence),
            Fault::JobMeets {
                peer,
                call,
                set,
                ms,
                times,
            } => {
                let (github, set) = (self.world.github.clone(), self.set(*set).to_owned());
                let comes = move |line: &str| {
                    // Where it is about a registration, one that its runner may take.
                    let agents = github.runners();
                    let about = line.rsplit_once("/agents/").map(|(_, id)| id);
                    let about = agents.iter().find(|agent| about == Some(agent.id.to_string().as_str()));
                    let sets = github.sets();
                    let about = about.and_then(|agent| sets.iter().find(|set| agent.set == Some(set.id)));
                    let set = about.map_or(set.as_str(), |set| &set.name);
                    let new = NewJobs::for_set(ORGANIZATION, set, 1).lasting(MET_JOB);
                    github.queue_jobs(&new);
                };
                lost(
                    *peer,
                    call,
                    *times,
                    Trouble::Meanwhile(Arc::new(comes), Duration::from_millis(*ms)),
                )
            }
            Fault::Absent { peer } => {
                let (network, authority) = (self.world.network.clone(), self.authority(*peer));
                let router = network.detach(&authority);
                let met = router.is_some();
                let end = move || {
                    if let Some(router) = router {
                        network.attach(&authority, router);
                    }
                };
                Some(AtWork::new(end, move || met))
            }
            _ => None,
        }
    }

    fn authority(&self, peer: Peer) -> String {
        let addresses = &self.world.services.addresses;
        let address = match peer {
            Peer::GitHub => &addresses.github,
            Peer::Gharts => &addresses.gharts,
        };
        address.split("://").nth(1).unwrap_or(address).to_owned()
    }

    fn disturb(&self, peer: Peer, call: &str, times: u32, trouble: Trouble) -> AtWork {
        let disturbance: Disturbance = self.world.network.disturb(&self.authority(peer), call, trouble);
        disturbance.times(times);
        let met = disturbance.clone();
        AtWork::new(move || disturbance.end(), move || met.met() > 0)
    }

    // ---- GitHub -------------------------------------------------------------------------------------

    fn of_github(&self, timed: &Timed) -> Option<AtWork> {
        let github = self.world.github.clone();
        Some(match &timed.fault {
            Fault::TokensRevoked => {
                github.revoke_installation_tokens();
                github.revoke_admin_tokens();
                AtWork::done(true)
            }
            Fault::QueueTokenExpired { set } => AtWork::done(github.expire_queue_token(self.set(*set))),
            Fault::PatRefused => {
                let pat = pat(&self.shown(GITHUB_TOKEN_FILE));
                github.remove_pat(&pat.token);
                // What it opened is shut as well.
                github.revoke_admin_tokens();
                let met = self.plan.shape.credential == Credential::Pat;
                AtWork::new(move || github.put_pat(pat), move || met)
            }
            Fault::SecretRotated => self.rotate(),
            Fault::RateLimit { whom, how } => {
                github.limit(*whom, *how, Duration::from_millis(timed.for_ms));
                AtWork::done(true)
            }
            Fault::SessionLost { set } => AtWork::done(github.lose_session(self.set(*set))),
            Fault::SessionStolen { set } => AtWork::done(github.steal_session(self.set(*set), THIEF)),
            Fault::SetDeleted { set } => AtWork::done(github.remove_set(self.set(*set))),
            Fault::MessagesTwice { set } => AtWork::done(github.say_again(self.set(*set))),
            Fault::MessagesReordered => {
                github.configure(|settings| settings.shuffled = true);
                AtWork::new(move || github.configure(|settings| settings.shuffled = false), || true)
            }
            Fault::MessageIdsRestarted { set } => {
                let (set, met) = (self.set(*set).to_owned(), github.skip_message_ids(self.set(*set)));
                AtWork::new(
                    move || {
                        github.restart_message_ids(&set);
                    },
                    move || met,
                )
            }
            Fault::WrongStatistics { lie } => {
                github.lie(Some(*lie));
                AtWork::new(move || github.lie(None), || true)
            }
            Fault::JobCancelled { nth } => {
                let waiting = [JobState::Queued, JobState::Resting, JobState::Assigned];
                let job = self.job(*nth, &waiting);
                AtWork::done(job.is_some_and(|id| github.cancel(&id).is_ok()))
            }
            Fault::AssignmentDropped { nth } => {
                let job = self.job(*nth, &[JobState::Assigned]);
                AtWork::done(job.is_some_and(|id| github.drop_assignment(&id).is_ok()))
            }
            _ => return None,
        })
    }

    /// What the daemon's file beside its configuration says now.
    fn shown(&self, file: &str) -> String {
        // Nobody removes it: an empty one would fail every call.
        fs::read_to_string(self.dir.join(file)).unwrap_or_default()
    }

    /// A second secret beside the first, shown from now on; at the end the first opens nothing any more.
    fn rotate(&self) -> AtWork {
        let github = self.world.github.clone();
        let swap = |file: &str, text: &str| {
            let (path, next) = (self.dir.join(file), self.dir.join(format!("{file}.next")));
            fs::write(&next, text).and_then(|()| fs::rename(&next, &path)).is_ok()
        };
        let dir = self.dir.to_owned();
        let is_shown = move |file: &str, text: &str| fs::read_to_string(dir.join(file)).is_ok_and(|now| now == text);
        match self.plan.shape.credential {
            Credential::Pat => {
                let old = self.shown(GITHUB_TOKEN_FILE);
                let mut hasher = DefaultHasher::new();
                old.hash(&mut hasher);
                let new = format!("ghp_{:032x}", hasher.finish());
                github.put_pat(pat(&new));
                let met = swap(GITHUB_TOKEN_FILE, &new);
                let end = move || {
                    github.remove_pat(&old);
                    github.revoke_admin_tokens();
                };
                AtWork::new(end, move || met)
            }
            Credential::App => {
                let keys: Vec<SigningKey> = APP_KEYS
                    .iter()
                    .filter_map(|name| SigningKey::shared(name).ok())
                    .collect();
                let old = self.shown(APP_KEY_FILE);
                let current = keys.iter().position(|key| key.private_pem() == old).unwrap_or(0);
                let (before, next) = (keys.get(current).cloned(), keys.get((current + 1) % APP_KEYS.len()));
                let (Some(before), Some(next)) = (before, next) else {
                    return AtWork::done(false);
                };
                let met = github.add_app_key(next.public_pem()) && swap(APP_KEY_FILE, next.private_pem());
                let end = move || {
                    if !is_shown(APP_KEY_FILE, before.private_pem()) {
                        github.remove_app_key(before.public_pem());
                        github.revoke_installation_tokens();
                        github.revoke_admin_tokens();
                    }
                };
                AtWork::new(end, move || met)
            }
            // GHARTS has the keys.
            Credential::Brokered => AtWork::done(false),
        }
    }

    fn job(&self, nth: usize, states: &[JobState]) -> Option<String> {
        let jobs = self.world.github.jobs();
        let fitting: Vec<_> = jobs.iter().filter(|job| states.contains(&job.state)).collect();
        let nth = nth.checked_rem(fitting.len())?;
        Some(fitting[nth].id.clone())
    }

    // ---- Kubernetes ---------------------------------------------------------------------------------

    fn of_kubernetes(&self, fault: &Fault) -> Option<AtWork> {
        let model = self.world.kubernetes.clone();
        Some(match fault {
            Fault::WatchCut => {
                model.cut_watches();
                AtWork::done(true)
            }
            Fault::HistoryCompacted => {
                model.compact();
                model.cut_watches();
                AtWork::done(true)
            }
            Fault::ApiOutage => {
                let id = model.add_fault(kubernetes::Fault::new(kubernetes::Trouble::Refused));
                model.cut_watches();
                let end = move || {
                    model.end_fault(id);
                };
                AtWork::new(end, || true)
            }
            Fault::ApiTrouble {
                verb,
                resource,
                how,
                times,
                everybody,
            } => {
                let mut fault = kubernetes::Fault::new(api_trouble(*how)).times(*times);
                if !verb.is_empty() {
                    fault = fault.verb(verb);
                }
                if !resource.is_empty() {
                    fault = fault.resource(resource);
                }
                // Of kubelets that wait for ever nothing is to be learnt.
                if !everybody || matches!(how, ApiTrouble::Hang | ApiTrouble::Silent) {
                    fault = fault.user(&account_name());
                }
                let met = fault.met();
                let id = model.add_fault(fault);
                let end = move || {
                    model.end_fault(id);
                };
                AtWork::new(end, move || met.load(Ordering::SeqCst))
            }
            Fault::RightsLost => {
                const NAME: &str = "gharts-listener";
                let Some(binding) = model.get("rolebindings", RUNNER_NAMESPACE, NAME) else {
                    return Some(AtWork::done(false));
                };
                let met = model.delete("rolebindings", RUNNER_NAMESPACE, NAME).is_ok();
                let again = json!({"apiVersion": binding["apiVersion"], "kind": binding["kind"],
                    "metadata": {"name": NAME, "namespace": RUNNER_NAMESPACE},
                    "roleRef": binding["roleRef"], "subjects": binding["subjects"]});
                let end = move || {
                    // There already where two overlapped.
                    let _ = model.create(&again);
                };
                AtWork::new(end, move || met)
            }
            Fault::LeaseDeleted => AtWork::done(model.delete("leases", DAEMON_NAMESPACE, LEASE).is_ok()),
            Fault::ResourceQuota { pods } => {
                const NAME: &str = "few-pods";
                let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota",
                    "metadata": {"name": NAME, "namespace": RUNNER_NAMESPACE},
                    "spec": {"hard": {"pods": pods.to_string()}}});
                let met = model.create(&quota).is_ok();
                let end = move || {
                    // Where two overlapped, the first one's end has ended both.
                    let _ = model.delete("resourcequotas", RUNNER_NAMESPACE, NAME);
                };
                AtWork::new(end, move || met)
            }
            _ => return None,
        })
    }

    // ---- Pods ---------------------------------------------------------------------------------------

    fn of_pods(&self, fault: &Fault) -> Option<AtWork> {
        let fleet = self.world.fleet.clone()?;
        Some(match fault {
            Fault::PodsFail { how, percent } => {
                let met = Arc::new(AtomicBool::new(false));
                let (seen, how, percent) = (met.clone(), pod_trouble(*how), u64::from(*percent));
                fleet.behave(move |pod| {
                    let mut hasher = DefaultHasher::new();
                    pod.metadata.name.hash(&mut hasher);
                    if hasher.finish() % 100 < percent {
                        seen.store(true, Ordering::SeqCst);
                        how
                    } else {
                        Behaviour::Ordinary
                    }
                });
                AtWork::new(
                    move || fleet.behave(|_| Behaviour::Ordinary),
                    move || met.load(Ordering::SeqCst),
                )
            }
            Fault::PodStruck { how, nth } => AtWork::done(self.strike(*how, *nth)),
            Fault::PodsStuckTerminating { ms } => {
                fleet.linger(Duration::from_millis(*ms));
                AtWork::new(move || fleet.linger(Duration::ZERO), || true)
            }
            _ => return None,
        })
    }

    /// Strikes one of the daemon's pods that are there. False: there is none.
    fn strike(&self, how: Blow, nth: usize) -> bool {
        let (Some(fleet), model) = (&self.world.fleet, self.world.kubernetes.clone()) else {
            return false;
        };
        let pods: Vec<String> = model
            .list("pods", RUNNER_NAMESPACE)
            .iter()
            .filter_map(|pod| pod["metadata"]["name"].as_str())
            .filter(|name| !super::strangers::is_theirs(name))
            .map(str::to_owned)
            .collect();
        let Some(name) = nth.checked_rem(pods.len()).map(|nth| pods[nth].clone()) else {
            return false;
        };
        match how {
            Blow::Evicted => fleet.strike(&name, Behaviour::Evicted(Duration::ZERO)),
            Blow::OutOfMemory => fleet.strike(&name, Behaviour::OutOfMemory(Duration::ZERO)),
            Blow::NodeLost => {
                fleet.strike(&name, Behaviour::NodeLost(Duration::ZERO));
                self.tasks.spawn("node controller", async move {
                    tokio::time::sleep(NODE_GIVEN_UP).await;
                    // Gone already where the daemon removed it and somebody let go of it.
                    let _ = model.delete("pods", RUNNER_NAMESPACE, &name);
                    tokio::time::sleep(POD_FORCED).await;
                    let _ = model.purge("pods", RUNNER_NAMESPACE, &name);
                });
            }
            Blow::DeletedByHand => return model.delete("pods", RUNNER_NAMESPACE, &name).is_ok(),
            Blow::SecretDeleted => return model.delete("secrets", RUNNER_NAMESPACE, &name).is_ok(),
            Blow::Unregistered => return self.world.github.remove_runner(&name),
        }
        true
    }

    // ---- GHARTS -------------------------------------------------------------------------------------

    fn of_gharts(&self, timed: &Timed) -> Option<AtWork> {
        let services = &self.world.services;
        let (gharts, account) = (self.world.gharts.clone(), services.gharts_account());
        let (has_teams, user) = (gharts.flavour().has_teams(), services.gharts_user.clone());
        Some(match &timed.fault {
            Fault::Quota { places } => {
                gharts.set_quota(&account, Some(*places + PLACES));
                let usual = self.plan.shape.quota.map(|quota| quota + PLACES);
                AtWork::new(move || gharts.set_quota(&account, usual), || true)
            }
            Fault::PlacesTaken { places } => {
                gharts.take_places(&account, *places);
                let met = self.plan.shape.quota.is_some();
                AtWork::new(move || gharts.take_places(&account, 0), move || met)
            }
            Fault::PolicyChanged => {
                let (labels, patterns) = match (gharts.team(&account), gharts.policy(&account)) {
                    (Some(team), _) => (team.required_labels, team.optional_label_patterns),
                    (None, Some(policy)) => (policy.allowed_labels, policy.label_patterns),
                    (None, None) => return Some(AtWork::done(false)),
                };
                if labels == [OTHER_LABEL] {
                    // Another change is at work; its end restores what was there.
                    return Some(AtWork::done(false));
                }
                gharts.set_policy(&account, &[OTHER_LABEL], &[]);
                AtWork::new(move || gharts.set_policy(&account, &labels, &patterns), || true)
            }
            Fault::TeamDeactivated if has_teams => {
                gharts.deactivate_team(&account, "an audit");
                AtWork::new(move || gharts.reactivate_team(&account), || true)
            }
            Fault::NotAMember if has_teams => {
                gharts.remove_member(&account, &user);
                AtWork::new(move || gharts.add_member(&account, &user), || true)
            }
            Fault::TeamDeactivated | Fault::NotAMember => AtWork::done(false),
            Fault::UserDeactivated => {
                gharts.set_user_active(&user, false);
                AtWork::new(move || gharts.set_user_active(&user, true), || true)
            }
            Fault::Frozen => {
                gharts.freeze(Duration::from_millis(timed.for_ms));
                AtWork::done(true)
            }
            Fault::GhartsFails { call, how, times } => {
                let (operation, fault) = (operation(*call), gharts_fault(*how));
                let before = gharts.calls_of(operation);
                for _ in 0..*times {
                    gharts.inject(operation, fault);
                }
                let (end, asked) = (gharts.clone(), gharts);
                AtWork::new(move || end.heal(), move || asked.calls_of(operation) > before)
            }
            Fault::GhartsSeesNoGitHub { how } => {
                gharts.trouble_github(Some(match how {
                    Ill::Fails => GithubTrouble::Status(StatusCode::BAD_GATEWAY),
                    Ill::Slow => GithubTrouble::Slow(SLOW_GITHUB),
                    Ill::Lost => GithubTrouble::LostAfter,
                }));
                AtWork::new(move || gharts.trouble_github(None), || true)
            }
            Fault::KeysIll { how } => {
                gharts.ail_jwks(Some(match how {
                    Ill::Fails => Ailment::Status(StatusCode::INTERNAL_SERVER_ERROR),
                    Ill::Slow => Ailment::Slow(SLOW_KEYS),
                    Ill::Lost => Ailment::Reset,
                }));
                AtWork::new(move || gharts.ail_jwks(None), || true)
            }
            _ => return None,
        })
    }
}

fn pat(token: &str) -> Pat {
    Pat {
        token: token.to_owned(),
        manages_runners: true,
        only_in: None,
    }
}

fn api_trouble(how: ApiTrouble) -> kubernetes::Trouble {
    match how {
        ApiTrouble::AnswerLost => kubernetes::Trouble::Lost,
        ApiTrouble::Unauthorized => kubernetes::Trouble::Unauthorized,
        ApiTrouble::Unavailable => kubernetes::Trouble::Unavailable,
        ApiTrouble::Internal => kubernetes::Trouble::Internal,
        ApiTrouble::Throttled => kubernetes::Trouble::Throttled { retry_after: 2 },
        ApiTrouble::Slow => kubernetes::Trouble::Slow(SLOW_API),
        ApiTrouble::Hang => kubernetes::Trouble::Hang,
        ApiTrouble::Silent => kubernetes::Trouble::Silent,
        ApiTrouble::Conflict => kubernetes::Trouble::Conflict,
        ApiTrouble::Invalid => kubernetes::Trouble::Invalid,
    }
}

fn pod_trouble(how: PodTrouble) -> Behaviour {
    match how {
        PodTrouble::Unschedulable => Behaviour::Unschedulable,
        PodTrouble::ImagePullFails => Behaviour::ImagePullFails,
        PodTrouble::NeverRegisters => Behaviour::NeverRegisters,
        PodTrouble::Crashes => Behaviour::Crashes(3),
        PodTrouble::EndsWell => Behaviour::Crashes(0),
        PodTrouble::Leaves => Behaviour::Leaves(LEAVES_AFTER),
        PodTrouble::Deprecated => Behaviour::Crashes(7),
    }
}

fn operation(call: GhartsCall) -> Operation {
    match call {
        GhartsCall::Jit => Operation::Jit,
        GhartsCall::Token => Operation::Token,
        GhartsCall::Delete => Operation::Delete,
        GhartsCall::List => Operation::List,
        GhartsCall::Get => Operation::Get,
    }
}

fn gharts_fault(how: GhartsTrouble) -> gharts::Fault {
    match how {
        GhartsTrouble::Refused => gharts::Fault::Refused,
        GhartsTrouble::AnswerLost => gharts::Fault::AnswerLost,
        GhartsTrouble::AnswerSpoiled => gharts::Fault::AnswerSpoiled,
        GhartsTrouble::Unrecorded => gharts::Fault::Unrecorded,
    }
}

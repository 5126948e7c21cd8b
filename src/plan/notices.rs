//! What an operator must know, and how often it is worth a Kubernetes Event. Pure.
//!
//! A fact is said at once; what follows of the same kind about the same set is counted and said together, once in
//! [`AGAIN`]. So a set whose pods all crash costs one Event in five minutes, with their number, and nothing is left
//! out. The daemon may create Events and change none, so the counting is done here.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Moment,
    limits::Scope,
    reason::{Code, Reason},
    runner::{Died, Failure},
    world::World,
};
use crate::ids::{RunnerName, SetName};

/// Between two Events of one kind about one subject.
const AGAIN: Duration = Duration::from_mins(5);
/// An API server forgets Events after an hour: what lasts is said again before that.
const LASTING: Duration = Duration::from_mins(45);
/// Over all subjects, in one minute.
const MOST_IN_A_MINUTE: u32 = 20;
/// Sets named in one Event; the others are counted.
const SETS_NAMED: usize = 3;

/// One Event to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Something is wrong; otherwise it is over.
    pub warning: bool,
    /// Stable, in upper camel case: `ImagePullTimeout`.
    pub reason: String,
    pub about: About,
    pub note: String,
    /// How often it happened between `first` and `last`.
    pub count: u32,
    pub first: Moment,
    pub last: Moment,
}

/// What an Event is shown with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    Pod {
        name: RunnerName,
        uid: String,
    },
    /// There is no pod, or it is about all of them: the runner namespace itself.
    Namespace,
}

type Key = (Scope, &'static str);

/// What was said when, and what waits to be said.
#[derive(Debug, Default)]
pub struct Notices {
    subjects: BTreeMap<Key, Subject>,
    /// Reasons at work, and when each was last said.
    standing: BTreeMap<(Scope, Code), Moment>,
    /// Begin of the minute under way, and what was said in it.
    minute: (Moment, u32),
}

#[derive(Debug, Default)]
struct Subject {
    told: Option<Moment>,
    waiting: Option<Notice>,
}

impl Notices {
    /// How many subjects and reasons something is kept of.
    pub fn len(&self) -> usize {
        self.subjects.len() + self.standing.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A runner failed.
    pub fn runner_failed(&mut self, now: Moment, set: &SetName, about: About, failure: Failure, said: Option<&str>) {
        if deserves_event(failure) {
            let remedy = match failure {
                Failure::Deprecated => Code::RunnerDeprecated.remedy(),
                _ => None,
            };
            self.of_runner(now, set, about, failure.as_str(), (said, remedy));
        }
    }

    /// A runner's pod died under its job.
    pub fn runner_died(&mut self, now: Moment, set: &SetName, about: About, died: Died, said: Option<&str>) {
        // Some runners say with their exit code that the job itself failed.
        if died != Died::ExitCode {
            self.of_runner(now, set, about, died.as_str(), (said, None));
        }
    }

    fn of_runner(
        &mut self,
        now: Moment,
        set: &SetName,
        about: About,
        word: &'static str,
        (said, remedy): (Option<&str>, Option<&str>),
    ) {
        let runner = match &about {
            About::Pod { name, .. } => format!(", runner {name}"),
            About::Namespace => String::new(),
        };
        let said = said.map(|said| format!(": {said}")).unwrap_or_default();
        let remedy = remedy
            .map(|remedy| format!(". To mend it: {remedy}"))
            .unwrap_or_default();
        let note = format!("scale set {set}{runner}: {word}{said}{remedy}");
        self.hold(now, (Scope::Set(set.clone()), word), true, about, note);
    }

    /// The reasons that hold the sets back now: those that are new, that last, and that are over.
    pub fn reasons<'a>(
        &mut self,
        now: Moment,
        world: &World,
        reasons: impl Iterator<Item = (&'a SetName, &'a [Reason])>,
    ) {
        let mut current: BTreeMap<(Scope, Code), (Vec<&SetName>, &Reason)> = BTreeMap::new();
        for (set, reasons) in reasons {
            for reason in reasons.iter().filter(|r| deserves_word(r.code)) {
                let key = (scope_of(world, set, reason.code), reason.code);
                current.entry(key).or_insert_with(|| (Vec::new(), reason)).0.push(set);
            }
        }
        let over: Vec<(Scope, Code)> = self
            .standing
            .keys()
            .filter(|key| !current.contains_key(key))
            .cloned()
            .collect();
        for (scope, code) in over {
            self.standing.remove(&(scope.clone(), code));
            let note = format!("{}: {} is over", subject_text(&scope), code.as_str());
            self.hold(now, (scope, "recovered"), false, About::Namespace, note);
        }
        for ((scope, code), (sets, reason)) in current {
            let said = self.standing.get(&(scope.clone(), code));
            if said.is_some_and(|at| now.since(*at) < LASTING) {
                continue;
            }
            self.standing.insert((scope.clone(), code), now);
            let remedy = reason.remedy().map(|remedy| format!(". To mend it: {remedy}"));
            let note = format!(
                "{}: no more runners: {}{}",
                sets_text(&sets),
                reason.message,
                remedy.unwrap_or_default()
            );
            self.hold(now, (scope, code.as_str()), true, About::Namespace, note);
        }
    }

    fn hold(&mut self, now: Moment, key: Key, warning: bool, about: About, note: String) {
        let reason = camel_case(key.1);
        let waiting = &mut self.subjects.entry(key).or_default().waiting;
        let (count, first) = waiting.as_ref().map_or((0, now), |w| (w.count, w.first));
        *waiting = Some(Notice {
            warning,
            reason,
            about,
            note,
            count: count.saturating_add(1),
            first,
            last: now,
        });
    }

    /// What may be said now.
    pub fn due(&mut self, now: Moment) -> Vec<Notice> {
        if now.since(self.minute.0) >= Duration::from_mins(1) {
            self.minute = (now, 0);
        }
        let mut subjects: Vec<&mut Subject> = self
            .subjects
            .values_mut()
            .filter(|s| s.told.is_none_or(|at| now.since(at) >= AGAIN))
            .collect();
        // Who has waited longest comes first, or a storm would hide the same ones every time.
        subjects.sort_by_key(|s| s.waiting.as_ref().map(|w| w.first));
        let mut due = Vec::new();
        for subject in subjects {
            if self.minute.1 < MOST_IN_A_MINUTE
                && let Some(notice) = subject.waiting.take()
            {
                subject.told = Some(now);
                self.minute.1 += 1;
                due.push(notice);
            }
        }
        self.subjects
            .retain(|_, s| s.waiting.is_some() || s.told.is_some_and(|at| now.since(at) < AGAIN));
        due
    }
}

/// Failures that an operator must know of. Not what somebody did on purpose, nor what the set's reason tells.
fn deserves_event(failure: Failure) -> bool {
    !matches!(
        failure,
        Failure::JitRefused
            | Failure::PodRefused
            | Failure::SecretRefused
            | Failure::StartPanicked
            | Failure::PodDeleted
    )
}

/// Reasons that wait for a person. What passes by itself stands in status and metrics; [`Code::PodsFailing`] and
/// [`Code::RunnerDeprecated`] are said with each failed pod.
fn deserves_word(code: Code) -> bool {
    matches!(
        code,
        Code::SetFailed
            | Code::SessionConflict
            | Code::BindingUnsupported
            | Code::RunnersDoNotMatchJobs
            | Code::InvalidTemplate
            | Code::Forbidden
            | Code::LabelPolicy
            | Code::NotAuthorized
            | Code::InvalidRequest
            | Code::Configuration
            | Code::Credentials
            | Code::QuotaExceeded
            | Code::ResourceQuota
            | Code::ClockSkew
    )
}

/// Whom the reason stops: one cause that stops three hundred sets is one Event.
fn scope_of(world: &World, set: &SetName, code: Code) -> Scope {
    let scopes = world.sets.get(set).map(super::world::SetWorld::scopes);
    let stands = |scope: &Scope| world.hurdles.get(scope).is_some_and(|h| h.reason.code == code);
    let found = scopes.and_then(|scopes| scopes.into_iter().find(stands));
    found.unwrap_or_else(|| Scope::Set(set.clone()))
}

fn subject_text(scope: &Scope) -> String {
    match scope {
        Scope::Set(set) => format!("scale set {set}"),
        Scope::Account(account) => format!("the scale sets of {account}"),
        Scope::Provisioner(provisioner) => format!("the scale sets of {provisioner}"),
        Scope::Cluster => "every scale set".to_owned(),
    }
}

fn sets_text(sets: &[&SetName]) -> String {
    let named: Vec<&str> = sets.iter().take(SETS_NAMED).map(|set| set.as_str()).collect();
    match sets.len() {
        1 => format!("scale set {}", named.join("")),
        n if n > SETS_NAMED => format!("scale sets {} and {} more", named.join(", "), n - SETS_NAMED),
        _ => format!("scale sets {}", named.join(", ")),
    }
}

/// `image_pull_timeout` -> `ImagePullTimeout`: as Events' reasons are written.
fn camel_case(code: &str) -> String {
    code.split('_')
        .flat_map(|word| {
            let mut letters = word.chars();
            letters
                .next()
                .map(|first| first.to_ascii_uppercase())
                .into_iter()
                .chain(letters)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Moment {
        Moment::from_millis(secs * 1000)
    }

    fn pod(name: &str) -> About {
        About::Pod {
            name: RunnerName::new(name),
            uid: "u".into(),
        }
    }

    fn crash(notices: &mut Notices, secs: i64, set: &str, runner: &str) {
        let said = Some("exit code 1 (Error)");
        notices.runner_failed(
            at(secs),
            &SetName::new(set),
            pod(runner),
            Failure::CrashedBeforeJob,
            said,
        );
    }

    #[test]
    fn b31_the_first_failure_is_said_at_once_and_the_next_hundred_together() {
        let mut notices = Notices::default();
        crash(&mut notices, 0, "a", "a-1");
        let first = notices.due(at(0));
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].reason.as_str(), first[0].count), ("CrashedBeforeJob", 1));
        assert_eq!(
            first[0].note,
            "scale set a, runner a-1: crashed_before_job: exit code 1 (Error)"
        );
        for second in 1..=100 {
            crash(&mut notices, second, "a", &format!("a-{second}"));
            assert_eq!(notices.due(at(second)), [], "counted");
        }
        crash(&mut notices, 100, "b", "b-1");
        assert_eq!(notices.due(at(100)).len(), 1, "another set's failure does not wait");
        let later = notices.due(at(300));
        assert_eq!(later.len(), 1);
        assert_eq!((later[0].count, later[0].first, later[0].last), (100, at(1), at(100)));
        assert_eq!(later[0].about, pod("a-100"));
        assert_eq!(notices.due(at(700)), [], "nothing has happened since");
        assert!(notices.subjects.is_empty(), "and nothing is remembered");
    }

    #[test]
    fn b31_a_storm_over_many_sets_is_bounded_and_nothing_of_it_is_left_out() {
        let mut notices = Notices::default();
        for n in 0..100 {
            crash(&mut notices, 0, &format!("set-{n}"), &format!("r-{n}"));
        }
        let mut said = 0;
        for minute in 0..10 {
            let due = notices.due(at(minute * 60)).len() + notices.due(at(minute * 60 + 30)).len();
            assert!(due <= 20, "{due}");
            said += due;
        }
        assert_eq!(said, 100);
    }

    #[test]
    fn b31_a_reason_is_said_once_again_while_it_lasts_and_when_it_is_over() {
        let set = SetName::new("a");
        let mut notices = Notices::default();
        let world = World::default();
        let quota = [Reason::new(Code::ResourceQuota, "exceeded quota: few")];
        let mut said = Vec::new();
        for minute in 0..60 {
            notices.reasons(at(minute * 60), &world, std::iter::once((&set, &quota[..])));
            said.extend(notices.due(at(minute * 60)).into_iter().map(|n| (minute, n.reason)));
        }
        let quota = "ResourceQuota".to_owned();
        assert_eq!(said, [(0, quota.clone()), (45, quota)]);
        let met = [Reason::new(Code::DemandMet, "")];
        notices.reasons(at(3600), &world, std::iter::once((&set, &met[..])));
        let over = notices.due(at(3600));
        assert_eq!(over[0].note, "scale set a: resource_quota is over");
        assert!(!over[0].warning);
    }

    #[test]
    fn one_cause_that_stops_many_sets_is_one_event() {
        let names: Vec<SetName> = (0..5).map(|n| SetName::new(&format!("set-{n}"))).collect();
        let mut world = World::default();
        for name in &names {
            world.sets.insert(name.clone(), crate::plan::tests::set(name.as_str()));
        }
        let reason = Reason::new(Code::Forbidden, "pods is forbidden");
        world.refused(at(0), at(0), Scope::Cluster, reason.clone(), 0.0, None);
        let mut notices = Notices::default();
        let reasons = [reason];
        notices.reasons(at(1), &world, names.iter().map(|name| (name, &reasons[..])));
        let due = notices.due(at(1));
        assert_eq!(due.len(), 1);
        let note = "scale sets set-0, set-1, set-2 and 2 more: no more runners: pods is forbidden. To mend it: give";
        assert!(due[0].note.starts_with(note), "{}", due[0].note);
    }

    #[test]
    fn what_passes_by_itself_is_no_event() {
        for code in [Code::Unreachable, Code::Starting, Code::RateLimited, Code::MaxRunners] {
            assert!(!deserves_word(code), "{code:?}");
        }
        assert_eq!(camel_case("image_pull_timeout"), "ImagePullTimeout");
    }
}

//! What the loop says of itself: status snapshot, gauges, and one log line when a set's reason changes.

use std::{collections::BTreeMap, sync::Arc};

use super::{Control, REPORT_EVERY, SetState};
use crate::{
    plan::{
        Moment,
        reason::{Code, Reason},
        runner::Runner,
        tally::Tally,
        world::SetWorld,
    },
    scaleset::Note,
    status::{DemandStatus, KeptPodStatus, NoteStatus, ReasonStatus, SetStatus, Status},
    telemetry::metrics::{Jobs, SetLabels},
};

/// Labels that every series of a scale set shares, from its URL and the namespace.
#[derive(Clone, Debug, Default)]
pub struct ScopeLabels {
    pub enterprise: String,
    pub organization: String,
    pub repository: String,
    pub namespace: String,
}

impl Control {
    /// Publishes a snapshot if the last one is old enough; returns when the next one is due.
    pub(super) fn report(&mut self, now: Moment) -> Moment {
        self.log_reasons();
        if let Some(last) = self.reported
            && now.since(last) < REPORT_EVERY
            && self.draining_since.is_none()
        {
            return last + REPORT_EVERY;
        }
        self.reported = Some(now);
        self.tell_operators(now);
        let scale_sets: Vec<SetStatus> = self
            .sets
            .iter()
            .filter_map(|(name, state)| Some(self.set_status(now, state, self.world.sets.get(name)?)))
            .collect();
        for (status, set) in scale_sets.iter().zip(self.world.sets.values()) {
            self.measure(now, status, set);
        }
        let mut not_ready: Vec<String> = self.leadership.not_ready().into_iter().collect();
        if !self.world.synced {
            not_ready.push("the pods in the runner namespace have not been read yet".to_owned());
        }
        self.setup.metrics.leader(self.leadership.leads());
        self.setup.metrics.keeps(self.kept());
        let status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.timeline.wall_text(self.started),
            ready: not_ready.is_empty() && !self.world.draining,
            not_ready,
            draining: self.world.draining,
            leader: self.leadership.status(),
            configuration: self.setup.configuration.borrow().clone(),
            scale_sets,
        };
        self.setup.status.send_replace(Arc::new(status));
        now + super::BEAT
    }

    fn set_status(&self, now: Moment, state: &SetState, set: &SetWorld) -> SetStatus {
        let mut runners: BTreeMap<String, u32> = BTreeMap::new();
        for runner in set.runners.values().filter(|r| r.is_live()) {
            *runners.entry(runner.state_name().to_owned()).or_default() += 1;
        }
        let reasons: Vec<ReasonStatus> = state
            .plan
            .reasons
            .iter()
            .map(|r| self.reason_status(now, set, r))
            .collect();
        let error = state.last_error.as_ref();
        let has = |code: Code| state.plan.reasons.iter().any(|r| r.code == code);
        SetStatus {
            name: set.name.to_string(),
            scale_set_id: state.scale_set_id,
            github: state.setup.parts.github.clone(),
            provisioner: state.setup.provisioner_word.to_owned(),
            binding: match state.setup.binding_word {
                "auto" if state.granted_once => "scaleSet",
                word => word,
            }
            .to_owned(),
            session: set.session.name().to_owned(),
            seconds_since_last_poll: set.heard.map(|at| now.since(at).as_secs()),
            min_runners: set.min_runners,
            max_runners: set.max_runners,
            demand: set
                .demand
                .reading()
                .map_or_else(DemandStatus::default, |r| DemandStatus {
                    available: r.available,
                    acquired: r.acquired,
                    assigned: r.assigned,
                    running: r.running,
                    registered_runners: r.registered,
                    busy_runners: r.busy,
                    idle_runners: r.idle,
                }),
            runners,
            capacity: state.plan.capacity,
            degraded: state
                .plan
                .reasons
                .iter()
                .any(|r| !r.code.is_normal() && !r.code.is_passing()),
            reasons,
            kept_pods: set.runners.values().filter_map(|r| self.kept_pod(r)).collect(),
            notes: state.notes.iter().chain(&state.group_notes).map(note_status).collect(),
            last_provision_attempt: state.last_attempt.map(|at| self.timeline.wall_text(at)),
            last_provision_success: state.last_success.map(|at| self.timeline.wall_text(at)),
            last_provision_error_at: error.map(|e| self.timeline.wall_text(e.at)),
            last_provision_error: error.map(|e| e.message.clone()),
            last_provision_error_class: error.map(|e| e.class.as_str().to_owned()),
            last_provision_error_code: error.map(|e| e.code.clone().unwrap_or_else(|| e.class.as_str().to_owned())),
            quota_exceeded: has(Code::QuotaExceeded),
            policy_violation: has(Code::LabelPolicy),
        }
    }

    fn kept_pod(&self, runner: &Runner) -> Option<KeptPodStatus> {
        let kept = runner.kept()?;
        Some(KeptPodStatus {
            runner: runner.name.to_string(),
            reason: kept.reason.clone(),
            message: runner.said().map(str::to_owned),
            until: self.timeline.wall_text(kept.until),
        })
    }

    fn reason_status(&self, now: Moment, set: &SetWorld, reason: &Reason) -> ReasonStatus {
        let hurdle = set
            .scopes()
            .iter()
            .filter_map(|scope| self.world.hurdles.get(scope))
            .find(|hurdle| hurdle.reason.code == reason.code);
        let until = reason.until.or(hurdle.map(|h| h.until)).filter(|at| *at > now);
        ReasonStatus {
            code: reason.code.as_str().to_owned(),
            message: reason.message.clone(),
            remedy: reason.remedy().map(str::to_owned),
            since: hurdle.map(|h| self.timeline.wall_text(h.since)),
            until: until.map(|at| self.timeline.wall_text(at)),
        }
    }

    fn measure(&self, now: Moment, status: &SetStatus, set: &SetWorld) {
        let metrics = &self.setup.metrics;
        let name = set.name.as_str();
        let Some(state) = self.sets.get(name) else { return };
        let labels = set_labels(&state.setup.scope, name);
        let demand = &status.demand;
        metrics.statistics(
            &labels,
            Jobs {
                available: demand.available,
                acquired: demand.acquired,
                assigned: demand.assigned,
                running: demand.running,
                registered_runners: demand.registered_runners,
                busy_runners: demand.busy_runners,
                idle_runners: demand.idle_runners,
            },
        );
        metrics.bounds(&labels, set.min_runners, set.max_runners);
        metrics.desired(&labels, set.wants_to_create(&Tally::of(set)));
        metrics.capacity(name, status.capacity);
        metrics.runners(name, status.runners.iter().map(|(state, n)| (state.as_str(), *n)));
        metrics.reasons(name, status.reasons.iter().map(|r| r.code.as_str()));
        metrics.notes(name, status.notes.iter().map(|n| n.code.as_str()));
        if let Some(polled) = state.polled {
            metrics.poll_age(name, now.since(polled));
        }
    }

    /// Events for what operators must know.
    fn tell_operators(&mut self, now: Moment) {
        let reasons = self.sets.iter().map(|(name, set)| (name, &set.plan.reasons[..]));
        self.notices.reasons(now, &self.world, reasons);
        // What the API server has not taken by now is not worth a queue.
        if self.world.draining || !self.words.is_idle() {
            return;
        }
        for notice in self.notices.due(now) {
            self.executor.tell_operators(&self.words, notice);
        }
    }

    /// One line when what limits a set changes, not one per turn.
    fn log_reasons(&mut self) {
        for (name, state) in &mut self.sets {
            let Some(first) = state.plan.reasons.first() else {
                continue;
            };
            if state.told == Some(first.code) {
                continue;
            }
            state.told = Some(first.code);
            let (code, remedy) = (first.code.as_str(), first.remedy());
            if first.code.is_normal() || first.code.is_passing() {
                tracing::info!(set = %name, reason = code, "{}", first.message);
            } else {
                tracing::warn!(set = %name, reason = code, remedy, "no more runners: {}", first.message);
            }
        }
    }
}

fn note_status(note: &Note) -> NoteStatus {
    NoteStatus {
        code: note.kind.as_str().to_owned(),
        message: note.message.clone(),
    }
}

fn set_labels<'a>(scope: &'a ScopeLabels, set: &'a str) -> SetLabels<'a> {
    SetLabels {
        enterprise: &scope.enterprise,
        organization: &scope.organization,
        repository: &scope.repository,
        name: set,
        namespace: &scope.namespace,
    }
}

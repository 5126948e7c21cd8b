//! Granting, looking up and taking back runners: the operations that talk to GitHub.
//!
//! The quota is checked before GitHub is asked and the record is written after it has answered, with nothing
//! held in between: calls in flight overshoot the quota, as those of the real service do.

use serde_json::Value;

use super::{
    Fault, Gharts, Operation,
    model::{AuditEntry, Caller, Record, ScaleSetRef, Status, Team},
    python,
    refusal::Refusal,
    upstream::{Failure, Registered, Seen},
};

const NAME_MAX: usize = 64;
const PREFIX_MAX: usize = 50;
const DEFAULT_GROUP: i64 = 1;

/// A JIT request that fits the schema.
#[derive(Clone, Debug)]
pub(super) struct JitRequest {
    name: Name,
    /// As sent, less duplicates.
    labels: Vec<String>,
    team: Option<String>,
    group: i64,
    work_folder: String,
    scale_set: Option<ScaleSetRef>,
}

#[derive(Clone, Debug)]
enum Name {
    Exact(String),
    Prefix(String),
}

/// What a granted runner's answer is made of.
pub(super) struct Granted {
    pub(super) record: Record,
    pub(super) encoded_jit_config: String,
}

impl Gharts {
    /// Reads the body against the schema; fields that nobody knows are passed over.
    pub(super) fn jit_request(&self, body: &Value) -> Result<JitRequest, Refusal> {
        let fields = body.as_object().ok_or(Refusal::Malformed)?;
        let text = |name: &str| optional_text(fields.get(name));
        let name = match (text("runner_name")?, text("runner_name_prefix")?) {
            (Some(name), None) if fits(&name, NAME_MAX) => Name::Exact(name),
            (None, Some(prefix)) if fits(&prefix, PREFIX_MAX) => Name::Prefix(prefix),
            _ => return Err(Refusal::Malformed),
        };
        let team = match self.capabilities().team_field {
            super::flavour::TeamField::Id => text("team_id")?,
            super::flavour::TeamField::Name => text("team_name")?,
        };
        let labels = labels(fields.get("labels"))?;
        let bad: Vec<String> = labels.iter().filter(|label| !python::is_word(label)).cloned().collect();
        if !bad.is_empty() {
            return Err(Refusal::InvalidLabels(bad));
        }
        let scale_set = if self.capabilities().scale_sets {
            scale_set(fields.get("runner_scale_set_id"), fields.get("runner_scale_set_name"))?
        } else {
            None
        };
        if scale_set.is_some() && matches!(name, Name::Prefix(_)) {
            return Err(Refusal::Malformed);
        }
        Ok(JitRequest {
            name,
            labels,
            team,
            group: match integer(fields.get("runner_group_id"))? {
                None | Some(0) => DEFAULT_GROUP,
                Some(group) => group,
            },
            work_folder: match fields.get("work_folder") {
                None => "_work".to_owned(),
                Some(folder) => folder.as_str().ok_or(Refusal::Malformed)?.to_owned(),
            },
            scale_set,
        })
    }

    pub(super) async fn grant(
        &self,
        caller: &Caller,
        request: JitRequest,
        fault: Option<Fault>,
    ) -> Result<Granted, Refusal> {
        let (name, team, labels) = match self.admit(caller, &request) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                self.audit_refusal(caller, &request, &refusal);
                return Err(refusal);
            }
        };
        let registered = match &request.scale_set {
            None => {
                self.inner
                    .upstream
                    .generate(&name, request.group, &labels, &request.work_folder)
                    .await
            }
            Some(set) => {
                self.inner
                    .upstream
                    .generate_in_set(set.id, &set.name, &name, &request.work_folder)
                    .await
            }
        };
        let registered = registered.map_err(|failure| match (failure, &request.scale_set) {
            (Failure::NoSuchScaleSet, Some(set)) => Refusal::ScaleSetUnknown(set.id),
            (failure, _) => Refusal::Provisioning(failure),
        })?;
        if fault == Some(Fault::Unrecorded) {
            return Err(Refusal::Unrecorded);
        }
        Ok(self.write_down(caller, request, name, &team, labels, registered))
    }

    /// Everything that can be said no to before GitHub is asked: name, team, labels, quota, in that order.
    fn admit(&self, caller: &Caller, request: &JitRequest) -> Result<(String, Team, Vec<String>), Refusal> {
        let capabilities = self.capabilities();
        let mut model = self.lock();
        let name = match &request.name {
            Name::Exact(name) if model.name_in_use(name) => return Err(Refusal::NameTaken(name.clone())),
            Name::Exact(name) => name.clone(),
            Name::Prefix(prefix) => format!("{prefix}-{:06x}", model.rng.u32(..1 << 24)),
        };
        let team = model
            .billed_team(capabilities, caller, request.team.as_deref())?
            .clone();
        model.check_labels(capabilities, &team, &request.labels)?;
        model.check_quota(capabilities, &team)?;
        let self_hosted = "self-hosted".to_owned();
        let mut all: Vec<&String> = request.labels.iter().chain([&self_hosted]).collect();
        if capabilities.adds_required_labels {
            all.extend(&team.required_labels);
        }
        let labels = python::set_order(model.hash_seed, all);
        Ok((name, team, labels))
    }

    fn write_down(
        &self,
        caller: &Caller,
        request: JitRequest,
        name: String,
        team: &Team,
        labels: Vec<String>,
        registered: Registered,
    ) -> Granted {
        let now = self.inner.clock.now();
        let mut model = self.lock();
        let record = Record {
            id: model.uuid(),
            name,
            status: Status::Pending,
            github_id: registered.id,
            group: registered.group,
            labels: if request.scale_set.is_some() {
                Vec::new()
            } else {
                labels.clone()
            },
            provisioned_by: caller.identity(),
            oidc_sub: caller.sub(),
            team: team.id.clone(),
            scale_set: request.scale_set,
            created: now,
            updated: now,
            registered: None,
            deleted: None,
        };
        let id = model.audit.len() as u64 + 1;
        model.audit.push(AuditEntry {
            id,
            event: "provision_jit",
            runner: Some((record.id.clone(), record.name.clone())),
            team: Some((team.id.clone(), team.name.clone())),
            identity: record.provisioned_by.clone(),
            oidc_sub: record.oidc_sub.clone(),
            group: Some(record.group),
            labels,
            github_id: Some(record.github_id),
            error: None,
            at: now,
        });
        model.records.add(record.clone());
        Granted {
            record,
            encoded_jit_config: registered.encoded_jit_config,
        }
    }

    /// Policy and quota refusals leave a trace.
    fn audit_refusal(&self, caller: &Caller, request: &JitRequest, refusal: &Refusal) {
        let event = match refusal {
            Refusal::MissingLabels { .. } | Refusal::ForbiddenLabels { .. } => "label_policy_violation",
            Refusal::Quota { .. } => "quota_exceeded",
            _ => return,
        };
        let (_, answer) = refusal.answer(self.capabilities().wording);
        let mut model = self.lock();
        let team = model
            .billed_team(self.capabilities(), caller, request.team.as_deref())
            .ok()
            .map(|team| (team.id.clone(), team.name.clone()));
        let id = model.audit.len() as u64 + 1;
        model.audit.push(AuditEntry {
            id,
            event,
            runner: None,
            team,
            identity: caller.identity(),
            oidc_sub: caller.sub(),
            group: Some(request.group),
            labels: request.labels.clone(),
            github_id: None,
            error: answer["detail"].as_str().map(str::to_owned),
            at: self.inner.clock.now(),
        });
    }

    /// Takes a runner back: GitHub first, then the record.
    pub(super) async fn take_back(&self, caller: &Caller, id: &str) -> Result<Record, Refusal> {
        let record = self.lock().owned(caller, id)?.clone();
        if record.status == Status::Deleted {
            return Err(Refusal::AlreadyDeleted(record.name));
        }
        self.inner
            .upstream
            .remove(record.github_id)
            .await
            .map_err(Refusal::Deprovisioning)?;
        let now = self.inner.clock.now();
        let mut model = self.lock();
        model.records.edit(id, |record| {
            record.status = Status::Deleted;
            record.updated = now;
            record.deleted = Some(now);
        });
        let team = model
            .team(&record.team)
            .map(|team| (team.id.clone(), team.name.clone()));
        let entry = AuditEntry {
            id: model.audit.len() as u64 + 1,
            event: "deprovision",
            runner: Some((record.id.clone(), record.name.clone())),
            team,
            identity: caller.identity(),
            oidc_sub: caller.sub(),
            group: None,
            labels: Vec::new(),
            github_id: Some(record.github_id),
            error: None,
            at: now,
        };
        model.audit.push(entry);
        Ok(record)
    }

    /// Brings one record up to date with GitHub's first hundred runners; GitHub's failures change nothing.
    pub(super) async fn refresh(&self, caller: &Caller, id: &str) -> Result<Record, Refusal> {
        let record = self.lock().owned(caller, id)?.clone();
        let Ok(seen) = self.inner.upstream.look_up(record.github_id).await else {
            return Ok(record);
        };
        let now = self.inner.clock.now();
        let mut model = self.lock();
        let refreshed = model.records.edit(id, |record| {
            match seen {
                Seen::Nowhere if record.status == Status::Pending => return,
                Seen::Nowhere => {
                    record.status = Status::Deleted;
                    record.deleted = Some(now);
                }
                Seen::Online => record.status = Status::Online,
                Seen::Offline => record.status = Status::Offline,
            }
            if seen != Seen::Nowhere {
                record.registered.get_or_insert(now);
            }
            record.updated = now;
        });
        refreshed.cloned().ok_or_else(|| Refusal::RunnerUnknown(id.to_owned()))
    }

    pub(super) fn fault(&self, operation: Operation) -> Option<Fault> {
        self.lock().take_fault(operation)
    }
}

fn fits(name: &str, max: usize) -> bool {
    name.chars().count() <= max && python::is_word(name)
}

fn optional_text(value: Option<&Value>) -> Result<Option<String>, Refusal> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Refusal::Malformed),
    }
}

fn labels(value: Option<&Value>) -> Result<Vec<String>, Refusal> {
    let Some(value) = value else {
        return Ok(Vec::new());
    };
    let mut labels: Vec<String> = Vec::new();
    for label in value.as_array().ok_or(Refusal::Malformed)? {
        let label = label.as_str().ok_or(Refusal::Malformed)?;
        if !labels.iter().any(|known| known == label) {
            labels.push(label.to_owned());
        }
    }
    Ok(labels)
}

/// An integer, or a text that is one.
fn integer(value: Option<&Value>) -> Result<Option<i64>, Refusal> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => number.as_i64().map(Some).ok_or(Refusal::Malformed),
        Some(Value::String(text)) => text.trim().parse().map(Some).map_err(|_| Refusal::Malformed),
        Some(_) => Err(Refusal::Malformed),
    }
}

/// Both fields or neither.
fn scale_set(id: Option<&Value>, name: Option<&Value>) -> Result<Option<ScaleSetRef>, Refusal> {
    match (integer(id)?, optional_text(name)?) {
        (None, None) => Ok(None),
        (Some(id), Some(name)) => Ok(Some(ScaleSetRef { id, name })),
        _ => Err(Refusal::Malformed),
    }
}

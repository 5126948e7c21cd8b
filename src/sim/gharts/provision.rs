//! Granting, looking up and taking back runners: the operations that talk to GitHub.
//!
//! The quota is checked before GitHub is asked and the record is written after it has answered, with nothing
//! held in between: calls in flight overshoot the quota, as those of the real service do.

use serde_json::{Map, Value};

use super::{
    Fault, Gharts, Operation,
    account::Account,
    flavour::Accounts,
    model::{AuditEntry, Caller, Kind, Model, Record, ScaleSetRef, SecurityEvent, Status},
    python,
    refusal::Refusal,
    upstream::{Failure, Listed, Registered},
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
pub(super) enum Name {
    Exact(String),
    Prefix(String),
}

impl Name {
    /// Exactly one of the two fields.
    pub(super) fn read(fields: &Map<String, Value>, longest: usize) -> Result<Self, Refusal> {
        let text = |name: &str| optional_text(fields.get(name));
        match (text("runner_name")?, text("runner_name_prefix")?) {
            (Some(name), None) if fits(&name, longest) => Ok(Self::Exact(name)),
            (None, Some(prefix)) if fits(&prefix, PREFIX_MAX) => Ok(Self::Prefix(prefix)),
            _ => Err(Refusal::Malformed),
        }
    }

    /// The runner's name, if nobody has it.
    pub(super) fn settle(&self, model: &mut Model) -> Result<String, Refusal> {
        match self {
            Self::Exact(name) if model.name_in_use(name) => Err(Refusal::NameTaken(name.clone())),
            Self::Exact(name) => Ok(name.clone()),
            Self::Prefix(prefix) => Ok(format!("{prefix}-{:06x}", model.rng.u32(..1 << 24))),
        }
    }
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
        let name = Name::read(fields, NAME_MAX)?;
        let team = match self.capabilities().accounts {
            Accounts::Teams { by_name: false } => optional_text(fields.get("team_id"))?,
            Accounts::Teams { by_name: true } => optional_text(fields.get("team_name"))?,
            Accounts::Identities => None,
        };
        let labels = labels(fields.get("labels"))?;
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
            group: group(fields.get("runner_group_id"))?,
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
        let (name, account, labels) = match self.admit(caller, &request) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let wanted = Wanted {
                    name: &request.name,
                    labels: &request.labels,
                    group: request.group,
                    team: request.team.as_deref(),
                };
                self.audit_refusal(caller, &wanted, &refusal);
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
        Ok(self.write_down(caller, request, name, &account, labels, registered))
    }

    /// Everything that can be said no to before GitHub is asked: name, team, labels, quota, in that order.
    fn admit(&self, caller: &Caller, request: &JitRequest) -> Result<(String, Account, Vec<String>), Refusal> {
        let capabilities = self.capabilities();
        let mut model = self.lock();
        let name = request.name.settle(&mut model)?;
        let account = model.billed(capabilities, caller, request.team.as_deref())?;
        model.check_labels(capabilities, &account, &request.labels)?;
        model.check_quota(capabilities, &account)?;
        let self_hosted = "self-hosted".to_owned();
        let mut all: Vec<&String> = request.labels.iter().chain([&self_hosted]).collect();
        if capabilities.adds_required_labels {
            all.extend(account.required_labels());
        }
        let labels = python::set_order(model.hash_seed, all);
        Ok((name, account, labels))
    }

    fn write_down(
        &self,
        caller: &Caller,
        request: JitRequest,
        name: String,
        account: &Account,
        labels: Vec<String>,
        registered: Registered,
    ) -> Granted {
        let now = self.inner.clock.now();
        let mut model = self.lock();
        let record = Record {
            id: model.uuid(),
            name,
            status: Status::Pending,
            github_id: Some(registered.id),
            group: registered.group,
            labels: if request.scale_set.is_some() {
                Vec::new()
            } else {
                labels.clone()
            },
            ephemeral: true,
            kind: Kind::Jit,
            provisioned_by: caller.identity(),
            oidc_sub: caller.sub(),
            team: account.team().map(|team| team.id.clone()),
            scale_set: request.scale_set,
            created: now,
            updated: now,
            registered: None,
            deleted: None,
        };
        let id = model.next_audit_id();
        model.audit.push(AuditEntry {
            id,
            event: "provision_jit",
            runner: Some((record.id.clone(), record.name.clone())),
            team: account.team().map(|team| (team.id.clone(), team.name.clone())),
            identity: record.provisioned_by.clone(),
            oidc_sub: record.oidc_sub.clone(),
            group: Some(record.group),
            labels,
            github_id: record.github_id,
            ephemeral: None,
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
    pub(super) fn audit_refusal(&self, caller: &Caller, wanted: &Wanted<'_>, refusal: &Refusal) {
        let (event, severity) = match refusal {
            Refusal::MissingLabels { .. } | Refusal::ForbiddenLabels { .. } => ("label_policy_violation", "medium"),
            Refusal::Quota { .. } => ("quota_exceeded", "low"),
            _ => return,
        };
        let (_, answer) = refusal.answer(self.capabilities().wording);
        let at = self.inner.clock.now();
        let mut model = self.lock();
        let account = model.billed(self.capabilities(), caller, wanted.team).ok();
        let team = account.as_ref().and_then(Account::team);
        let id = model.next_audit_id();
        model.audit.push(AuditEntry {
            id,
            event,
            runner: None,
            team: team.map(|team| (team.id.clone(), team.name.clone())),
            identity: caller.identity(),
            oidc_sub: caller.sub(),
            group: Some(wanted.group),
            labels: wanted.labels.to_vec(),
            github_id: None,
            ephemeral: None,
            error: answer["detail"].as_str().map(str::to_owned),
            at,
        });
        let runner = wanted.name.settle(&mut model).ok();
        model.security.push(SecurityEvent {
            event,
            severity,
            identity: caller.identity(),
            runner,
            action: "rejected".to_owned(),
            at,
        });
    }

    /// Takes a runner back: GitHub first, then the record.
    pub(super) async fn take_back(&self, caller: &Caller, id: &str) -> Result<Record, Refusal> {
        let record = self.lock().owned(caller, id)?.clone();
        if record.status == Status::Deleted {
            return Err(Refusal::AlreadyDeleted(record.name));
        }
        self.remove_at_github(&record).await.map_err(Refusal::Deprovisioning)?;
        let now = self.inner.clock.now();
        let mut model = self.lock();
        model.records.edit(id, |record| record.end(now));
        let team = record.team.as_ref().and_then(|team| model.team(team));
        let team = team.map(|team| (team.id.clone(), team.name.clone()));
        let entry = AuditEntry {
            id: model.next_audit_id(),
            event: "deprovision",
            runner: Some((record.id.clone(), record.name.clone())),
            team,
            identity: caller.identity(),
            oidc_sub: caller.sub(),
            group: None,
            labels: Vec::new(),
            github_id: record.github_id,
            ephemeral: None,
            error: None,
            at: now,
        };
        model.audit.push(entry);
        Ok(record)
    }

    /// A runner that registers itself is looked for by its name, among the first hundred.
    pub(super) async fn remove_at_github(&self, record: &Record) -> Result<(), Failure> {
        let upstream = &self.inner.upstream;
        let id = match record.github_id {
            Some(id) => Some(id),
            None => find(record, &upstream.first_page().await?).map(|listed| listed.id),
        };
        match id {
            Some(id) => upstream.remove(id).await,
            None => Ok(()),
        }
    }

    /// Brings one record up to date with GitHub's first hundred runners; GitHub's failures change nothing.
    pub(super) async fn refresh(&self, caller: &Caller, id: &str) -> Result<Record, Refusal> {
        let record = self.lock().owned(caller, id)?.clone();
        let Ok(page) = self.inner.upstream.first_page().await else {
            return Ok(record);
        };
        let now = self.inner.clock.now();
        let mut model = self.lock();
        let refreshed = model
            .records
            .edit(id, |record| record.seen(find(record, &page).as_ref(), now));
        refreshed.cloned().ok_or_else(|| Refusal::RunnerUnknown(id.to_owned()))
    }

    pub(super) fn fault(&self, operation: Operation) -> Option<Fault> {
        self.lock().take_fault(operation)
    }
}

/// The record's runner in GitHub's list.
pub(super) fn find(record: &Record, page: &[Listed]) -> Option<Listed> {
    let mut found = page.iter();
    let is = |listed: &&Listed| match record.github_id {
        Some(id) => listed.id == id,
        None => listed.name == record.name,
    };
    found.find(is).cloned()
}

impl Record {
    /// What GitHub's list says of it. One that is `pending` and not listed may still come.
    pub(super) fn seen(&mut self, listed: Option<&Listed>, now: jiff::Timestamp) {
        match listed {
            None if self.status == Status::Pending => return,
            None => self.end(now),
            Some(listed) => {
                self.status = if listed.online { Status::Online } else { Status::Offline };
                self.github_id = Some(listed.id);
                self.registered.get_or_insert(now);
            }
        }
        self.updated = now;
    }

    pub(super) fn end(&mut self, now: jiff::Timestamp) {
        self.status = Status::Deleted;
        self.updated = now;
        self.deleted = Some(now);
    }
}

/// What was asked for, as far as an audit says it.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a Name,
    pub(super) labels: &'a [String],
    pub(super) group: i64,
    pub(super) team: Option<&'a str>,
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

/// Without duplicates.
pub(super) fn labels(value: Option<&Value>) -> Result<Vec<String>, Refusal> {
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
    let bad: Vec<String> = labels.iter().filter(|label| !python::is_word(label)).cloned().collect();
    if bad.is_empty() {
        Ok(labels)
    } else {
        Err(Refusal::InvalidLabels(bad))
    }
}

pub(super) fn group(value: Option<&Value>) -> Result<i64, Refusal> {
    Ok(match integer(value)? {
        None | Some(0) => DEFAULT_GROUP,
        Some(group) => group,
    })
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

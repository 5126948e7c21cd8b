//! The older version's way to a runner: a registration token, with which the runner configures itself. Policy,
//! quota and audit are as for a JIT configuration; the record waits for a runner of its name to appear.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::{
    Fault, Gharts,
    flavour::Timestamps,
    model::{AuditEntry, Caller, Kind, Model, Record, Status},
    provision::{self, Name, Wanted},
    refusal::Refusal,
};

const NAME_MAX: usize = 100;
/// How long after the token the runner's labels are compared with those that were asked for.
const LABEL_CHECK: Duration = Duration::from_secs(60);
/// Labels that a runner gives itself.
const SYSTEM_LABELS: [&str; 7] = ["self-hosted", "linux", "windows", "macos", "x64", "arm", "arm64"];

#[derive(Debug)]
pub(super) struct TokenRequest {
    name: Name,
    labels: Vec<String>,
    group: i64,
    ephemeral: bool,
    disable_update: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct TokenAnswer {
    runner_id: String,
    runner_name: String,
    registration_token: String,
    expires_at: String,
    github_url: String,
    runner_group_id: i64,
    ephemeral: bool,
    labels: Vec<String>,
    configuration_command: String,
}

impl TokenRequest {
    pub(super) fn read(body: &Value) -> Result<Self, Refusal> {
        let fields = body.as_object().ok_or(Refusal::Malformed)?;
        let flag = |name: &str, default: bool| match fields.get(name) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or(Refusal::Malformed),
        };
        Ok(Self {
            name: Name::read(fields, NAME_MAX)?,
            labels: provision::labels(fields.get("labels"))?,
            group: provision::group(fields.get("runner_group_id"))?,
            ephemeral: flag("ephemeral", true)?,
            disable_update: flag("disable_update", false)?,
        })
    }
}

impl Gharts {
    pub(super) async fn hand_out_token(
        &self,
        caller: &Caller,
        request: TokenRequest,
        fault: Option<Fault>,
    ) -> Result<TokenAnswer, Refusal> {
        let admitted = {
            let mut model = self.lock();
            self.admit_token(&mut model, caller, &request)
        };
        let name = match admitted {
            Ok(name) => name,
            Err(refusal) => {
                let wanted = Wanted {
                    name: &request.name,
                    labels: &request.labels,
                    group: request.group,
                    team: None,
                };
                self.audit_refusal(caller, &wanted, &refusal);
                return Err(match refusal {
                    Refusal::ForbiddenLabels { .. } => Refusal::Registering(refusal.text()),
                    other => other,
                });
            }
        };
        let token = self.inner.upstream.registration_token().await;
        let token = token.map_err(|failure| Refusal::Registering(failure.plain_text()))?;
        if fault == Some(Fault::Unrecorded) {
            return Err(Refusal::Registering(
                "(sqlite3.OperationalError) database is locked".to_owned(),
            ));
        }
        let (record, command_end) = self.write_down_token(caller, request, name);
        self.check_labels_later(&record);
        let labels = record.labels.join(",");
        let url = self.inner.upstream.config_url().to_owned();
        Ok(TokenAnswer {
            configuration_command: format!(
                "./config.sh --url {url} --token {} --name {} --unattended --labels {labels}{command_end}",
                token.token, record.name
            ),
            runner_id: record.id,
            runner_name: record.name,
            registration_token: token.token,
            expires_at: zoned(&token.expires),
            github_url: url,
            runner_group_id: record.group,
            ephemeral: record.ephemeral,
            labels: record.labels,
        })
    }

    fn admit_token(&self, model: &mut Model, caller: &Caller, request: &TokenRequest) -> Result<String, Refusal> {
        let capabilities = self.capabilities();
        let name = request.name.settle(model)?;
        let account = model.billed(capabilities, caller, None)?;
        model.check_labels(capabilities, &account, &request.labels)?;
        model.check_quota(capabilities, &account)?;
        Ok(name)
    }

    /// The record, and what else the configuration command says.
    fn write_down_token(&self, caller: &Caller, request: TokenRequest, name: String) -> (Record, String) {
        let now = self.inner.clock.now();
        let mut labels = request.labels;
        if !labels.iter().any(|label| label == "self-hosted") {
            labels.push("self-hosted".to_owned());
        }
        let mut model = self.lock();
        let record = Record {
            id: model.uuid(),
            name,
            status: Status::Pending,
            github_id: None,
            group: request.group,
            labels: labels.clone(),
            ephemeral: request.ephemeral,
            kind: Kind::RegistrationToken,
            provisioned_by: caller.identity(),
            oidc_sub: caller.sub(),
            team: None,
            scale_set: None,
            created: now,
            updated: now,
            registered: None,
            deleted: None,
        };
        let id = model.next_audit_id();
        model.audit.push(AuditEntry {
            id,
            event: "provision",
            runner: Some((record.id.clone(), record.name.clone())),
            team: None,
            identity: record.provisioned_by.clone(),
            oidc_sub: record.oidc_sub.clone(),
            group: Some(record.group),
            labels,
            github_id: None,
            ephemeral: Some(record.ephemeral),
            error: None,
            at: now,
        });
        model.records.add(record.clone());
        let mut more = String::new();
        if request.ephemeral {
            more.push_str(" --ephemeral");
        }
        if request.disable_update {
            more.push_str(" --disableupdate");
        }
        (record, more)
    }

    /// A runner that came with other labels than were asked for is taken away, idle or not.
    fn check_labels_later(&self, record: &Record) {
        let (gharts, id) = (self.clone(), record.id.clone());
        let tasks = self.inner.tasks.clone();
        let stop = tasks.token().clone();
        tasks.spawn("gharts label check", async move {
            let waited = stop.run_until_cancelled(tokio::time::sleep(LABEL_CHECK)).await;
            if waited.is_some() {
                gharts.check_labels_now(&id).await;
            }
        });
    }

    async fn check_labels_now(&self, id: &str) {
        let record = self.lock().records.get(id).cloned();
        let Some(record) = record.filter(|record| record.status != Status::Deleted) else {
            return;
        };
        let Ok(page) = self.inner.upstream.first_page().await else {
            return;
        };
        let Some(listed) = provision::find(&record, &page) else {
            return;
        };
        if user_labels(&record.labels) == user_labels(&listed.labels) {
            return;
        }
        let _ = self.inner.upstream.remove(listed.id).await;
        let now = self.inner.clock.now();
        self.lock().records.edit(id, |record| record.end(now));
    }
}

/// All but what a runner gives itself.
fn user_labels(labels: &[String]) -> BTreeSet<&str> {
    let user = |label: &&str| !SYSTEM_LABELS.iter().any(|system| label.eq_ignore_ascii_case(system));
    labels.iter().map(String::as_str).filter(user).collect()
}

/// GitHub's own time, whole seconds and `Z`.
fn zoned(time: &str) -> String {
    time.parse::<Timestamp>()
        .map_or_else(|_| time.to_owned(), |time| Timestamps::Rfc3339.print(time))
}

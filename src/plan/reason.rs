//! Why there are not more runners: one code per limit, for every set at every moment (B15).

use super::Moment;
use crate::provision::Class;

/// Ordered by how hard it cuts: the first one of a set is what an operator must look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    Draining,
    NotLeader,
    SetRemoved,
    NotSynced,
    SetFailed,
    SetNotRegistered,
    SessionOpening,
    SessionConflict,
    SessionFailed,
    BindingUnsupported,
    RunnersDoNotMatchJobs,
    RunnerDeprecated,
    InvalidTemplate,
    Forbidden,
    LabelPolicy,
    NotAuthorized,
    InvalidRequest,
    Configuration,
    Credentials,
    QuotaExceeded,
    ResourceQuota,
    ClusterUnavailable,
    IssuerDown,
    ClockSkew,
    RateLimited,
    Unreachable,
    Stalled,
    UnknownOutcome,
    Upstream,
    NameTaken,
    PodsFailing,
    RunnersLeave,
    MaxRunnersTotal,
    MaxRunners,
    Starting,
    DemandMet,
}

impl Code {
    /// Every one, in their order.
    pub const ALL: [Self; 36] = [
        Self::Draining,
        Self::NotLeader,
        Self::SetRemoved,
        Self::NotSynced,
        Self::SetFailed,
        Self::SetNotRegistered,
        Self::SessionOpening,
        Self::SessionConflict,
        Self::SessionFailed,
        Self::BindingUnsupported,
        Self::RunnersDoNotMatchJobs,
        Self::RunnerDeprecated,
        Self::InvalidTemplate,
        Self::Forbidden,
        Self::LabelPolicy,
        Self::NotAuthorized,
        Self::InvalidRequest,
        Self::Configuration,
        Self::Credentials,
        Self::QuotaExceeded,
        Self::ResourceQuota,
        Self::ClusterUnavailable,
        Self::IssuerDown,
        Self::ClockSkew,
        Self::RateLimited,
        Self::Unreachable,
        Self::Stalled,
        Self::UnknownOutcome,
        Self::Upstream,
        Self::NameTaken,
        Self::PodsFailing,
        Self::RunnersLeave,
        Self::MaxRunnersTotal,
        Self::MaxRunners,
        Self::Starting,
        Self::DemandMet,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::NotLeader => "not_leader",
            Self::SetRemoved => "set_removed",
            Self::NotSynced => "not_synced",
            Self::SetFailed => "set_failed",
            Self::SetNotRegistered => "set_not_registered",
            Self::SessionOpening => "session_opening",
            Self::SessionConflict => "session_conflict",
            Self::SessionFailed => "session_failed",
            Self::BindingUnsupported => "binding_unsupported",
            Self::RunnersDoNotMatchJobs => "runners_do_not_match_jobs",
            Self::RunnerDeprecated => "runner_deprecated",
            Self::InvalidTemplate => "invalid_template",
            Self::Forbidden => "forbidden",
            Self::LabelPolicy => "label_policy",
            Self::NotAuthorized => "not_authorized",
            Self::InvalidRequest => "invalid_request",
            Self::Configuration => "configuration",
            Self::Credentials => "credentials",
            Self::QuotaExceeded => "quota_exceeded",
            Self::ResourceQuota => "resource_quota",
            Self::ClusterUnavailable => "cluster_unavailable",
            Self::IssuerDown => "issuer_down",
            Self::ClockSkew => "clock_skew",
            Self::RateLimited => "rate_limited",
            Self::Unreachable => "unreachable",
            Self::Stalled => "stalled",
            Self::UnknownOutcome => "unknown_outcome",
            Self::Upstream => "upstream",
            Self::NameTaken => "name_taken",
            Self::PodsFailing => "pods_failing",
            Self::RunnersLeave => "runners_leave",
            Self::MaxRunnersTotal => "max_runners_total",
            Self::MaxRunners => "max_runners",
            Self::Starting => "starting",
            Self::DemandMet => "demand_met",
        }
    }

    /// Nothing is wrong: demand is met, being met, or bounded by the operator's own figures.
    pub fn is_normal(self) -> bool {
        matches!(
            self,
            Self::MaxRunners
                | Self::MaxRunnersTotal
                | Self::Starting
                | Self::DemandMet
                | Self::Draining
                | Self::NotLeader
                | Self::SetRemoved
        )
    }

    /// Somebody's places are used up: one that becomes free lets the next one through.
    pub fn is_scarcity(self) -> bool {
        matches!(self, Self::QuotaExceeded | Self::ResourceQuota)
    }

    /// Part of every start, over in seconds: worth a line, no worry.
    pub fn is_passing(self) -> bool {
        matches!(self, Self::NotSynced | Self::SetNotRegistered | Self::SessionOpening)
    }

    /// What mends it, where that can be said in general.
    pub fn remedy(self) -> Option<&'static str> {
        Some(match self {
            Self::SessionConflict => {
                "another listener holds this scale set's session; stop it, or give one of the two another name. A dead one's session frees itself in 60 to 92 s"
            }
            Self::BindingUnsupported => {
                "give the GHARTS the set-aware extension (docs/gharts-extension.md), or choose another way for this set: `provisioner: scaleSet`, `runnerBinding: registrationToken` (the older GHARTS), or `runnerBinding: labels` (experimental)"
            }
            Self::RunnersDoNotMatchJobs => {
                "GitHub does not give this set's jobs to these runners: use `runnerBinding: scaleSet` or `registrationToken`, or `labels` with `labelsDemand: available`; with any other, look at the runner group's repositories and at the set's labels"
            }
            Self::RunnerDeprecated => "use a newer runner image in the set's template",
            Self::InvalidTemplate => "mend the set's `template`; `check` tries it against the API server",
            Self::Forbidden => {
                "give the daemon's service account a Role in the runner namespace: pods get, list, watch, create, patch, delete; secrets create; events create; namespaces get. `check` names what is missing"
            }
            Self::LabelPolicy => {
                "change the set's labels (or `gharts.labels`), or ask a GHARTS administrator for the team's label policy"
            }
            Self::NotAuthorized => {
                "ask a GHARTS administrator to register (or reactivate) this identity, to enable JIT for it, and to make it a member of the team, or to reactivate that"
            }
            Self::InvalidRequest => {
                "labels may hold letters, digits, `-` and `_` only at this server; see `gharts.labels`"
            }
            Self::Configuration => "check base URL, team, runner group and scale set in the configuration",
            Self::Credentials => {
                "check audience, issuer and account of the token, and that the server trusts its issuer"
            }
            Self::QuotaExceeded => "wait for a place, or ask a GHARTS administrator for a higher `max_runners`",
            Self::ResourceQuota => "raise the namespace's ResourceQuota, or lower the set's `maxRunners`",
            Self::SetFailed => {
                "a fault of this program, met by trying again, later and later: please report it with the log's lines about it"
            }
            Self::IssuerDown => {
                "see that GHARTS reaches the key set (JWKS) of the token's issuer, and that this daemon reaches the issuer"
            }
            Self::RateLimited => "lower `limits` of the service that said so, or ask its administrator to permit more",
            Self::Unreachable => {
                "check the address in the configuration, DNS, proxy, network policies and certificates between here and the service"
            }
            Self::Stalled => {
                "look whether the service answers at all: a GHARTS with too many calls at once (16 on SQLite, 31 on PostgreSQL) stands still for minutes, and each further call prolongs it; so it is asked ever more rarely, at most every 5 minutes. Where that lasts, restart it, and find out who else calls it"
            }
            Self::UnknownOutcome | Self::Upstream => {
                "look at the service's own log, at what stands between, and at GitHub's status; it is tried again, and what a lost answer may have made is removed by its name"
            }
            Self::NameTaken => {
                "nothing to do once: another name is tried. When it lasts, look for something else that registers runners under this installation's names"
            }
            Self::ClusterUnavailable => "look at the API server; creation goes on when it answers again",
            Self::ClockSkew => "synchronise the clocks of this machine, the token's issuer and the server",
            Self::MaxRunners => "raise the set's `maxRunners`",
            Self::MaxRunnersTotal => "raise the top-level `maxRunners`",
            Self::PodsFailing => "look at the reason of the last failed runner, and at the template, image and cluster",
            Self::RunnersLeave => {
                "exit code 0 means that a runner has had its job, and these had none: look whether the image's command runs the runner (`run.sh`), with its JIT configuration, until it has had a job"
            }
            _ => return None,
        })
    }
}

impl From<Class> for Code {
    fn from(class: Class) -> Self {
        match class {
            Class::Quota => Self::QuotaExceeded,
            Class::NameTaken => Self::NameTaken,
            Class::LabelPolicy => Self::LabelPolicy,
            Class::NotAuthorized => Self::NotAuthorized,
            Class::InvalidRequest => Self::InvalidRequest,
            Class::Configuration => Self::Configuration,
            Class::BindingUnsupported => Self::BindingUnsupported,
            Class::Credentials => Self::Credentials,
            Class::ClockSkew => Self::ClockSkew,
            Class::IssuerDown => Self::IssuerDown,
            Class::RateLimited => Self::RateLimited,
            Class::Upstream => Self::Upstream,
            Class::UnknownOutcome => Self::UnknownOutcome,
            Class::Stalled => Self::Stalled,
            Class::Unreachable => Self::Unreachable,
        }
    }
}

/// One limit at work on one set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub code: Code,
    /// One sentence; holds the peer's own words where a peer refused.
    pub message: String,
    /// No try before, where that is known.
    pub until: Option<Moment>,
    /// What mends it, where more can be said than the code can.
    pub remedy: Option<&'static str>,
}

impl Reason {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            until: None,
            remedy: None,
        }
    }

    /// What mends it.
    pub fn remedy(&self) -> Option<&'static str> {
        self.remedy.or(self.code.remedy())
    }
}

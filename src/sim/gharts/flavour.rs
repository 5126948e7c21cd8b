//! Which GHARTS is simulated: one row of capabilities for each version of the service.
//!
//! Everything that differs between versions stands in this table or in the wording that it names
//! ([`super::refusal`]); the model and the router ask the table and never the flavour.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

/// A version of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Flavour {
    /// The team-based version exactly as recorded, with the scale-set extension on top.
    SetAware,
    /// The team-based version exactly as recorded.
    Team,
    /// The older version as recorded: policy and quota hang on a user's identity, and it hands out registration
    /// tokens too.
    User,
    /// The contract that the seed design draws: error codes, `team_name`, no knowledge of scale sets.
    Seed,
}

/// Who says no, and in whose words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wording {
    /// Two shapes, English texts, no codes: the recorded versions.
    Recorded,
    /// Codes beside the texts.
    Seed,
}

/// How times are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timestamps {
    /// UTC without a zone, microseconds, no fraction when it is zero (Python's `isoformat`).
    Naive,
    Rfc3339,
}

/// What has a policy and a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accounts {
    /// A team. `by_name`: the request says `team_name`; else `team_id`, a UUID, and a name does not work.
    Teams { by_name: bool },
    /// The identity that stands in the token. There are no teams.
    Identities,
}

/// What keeps the records in step with GitHub.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sync {
    pub(super) every: Duration,
    /// It runs on SQLite too; otherwise only on PostgreSQL.
    pub(super) on_sqlite: bool,
    /// A busy runner whose labels are others than those stored is marked deleted; otherwise it is left alone.
    pub(super) marks_busy_drift: bool,
    /// How long a runner that GitHub does not list stays `pending`.
    pub(super) pending_life: SignedDuration,
}

/// Connections to the database; every call in flight holds one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pool {
    pub(super) sqlite: u32,
    pub(super) postgres: u32,
}

#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a table of what a version does and does not"
)]
pub(super) struct Capabilities {
    pub(super) wording: Wording,
    pub(super) timestamps: Timestamps,
    pub(super) accounts: Accounts,
    /// The server adds a team's required labels by itself; otherwise the client must send them.
    pub(super) adds_required_labels: bool,
    /// Whether a runner that is online takes a place of the quota.
    pub(super) quota_counts_online: bool,
    /// `gty: client-credentials` marks a machine with a team of its own; otherwise such a token is a user's.
    pub(super) machine_clients: bool,
    /// The extension: runners registered with a scale set.
    pub(super) scale_sets: bool,
    /// The older surface: `/runners/provision`, `/auth/my-label-policy`, the dashboard's figures for everybody,
    /// audit trails, and HS256 tokens that anybody can make.
    pub(super) older_surface: bool,
    /// Largest `limit` of a list.
    pub(super) max_page: usize,
    pub(super) metrics: bool,
    /// How often the JWKS is fetched before a call is given up.
    pub(super) jwks_attempts: u32,
    pub(super) sync: Option<Sync>,
    pub(super) pool: Option<Pool>,
}

const TEAM: Capabilities = Capabilities {
    wording: Wording::Recorded,
    timestamps: Timestamps::Naive,
    accounts: Accounts::Teams { by_name: false },
    adds_required_labels: false,
    quota_counts_online: false,
    machine_clients: true,
    scale_sets: false,
    older_surface: false,
    max_page: 1000,
    metrics: true,
    jwks_attempts: 1,
    sync: Some(Sync {
        // What the chart sets; the program's own default is 120 s.
        every: Duration::from_secs(300),
        on_sqlite: false,
        marks_busy_drift: false,
        pending_life: SignedDuration::from_hours(1),
    }),
    pool: Some(Pool {
        sqlite: 15,
        postgres: 30,
    }),
};

const SET_AWARE: Capabilities = Capabilities {
    scale_sets: true,
    ..TEAM
};

const USER: Capabilities = Capabilities {
    accounts: Accounts::Identities,
    machine_clients: false,
    older_surface: true,
    max_page: 200,
    metrics: false,
    jwks_attempts: 2,
    sync: Some(Sync {
        every: Duration::from_secs(120),
        on_sqlite: true,
        marks_busy_drift: true,
        pending_life: SignedDuration::from_hours(24),
    }),
    pool: Some(Pool {
        sqlite: 15,
        postgres: 15,
    }),
    ..TEAM
};

/// Drawn, not recorded: nobody knows how it would be run.
const SEED: Capabilities = Capabilities {
    wording: Wording::Seed,
    timestamps: Timestamps::Rfc3339,
    accounts: Accounts::Teams { by_name: true },
    adds_required_labels: true,
    quota_counts_online: true,
    sync: None,
    pool: None,
    ..TEAM
};

impl Flavour {
    pub const ALL: [Self; 4] = [Self::SetAware, Self::Team, Self::User, Self::Seed];

    /// As command lines and reports write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SetAware => "set-aware",
            Self::Team => "team",
            Self::User => "user",
            Self::Seed => "seed",
        }
    }

    /// Whether teams have policies and quotas there, and not users.
    pub fn has_teams(self) -> bool {
        matches!(self.capabilities().accounts, Accounts::Teams { .. })
    }

    pub(super) fn capabilities(self) -> &'static Capabilities {
        match self {
            Self::SetAware => &SET_AWARE,
            Self::Team => &TEAM,
            Self::User => &USER,
            Self::Seed => &SEED,
        }
    }
}

impl Timestamps {
    pub(super) fn print(self, time: Timestamp) -> String {
        match self {
            Self::Naive => naive(time),
            Self::Rfc3339 => naive(time) + "Z",
        }
    }
}

fn naive(time: Timestamp) -> String {
    let time = time.to_zoned(TimeZone::UTC);
    let micros = time.subsec_nanosecond() / 1000;
    let seconds = time.strftime("%Y-%m-%dT%H:%M:%S");
    if micros == 0 {
        seconds.to_string()
    } else {
        format!("{seconds}.{micros:06}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_python_prints_them() {
        let time: Timestamp = "2026-11-23T04:23:44.075692Z".parse().unwrap();
        assert_eq!(Timestamps::Naive.print(time), "2026-11-23T04:23:44.075692");
        let whole: Timestamp = "2026-11-23T04:23:44Z".parse().unwrap();
        assert_eq!(Timestamps::Naive.print(whole), "2026-11-23T04:23:44");
        assert_eq!(Timestamps::Rfc3339.print(time), "2026-11-23T04:23:44.075692Z");
    }
}

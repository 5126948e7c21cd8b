//! Which GHARTS is simulated: one row of capabilities for each version of the service.
//!
//! Everything that differs between versions stands in this table or in the wording that it names
//! ([`super::refusal`]); the model and the router ask the table and never the flavour.

use jiff::{Timestamp, tz::TimeZone};

/// A version of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// The team-based version exactly as recorded, with the scale-set extension on top.
    SetAware,
    /// The contract that the seed design draws: error codes, `team_name`, no knowledge of scale sets.
    Seed,
}

/// Who says no, and in whose words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wording {
    /// Two shapes, English texts, no codes: the recorded team-based version.
    RecordedTeam,
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

/// The request field that chooses a team.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TeamField {
    /// `team_id`, a UUID; a name does not work.
    Id,
    /// `team_name`.
    Name,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Capabilities {
    pub(super) wording: Wording,
    pub(super) timestamps: Timestamps,
    pub(super) team_field: TeamField,
    /// The server adds a team's required labels by itself; otherwise the client must send them.
    pub(super) adds_required_labels: bool,
    /// Whether a runner that is online takes a place of the quota.
    pub(super) quota_counts_online: bool,
    /// The extension: runners registered with a scale set.
    pub(super) scale_sets: bool,
    /// Largest `limit` of a list.
    pub(super) max_page: usize,
    pub(super) metrics: bool,
}

impl Flavour {
    pub(super) fn capabilities(self) -> &'static Capabilities {
        match self {
            Self::SetAware => &Capabilities {
                wording: Wording::RecordedTeam,
                timestamps: Timestamps::Naive,
                team_field: TeamField::Id,
                adds_required_labels: false,
                quota_counts_online: false,
                scale_sets: true,
                max_page: 1000,
                metrics: true,
            },
            Self::Seed => &Capabilities {
                wording: Wording::Seed,
                timestamps: Timestamps::Rfc3339,
                team_field: TeamField::Name,
                adds_required_labels: true,
                quota_counts_online: true,
                scale_sets: false,
                max_page: 1000,
                metrics: true,
            },
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

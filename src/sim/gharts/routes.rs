//! Paths: which there are in which version, which methods they take.

use http::Method;

use super::{
    Operation,
    flavour::{Accounts, Capabilities},
};

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Root,
    Health,
    OpenApi,
    Metrics,
    Me,
    Jit,
    /// The older version's registration token.
    Provision,
    Runners,
    Runner(String),
    Refresh(String),
    Teams,
    Team(String),
    Members(String),
    TeamAudit(String),
    UserTeams(String),
    Audit,
    AdminStats,
    MyPolicy,
    Dashboard,
    SyncStatus,
    SyncTrigger,
}

impl Route {
    /// `POST /runners/jit` goes before `/runners/{id}`; any other method takes `jit` for an id.
    pub(super) fn of(capabilities: &Capabilities, method: &Method, path: &str) -> Option<Self> {
        let decoded = percent_decoded(path);
        let segments: Vec<&str> = decoded.split('/').skip(1).collect();
        Some(match *segments.as_slice() {
            [""] => Self::Root,
            ["health"] => Self::Health,
            ["openapi.json"] => Self::OpenApi,
            ["metrics"] if capabilities.metrics => Self::Metrics,
            ["api", "v1", ref rest @ ..] => Self::api(capabilities, method, rest)?,
            _ => return None,
        })
    }

    fn api(capabilities: &Capabilities, method: &Method, segments: &[&str]) -> Option<Self> {
        let (older, teams) = (
            capabilities.older_surface,
            matches!(capabilities.accounts, Accounts::Teams { .. }),
        );
        Some(match *segments {
            ["auth", "me"] => Self::Me,
            ["audit-logs"] => Self::Audit,
            ["runners"] => Self::Runners,
            ["runners", "jit"] if *method == Method::POST => Self::Jit,
            ["runners", "provision"] if older && *method == Method::POST => Self::Provision,
            ["auth", "my-label-policy"] if older => Self::MyPolicy,
            ["dashboard", "stats"] if older => Self::Dashboard,
            ["admin", "sync", "status"] if older => Self::SyncStatus,
            ["admin", "sync", "trigger"] if older => Self::SyncTrigger,
            ["runners", id] if !id.is_empty() => Self::Runner(id.to_owned()),
            ["runners", id, "refresh"] => Self::Refresh(id.to_owned()),
            ["admin", "stats"] => Self::AdminStats,
            ["admin", "teams"] if teams => Self::Teams,
            ["admin", "teams", "users", id, "teams"] if teams => Self::UserTeams(id.to_owned()),
            ["admin", "teams", id] if teams && !id.is_empty() => Self::Team(id.to_owned()),
            ["admin", "teams", id, "members"] if teams => Self::Members(id.to_owned()),
            ["admin", "teams", id, "audit-logs"] if teams => Self::TeamAudit(id.to_owned()),
            _ => return None,
        })
    }

    pub(super) fn takes(&self, method: &Method) -> bool {
        match self {
            Self::Jit | Self::Provision | Self::Refresh(_) | Self::SyncTrigger => *method == Method::POST,
            Self::Runner(_) => *method == Method::GET || *method == Method::DELETE,
            Self::Teams => *method == Method::GET || *method == Method::POST,
            _ => *method == Method::GET,
        }
    }

    pub(super) fn operation(&self, method: &Method) -> Operation {
        match self {
            Self::Jit => Operation::Jit,
            Self::Provision => Operation::Token,
            Self::Runners => Operation::List,
            Self::Runner(_) if *method == Method::DELETE => Operation::Delete,
            Self::Runner(_) => Operation::Get,
            Self::Refresh(_) => Operation::Refresh,
            Self::Me => Operation::Me,
            _ => Operation::Other,
        }
    }
}

fn percent_decoded(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| path.get(at + 1..at + 3)).flatten();
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            out.push(byte);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

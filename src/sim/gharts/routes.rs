//! Paths: which there are, which methods they take.

use http::Method;

use super::Operation;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Root,
    Health,
    OpenApi,
    Metrics,
    Me,
    Jit,
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
}

/// What `/openapi.json` lists beside the JIT call.
pub(super) const DESCRIBED: &[(&str, &[&str])] = &[
    ("/", &["get"]),
    ("/health", &["get"]),
    ("/api/v1/runners", &["get"]),
    ("/api/v1/runners/{runner_id}", &["get", "delete"]),
    ("/api/v1/runners/{runner_id}/refresh", &["post"]),
    ("/api/v1/auth/me", &["get"]),
    ("/api/v1/audit-logs", &["get"]),
    ("/api/v1/admin/stats", &["get"]),
    ("/api/v1/admin/teams", &["get", "post"]),
    ("/api/v1/admin/teams/{team_id}", &["get"]),
    ("/api/v1/admin/teams/{team_id}/members", &["get"]),
    ("/api/v1/admin/teams/{team_id}/audit-logs", &["get"]),
    ("/api/v1/admin/teams/users/{user_id}/teams", &["get"]),
];

impl Route {
    /// `POST /runners/jit` goes before `/runners/{id}`; any other method takes `jit` for an id.
    pub(super) fn of(method: &Method, path: &str) -> Option<Self> {
        let decoded = percent_decoded(path);
        let segments: Vec<&str> = decoded.split('/').skip(1).collect();
        Some(match *segments.as_slice() {
            [""] => Self::Root,
            ["health"] => Self::Health,
            ["openapi.json"] => Self::OpenApi,
            ["metrics"] => Self::Metrics,
            ["api", "v1", ref rest @ ..] => Self::api(method, rest)?,
            _ => return None,
        })
    }

    fn api(method: &Method, segments: &[&str]) -> Option<Self> {
        Some(match *segments {
            ["auth", "me"] => Self::Me,
            ["audit-logs"] => Self::Audit,
            ["runners"] => Self::Runners,
            ["runners", "jit"] if *method == Method::POST => Self::Jit,
            ["runners", id] if !id.is_empty() => Self::Runner(id.to_owned()),
            ["runners", id, "refresh"] => Self::Refresh(id.to_owned()),
            ["admin", "stats"] => Self::AdminStats,
            ["admin", "teams"] => Self::Teams,
            ["admin", "teams", "users", id, "teams"] => Self::UserTeams(id.to_owned()),
            ["admin", "teams", id] if !id.is_empty() => Self::Team(id.to_owned()),
            ["admin", "teams", id, "members"] => Self::Members(id.to_owned()),
            ["admin", "teams", id, "audit-logs"] => Self::TeamAudit(id.to_owned()),
            _ => return None,
        })
    }

    pub(super) fn takes(&self, method: &Method) -> bool {
        match self {
            Self::Jit | Self::Refresh(_) => *method == Method::POST,
            Self::Runner(_) => *method == Method::GET || *method == Method::DELETE,
            Self::Teams => *method == Method::GET || *method == Method::POST,
            _ => *method == Method::GET,
        }
    }

    pub(super) fn operation(&self, method: &Method) -> Operation {
        match self {
            Self::Jit => Operation::Jit,
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

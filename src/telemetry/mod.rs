//! What the daemon tells machines: structured logs and metrics. Neither knows who calls it.

pub mod logs;
pub mod metrics;

pub use metrics::Metrics;

/// Which commit this program was built from, as whoever packaged it said in `GHARTS_LISTENER_COMMIT`.
pub const COMMIT: &str = match option_env!("GHARTS_LISTENER_COMMIT") {
    Some(commit) if !commit.is_empty() => commit,
    _ => "unknown",
};

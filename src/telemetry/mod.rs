//! What the daemon tells machines: structured logs and metrics. Neither knows who calls it.

pub mod logs;
pub mod metrics;

pub use metrics::Metrics;

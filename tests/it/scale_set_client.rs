//! The daemon's GitHub half against scripted answers under paused time, and its transport on real sockets.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that meets the unexpected shall fail"
)]

mod credentials;
mod fake;
mod queue;
mod registration;
mod sockets;

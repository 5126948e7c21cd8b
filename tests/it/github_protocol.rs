//! The simulated GitHub against the recorded protocol: raw requests, wire shapes, virtual time.
//!
//! Deliberately without the daemon's own client: two halves that agree by construction prove nothing.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a failure here is a test that failed"
)]

mod access;
mod agents;
mod harness;
mod jobs;
mod mounting;
mod queue;
mod rest;
mod runners;
mod sessions;
mod sets;

//! The simulated GHARTS against the recordings: every recorded row of the team-based version is asked of it
//! and compared; then what was not recorded, the extension and the seed's contract.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod contracts;
mod github;
mod oidc;
mod recorded;
mod replay;
mod sockets;
mod world;

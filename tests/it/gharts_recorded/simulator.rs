//! The simulated GHARTS against the recordings: every recorded row of both versions is asked of it and compared;
//! then what was not recorded, the extension and the seed's contract; how it is run; and all of it in the world.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod composed;
mod contracts;
mod deployment;
mod github;
mod oidc;
mod recorded;
mod registration;
mod replay;
mod sockets;
mod sync;
mod world;

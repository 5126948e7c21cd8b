//! GHARTS, the token service: its wire, what its answers mean, and the client.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`wire`] | what goes over the line, decoded as leniently as the recorded servers demand |
//! | [`classify`] | PURE: (operation, status, content type, body) -> what the answer means |
//! | [`client`] | one call each, with the token's renewal after a 401 and nothing else repeated |
//! | [`broker`] | registration tokens that the older version hands out: access to the queue without a credential |
//!
//! What a verdict leads to is decided above: `provision` turns it into a class, the loop decides on retries.

pub mod broker;
pub mod classify;
pub mod client;
#[cfg(test)]
pub(crate) mod testing;
pub mod wire;

pub use broker::Broker;
pub(crate) use broker::is_same_place;
pub use classify::{Operation, Trouble, Verdict};
pub use client::{Client, Deleted, Failure};

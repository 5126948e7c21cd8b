//! The world outside, faked: GitHub, GHARTS, an OIDC provider, Kubernetes, and the fleet that plays kubelet
//! and runner.
//!
//! Each part is two layers: a plain in-memory model in domain words (assert on it in tests), and a thin axum
//! router over it. In tests everything runs in one process under virtual time through [`network::Network`];
//! `sim` and `demo` serve the same routers on sockets. Nothing outside `sim`, `cli` and tests imports this,
//! and this shares no protocol code with the daemon: two halves that agree by construction prove nothing.

pub mod cable;
pub mod control;
pub mod fleet;
pub mod gharts;
pub mod github;
pub mod hunt;
pub mod keys;
pub mod kubernetes;
pub mod network;
pub mod oidc;
pub mod serve;
pub mod witness;
pub mod world;

//! A simulated Kubernetes API: a plain in-memory model, and a thin router over it.
//!
//! What it says, it says as a real API server does, word for word where callers must tell cases apart: one
//! suite (`tests/it/contract.rs`) runs against both. There is no scheduler and no kubelet (the fleet plays them
//! through the API), no server-side apply and no protobuf. Deletion by owner reference happens at once.
//!
//! | file | what it is |
//! | --- | --- |
//! | `model` | the whole thing, for tests and the fleet: state, clock, switches, counters |
//! | `store` | objects, versions, history |
//! | `operations`, `deletion` | what the verbs do |
//! | `metadata`, `pods`, `kinds`, `quota` | rules of objects |
//! | `decode`, `patch`, `selector`, `quantity` | rules of text |
//! | `access` | who calls, and what they may |
//! | `faults` | troubles on demand |
//! | `onlooker` | who sees every request |
//! | `request`, `router`, `watch`, `discovery` | HTTP |
//! | `serve` | clients in process; TLS, with a CA of its own |

mod access;
mod decode;
mod deletion;
mod discovery;
mod faults;
mod kinds;
mod metadata;
mod model;
mod onlooker;
mod operations;
mod patch;
mod pods;
mod quantity;
mod quota;
mod refusal;
mod request;
mod resource;
mod router;
mod selector;
mod serve;
mod store;
mod watch;

pub use access::User;
pub use faults::{Fault, FaultId, Trouble};
pub use model::{ISSUER, Model, Pace, RequestKind};
pub use onlooker::{Onlooker, Request};
pub use refusal::{Cause, Refusal};
pub use router::router;
pub use serve::{Authority, ServeError, client, kubeconfig, serve_tls};
pub use store::Object;

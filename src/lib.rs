//! gharts-listener gives GitHub Actions self-hosted runners to teams on Kubernetes.
//!
//! One direction of flow:
//!
//! ```text
//!  GitHub queue ----> session --> Demand ----+
//!  Kubernetes watch -----------> Inventory --+--> plan() --> Plan --> executor --> provisioner (GHARTS | scale set)
//!  answers, quotas, timers ----> Limits -----+     pure                      \---> cluster (Pod, Secret)
//!                                   ^                                                  |
//!                                   +---- capacity announced to GitHub <---------------+
//! ```
//!
//! A folder is a layer, and imports go down this list only (a test in `tests/it` checks it):
//!
//! | folder | what it is |
//! | --- | --- |
//! | [`cli`] | one file per command; the only users of `sim` beside tests |
//! | [`app`] | composition root: the only folder that knows every concrete type |
//! | [`control`] | the loop: event -> fold(state) -> plan -> execute; owns all state |
//! | [`lease`] | which of several replicas leads: election (pure), the fence, the Lease's keeper |
//! | [`runner`] | pods: manifest (pure), observe (pure), cluster |
//! | [`plan`] | PURE: the runner's life, want, allocate, plan, one reason per unserved unit |
//! | [`provision`] | the `Provisioner` trait and what stands behind it |
//! | [`gharts`], [`scaleset`] | the two wire protocols, and access to the queue that a GHARTS brokers |
//! | [`admission`] | gates in front of each destination: rate, calls in flight, round robin |
//! | [`identity`] | tokens and who hands them out |
//! | [`http`] | the transport seam, deadlines, rate limits, redaction |
//! | [`server`] | health, metrics, status over HTTP |
//! | [`telemetry`] | logs and metrics |
//! | [`config`] | the file: raw -> schema -> validated |
//! | [`status`], [`ids`], [`clock`], [`shutdown`] | words that every layer shares |

pub mod admission;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod gharts;
pub mod http;
pub mod identity;
pub mod ids;
pub mod lease;
pub mod plan;
pub mod provision;
pub mod runner;
pub mod scaleset;
pub mod server;
pub mod shutdown;
#[cfg(feature = "sim")]
pub mod sim;
pub mod status;
pub mod telemetry;

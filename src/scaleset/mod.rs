//! GitHub's runner scale set service: the wire, one [`Connection`] per credential, sessions and their
//! message queue, and the registration of a scale set.
//!
//! - [`Connection`] holds the chain of credentials (REST token -> registration token -> admin connection)
//!   and serves every scale set of its scope; calls run side by side.
//! - [`Session`] is one scale set's hold on its queue. It is plain data: who polls owns it.
//! - [`ensure`] makes a scale set what the file says it should be. It never deletes.
//!
//! Not here: when to poll, what to do with a message, how often to repeat. [`Error`] has one variant for
//! each thing a caller may have to do, and [`Error::is_transient`] says whether repeating can help.

mod calls;
mod connection;
mod error;
mod groups;
mod message;
mod notes;
mod register;
mod session;
mod wire;

pub use calls::{Jit, Removal};
pub use connection::{Authority, CALL_DEADLINE, Connection};
pub use error::{Details, Error, Missing};
pub use groups::GroupAccess;
pub use message::{Job, JobMessage, JobRunner, Message};
pub use notes::{Note, NoteKind};
pub use register::{Registered, Spec, ensure, label_notes};
pub use session::{Acquired, POLL_DEADLINE, Session};
pub use wire::{Agent, RunnerGroup, ScaleSet, Statistics};

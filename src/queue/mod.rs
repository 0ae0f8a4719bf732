//! The queue actor: batch, handler, the loop and its regimes.
//!
//! ```text
//!  port.receive -> Batch -> Processor (columns) -> Handler (verdicts) -> settle -> port.transmit
//!                                                                     \-> drop, hold, hand over
//! ```
//!
//! [`Worker`] is one queue's work without threads or waiting; the actor turns it on its core.

mod actor;
mod batch;
mod counters;
mod handler;
mod harness;
mod held;
mod messages;
mod outgoing;
mod peers;
mod realtime;
mod reframe;
mod snapshot;
mod way;
mod worker;

pub use actor::{ActorSpec, HandlerFactory, run};
pub(crate) use batch::lanes;
pub use batch::{Batch, Verdict};
pub use counters::{BatchSizes, QueueCounters, TurnTimes};
#[cfg(test)]
pub(crate) use handler::Requests;
pub use handler::{Context, Handler, QueueInfo, Replaced, SessionInfo};
pub use harness::{Harness, HarnessError, Outcome};
pub use messages::{Command, Exit, Report};
pub use peers::{Parcel, Peers};
pub use snapshot::{PortSnapshot, QueueSnapshot};
pub use way::Way;
#[doc(hidden)]
pub use worker::Fault;
pub use worker::{Parts, Turn, Worker};

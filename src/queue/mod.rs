//! Contains the queue actor: batch, handler, the loop and its regimes.
//!
//! ```text
//!  port.receive -> Batch -> Processor (columns) -> Handler (verdicts) -> apply_verdicts -> port.transmit
//!                                                                     \-> drop, hold, hand over
//! ```
//!
//! | part | owns | driven by |
//! |---|---|---|
//! | [`Datapath`] | one queue's packets: ports, memory, handler, tables | the actor |
//! | `Actor` | work between turns: commands, port changes, accounting, state reports | [`run`], or the simulator |
//! | [`run`] | a core's time: clock, spinning, sleeping | an executor |

mod actor;
mod batch;
mod counters;
mod datapath;
mod egress;
mod handler;
mod harness;
mod held;
mod messages;
mod peers;
mod pinning;
mod realtime;
mod reframe;
mod run;
mod snapshot;
mod tx_backlog;

/// Exported for the simulator, which calls an actor turn by turn.
#[doc(hidden)]
pub use actor::Actor;
pub use actor::{ActorSpec, HandlerFactory};
pub use batch::{Batch, HoldKey, Verdict};
pub use counters::{BatchSizes, QueueCounters, TurnTimes};
#[doc(hidden)]
pub use datapath::DatapathFault;
pub use datapath::{Datapath, DatapathParts, TurnResult};
pub use egress::Egress;
/// Exported with [`Batch::new`] and [`Context::new`] for callers that use a handler without a [`Datapath`].
#[doc(hidden)]
pub use handler::NextHopRequests;
pub use handler::{Context, Handler, QueueInfo, Replaced, SessionInfo};
pub use harness::{HandlerOutcome, Harness, HarnessError};
pub use messages::{ActorCommand, PortRequests, QueueExit, Report};
pub use peers::{Handover, QueuePeers};
pub use run::{run, run_on};
pub use snapshot::{PortSnapshot, QueueSnapshot};

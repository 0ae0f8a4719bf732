//! The queue actor: batch, handler, the loop and its regimes.
//!
//! ```text
//!  port.receive -> Batch -> Processor (columns) -> Handler (verdicts) -> settle -> port.transmit
//!                                                                     \-> drop, hold, hand over
//! ```

mod batch;
mod handler;

pub use batch::{Batch, Verdict};
pub use handler::{Context, Handler, QueueInfo};

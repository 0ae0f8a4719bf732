//! What is counted, and under which name.

mod drops;
mod histogram;

pub use drops::{DropCounters, DropReason};
pub use histogram::Histogram;

//! What is counted, and under which name.

mod drops;

pub use drops::{DropCounters, DropReason};

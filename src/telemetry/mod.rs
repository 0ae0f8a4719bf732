//! Counters, drop reasons and the metric registry.
//!
//! | file | holds |
//! |---|---|
//! | `drops` | drop reasons; the complete list |
//! | `histogram` | distributions as counts by powers of two |
//! | [`metrics`] | the one registry of metrics |
//! | `exposition` | Prometheus text, written by the registry |
//! | [`documents`] | reference page and dashboard, generated from the registry |

pub mod documents;
mod drops;
mod exposition;
mod histogram;
pub mod metrics;

pub use drops::{DropCounters, DropReason};
pub use exposition::Exposition;
pub use histogram::{Histogram, quantile};

//! Contains counters, drop reasons and the metric registry.
//!
//! | file | contents |
//! |---|---|
//! | `drops` | the complete list of drop reasons |
//! | `histogram` | distributions as counts by powers of two |
//! | [`metrics`] | the registry of metrics |
//! | `exposition` | Prometheus text, written with the registry |
//! | [`documents`] | reference page and dashboard, generated from the registry |

pub mod documents;
mod drops;
mod exposition;
mod histogram;
pub mod metrics;

pub use drops::{DropCounters, DropReason};
pub use exposition::Exposition;
pub use histogram::{Histogram, quantile};

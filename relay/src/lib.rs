//! Implements the UDP relay: entries, sessions, address translation, and the policy for upstream addresses.
//!
//! ```text
//!  client c:p  ->  listen address   ==[ session of (c:p, entry) ]==>  source:port  ->  upstream
//!  client c:p  <-  listen address   <==[ session by source port ]===  source:port  <-  upstream
//! ```
//!
//! [`RelayPlan`] is made once from the configuration. [`UdpRelay`] is the handler of one queue; only it uses that
//! queue's sessions. A session belongs to the queue where its client arrives and has a source port that this queue
//! owns, so every queue can find the home queue of an answer.
#![forbid(unsafe_code)]

pub mod config;
mod counters;
mod flow_owners;
pub mod gate;
mod health;
mod limit;
mod plan;
pub mod policy;
mod port_space;
mod session;
mod source_ports;
mod sources;
#[cfg(test)]
mod tests;
mod udp;

pub use counters::RelayCounters;
pub use limit::{Bucket, Limit, PrefixLimiter, Prefixes, Rate};
pub use plan::{Entry, PlanError, RelayPlan, TakenOver};
#[doc(hidden)] // for the reference relay
pub use port_space::PortSpace;
pub use session::table_bytes;
pub use sources::UsedSources;
pub use udp::UdpRelay;

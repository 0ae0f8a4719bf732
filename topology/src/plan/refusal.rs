//! Explains why there is no plan.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Holds all reasons why there is no plan, each with its remedy. It is never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// Reasons, in the order found.
    pub reasons: Vec<Reason>,
}

/// Holds one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// Rule that refuses.
    pub code: ReasonCode,
    /// Subject of the reason: `eth0`, `queue 3`, `cpu 9`.
    pub subject: String,
    /// Observed and wanted value.
    pub text: String,
    /// Remedy, as a command if possible.
    pub remedy: String,
}

/// Lists the kinds of reasons. They are stable; the JSON form is the kebab-case name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ReasonCode {
    /// The snapshot contradicts itself.
    Snapshot,
    /// The request names no interface.
    NoInterface,
    /// An interface is not in the snapshot.
    InterfaceAbsent,
    /// The request names an interface twice.
    InterfaceTwice,
    /// The number of queues is unknown, and none was listed.
    QueuesUnknown,
    /// An interface has no queue.
    NoQueue,
    /// The request names a queue that an interface does not have.
    QueueAbsent,
    /// An interface does not carry Ethernet frames.
    NotEthernet,
    /// A queue can receive but not send.
    NoTransmitQueue,
    /// The request needs more queues than a plan supports.
    TooManyQueues,
    /// The driver needs spare queues for XDP.
    SpareQueues,
    /// The process may use no CPU.
    NoCpu,
    /// A CPU of the user's list cannot be used.
    CpuUnusable,
    /// A node of the user's choice cannot be used.
    NodeUnusable,
    /// A size is invalid.
    BadSize,
    /// The largest packet does not fit a frame.
    Mtu,
    /// Packet memory exceeds the memory of the machine.
    Memory,
    /// Packet memory exceeds the memlock limit.
    Memlock,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no plan:")?;
        for Reason { subject, text, remedy, .. } in &self.reasons {
            write!(f, "\n  {subject}: {text}\n      remedy: {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

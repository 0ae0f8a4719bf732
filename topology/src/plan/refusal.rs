//! No plan, and why.

use std::fmt;

use serde::{Deserialize, Serialize};

/// All reasons why there is no plan, each with its mend. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// The reasons, in the order found.
    pub reasons: Vec<Reason>,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// Which rule refuses.
    pub code: ReasonCode,
    /// What it is about: `eth0`, `queue 3`, `cpu 9`.
    pub subject: String,
    /// What was observed and what is wanted.
    pub text: String,
    /// What to do, a command where there is one.
    pub remedy: String,
}

/// Kinds of refusals. Stable: the JSON form is the kebab-case name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ReasonCode {
    /// The snapshot contradicts itself.
    Snapshot,
    /// No interface was asked for.
    NoInterface,
    /// An interface is not in the snapshot.
    InterfaceAbsent,
    /// An interface was asked for twice.
    InterfaceTwice,
    /// The number of queues is unknown, and none was listed.
    QueuesUnknown,
    /// An interface has no queue.
    NoQueue,
    /// A queue was asked for that no interface has.
    QueueAbsent,
    /// An interface does not carry Ethernet frames.
    NotEthernet,
    /// A queue can receive and not send.
    NoTransmitQueue,
    /// More queues than any plan handles.
    TooManyQueues,
    /// The driver needs spare queues for XDP.
    SpareQueues,
    /// No CPU may be used.
    NoCpu,
    /// A CPU of the user's list cannot be used.
    CpuUnusable,
    /// A node of the user's choice cannot be used.
    NodeUnusable,
    /// A size makes no sense.
    BadSize,
    /// The largest packet does not fit a frame.
    Mtu,
    /// Packet memory exceeds the memory there is.
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

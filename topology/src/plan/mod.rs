//! Holds the plan: CPU and memory of each actor, with reasons.
//!
//! This module owns the result types, and [`plan`], the only way to create one. Modules: `queues` (queues and ports),
//! `rules` (drivers), `place` (cores), `cpu_contention` (warnings) and `memory` (pages and limits).

mod cpu_contention;
mod memory;
mod place;
mod planner;
mod queues;
mod refusal;
mod rules;

pub(crate) use memory::WIDEN_MEMS;
pub use planner::plan;
pub(crate) use queues::not_ethernet;
pub use refusal::{Reason, ReasonCode, Refusal};
pub(crate) use rules::{with_program, zero_copy};

use serde::{Deserialize, Serialize};

/// Version of the plan's JSON form.
pub const PLAN_SCHEMA: u32 = 2;

/// Holds the placement of every actor. The engine starts from this and from nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Version of the form, [`PLAN_SCHEMA`].
    pub schema: u32,
    /// Actors, by ascending queue number.
    pub actors: Vec<ActorPlan>,
    /// CPUs for the supervisor, the async threads and the kernel's own work. Never empty.
    pub housekeeping: Vec<u32>,
    /// Decisions with their reasons, in the order of planning.
    pub decisions: Vec<Decision>,
    /// Warnings: facts that allow a start but are not optimal, each with its remedy.
    pub warnings: Vec<Warning>,
}

/// Holds the plan of one actor: one queue number of every interface, one CPU, one packet memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActorPlan {
    /// Number of the queue that it serves.
    pub queue: u32,
    /// Its queue on each interface, in the order of the request.
    pub ports: Vec<PortPlan>,
    /// CPU that it is pinned to.
    pub cpu: u32,
    /// Whether another actor is pinned to the same CPU; then neither may busy-poll without limit.
    pub shares_cpu: bool,
    /// NUMA node of its packet memory; `None` if the machine has no known nodes.
    pub numa_node: Option<u32>,
    /// Size of its packet memory in bytes.
    pub umem_bytes: u64,
    /// Kind of its pages.
    pub page: Page,
}

/// Holds one queue of one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortPlan {
    /// Name of the interface.
    pub interface: String,
    /// Index of the interface when the snapshot was taken; `None` on a described machine.
    pub ifindex: Option<u32>,
    /// Number of the queue, equal for all ports of an actor.
    pub queue: u32,
    /// NUMA node of the device.
    pub numa_node: Option<u32>,
    /// Whether the configuration value `auto` tries zero-copy here.
    pub zero_copy: ZeroCopy,
}

/// Rates zero-copy on a port, from the driver's reported features and from known problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ZeroCopy {
    /// The driver supports it, and no problem is known.
    Good,
    /// The driver may support it, but memory corruption, panics or stalls are known. It is used only if the operator
    /// requires it.
    Avoid,
    /// The driver does not support it.
    Absent,
    /// Nothing is known. It is used only if the operator requires it.
    Unknown,
}

/// Names a kind of memory pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Page {
    /// Pages of 2 MiB.
    Huge,
    /// Base pages of the machine.
    Base,
}

/// Holds one decision of the planner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Rule that decided.
    pub code: DecisionCode,
    /// Subject of the decision: `queue 3`, `eth0`, `cpu 0`.
    pub subject: String,
    /// Decision and its reason.
    pub text: String,
}

/// Lists the planner's rules. They are stable; the JSON form is the kebab-case name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DecisionCode {
    /// All receive queues are served.
    QueuesAll,
    /// The queues that every interface has are served; this interface has more.
    QueuesCommon,
    /// The configured queues are served.
    QueuesListed,
    /// This core is reserved for the supervisor and the kernel.
    HousekeepingCore,
    /// The only thread of the machine is used for everything.
    HousekeepingShared,
    /// The actor has a physical core for itself on the NIC's node.
    CoreOnNicNode,
    /// The actor has a physical core for itself on another node.
    CoreOnOtherNode,
    /// The actor has a physical core for itself; the NIC's node is unknown or the only one.
    CoreFree,
    /// The actor runs on the second thread of a core that has an actor already.
    SmtSibling,
    /// The actor runs on a CPU that has an actor already.
    CpuShared,
    /// The actor runs on the configured CPU.
    CpuPinned,
    /// The memory is on the core's own node.
    MemoryLocal,
    /// The memory is on the nearest node, because the core's own node has none.
    MemoryNearest,
    /// The packet memory uses 2 MiB pages.
    PageHuge,
    /// The packet memory uses base pages.
    PageBase,
}

/// Holds one warning: a fact that allows a start but is not optimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warning {
    /// Kind of the warning.
    pub code: WarningCode,
    /// Subject of the warning.
    pub subject: String,
    /// Observed fact and its cost.
    pub text: String,
    /// Remedy, as a command if possible.
    pub remedy: String,
}

/// Lists the kinds of warnings. They are stable; the JSON form is the kebab-case name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WarningCode {
    /// No actor serves some receive queues: they are not configured, or another interface has no such queue.
    QueuesUnserved,
    /// The number of queues is unknown.
    QueuesUnknown,
    /// The interface is down or has no carrier.
    LinkDown,
    /// The NIC's node is unknown on a machine with several.
    NicNodeUnknown,
    /// An actor runs on another node than its NIC.
    RemoteNode,
    /// An actor shares a physical core with another.
    SmtShared,
    /// Actors share a CPU.
    CpuShared,
    /// An actor runs on the housekeeping core.
    HousekeepingUsed,
    /// The cgroup grants less CPU time than the plan uses.
    CpuQuota,
    /// There are too few free huge pages.
    HugePagesShort,
    /// The number of free huge pages is unknown.
    HugePagesUnknown,
    /// The memory limit may not suffice.
    Memlock,
    /// Less memory is available now than the plan needs.
    MemoryTight,
    /// The largest packet of the interface does not fit a frame, or its size is unknown.
    Mtu,
    /// The driver has a known problem.
    Driver,
    /// An XDP program is attached already.
    XdpAttached,
    /// The machine has cores of different kinds.
    MixedCores,
}

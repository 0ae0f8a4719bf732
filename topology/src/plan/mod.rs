//! The plan: which actor runs where, on whose memory, and why.
//!
//! Owns the result types, and [`plan`], the only way to make one. The work is in `queues` (which
//! queues, whose actors), `rules` (drivers), `place` (cores), `cpu_contention` (what that costs) and `memory`
//! (pages and limits).

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

/// Who runs where. The engine starts from this and from nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`PLAN_SCHEMA`].
    pub schema: u32,
    /// The actors, by rising queue number.
    pub actors: Vec<ActorPlan>,
    /// CPUs for the supervisor, the async side and the kernel's own work. Never empty.
    pub housekeeping: Vec<u32>,
    /// What was decided and why, in the order of deciding.
    pub decisions: Vec<Decision>,
    /// What will work and could be better, each with its mend.
    pub warnings: Vec<Warning>,
}

/// One actor: one queue number of every interface, one CPU, one packet memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActorPlan {
    /// The queue number it serves.
    pub queue: u32,
    /// Its queue of each interface, in the order of the request.
    pub ports: Vec<PortPlan>,
    /// CPU it is pinned to.
    pub cpu: u32,
    /// Another actor is pinned to the same CPU: neither may busy-poll without end.
    pub shares_cpu: bool,
    /// NUMA node of its packet memory; `None` where the machine tells no nodes.
    pub numa_node: Option<u32>,
    /// Packet memory, bytes.
    pub umem_bytes: u64,
    /// Pages it is made of.
    pub page: Page,
}

/// One queue of one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortPlan {
    /// Interface name.
    pub interface: String,
    /// The kernel's number of it when the snapshot was taken; `None` on a described machine.
    pub ifindex: Option<u32>,
    /// Queue number, the same for all ports of an actor.
    pub queue: u32,
    /// NUMA node of the device.
    pub numa_node: Option<u32>,
    /// Whether `auto` should try zero-copy here.
    pub zero_copy: ZeroCopy,
}

/// What is known of zero-copy on a port, from the driver's own word and from what is on record about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ZeroCopy {
    /// The driver has it and nothing is on record against it.
    Good,
    /// The driver may have it, and memory corruption, panics or stalls are on record: only by the
    /// operator's explicit wish.
    Avoid,
    /// The driver does not have it.
    Absent,
    /// Nothing is known: only by the operator's explicit wish.
    Unknown,
}

/// Kind of memory pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Page {
    /// 2 MiB.
    Huge,
    /// The base page of the machine.
    Base,
}

/// One choice of the planner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Which rule decided.
    pub code: DecisionCode,
    /// What about: `queue 3`, `eth0`, `cpu 0`.
    pub subject: String,
    /// What and why.
    pub text: String,
}

/// The planner's rules. Stable: the JSON form is the kebab-case name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DecisionCode {
    /// All receive queues are served.
    QueuesAll,
    /// The queues that every interface has are served, and this one has more.
    QueuesCommon,
    /// The queues that were asked for are served.
    QueuesListed,
    /// The core kept for the supervisor and the kernel.
    HousekeepingCore,
    /// The only thread of the machine is used for everything.
    HousekeepingShared,
    /// A physical core of its own, on the NIC's node.
    CoreOnNicNode,
    /// A physical core of its own on another node.
    CoreOnOtherNode,
    /// A physical core of its own; the NIC's node is unknown or there is only one.
    CoreFree,
    /// The second thread of a core that has an actor already.
    SmtSibling,
    /// A CPU that has an actor already.
    CpuShared,
    /// The CPU the user named.
    CpuPinned,
    /// Memory on the core's own node.
    MemoryLocal,
    /// Memory on the nearest node, since the core's own has none.
    MemoryNearest,
    /// 2 MiB pages.
    PageHuge,
    /// Base pages.
    PageBase,
}

/// Something that works and could be better.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warning {
    /// Which.
    pub code: WarningCode,
    /// What about.
    pub subject: String,
    /// What was seen, and what it costs.
    pub text: String,
    /// What to do about it, a command where there is one.
    pub remedy: String,
}

/// Kinds of warnings. Stable: the JSON form is the kebab-case name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WarningCode {
    /// Receive queues that nobody serves: they are not on the user's list, or another interface has no such queue.
    QueuesUnserved,
    /// A number of queues could not be learned.
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
    /// Not enough free huge pages.
    HugePagesShort,
    /// Free huge pages unknown.
    HugePagesUnknown,
    /// The memory limit may not suffice.
    Memlock,
    /// Less memory is available now than the plan takes.
    MemoryTight,
    /// The largest packet of the interface does not fit, or is unknown.
    Mtu,
    /// What is known of this driver.
    Driver,
    /// An XDP program is attached already.
    XdpAttached,
    /// Cores of different kinds.
    MixedCores,
}

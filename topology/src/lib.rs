//! Plans on which cores and with which memory packet queues run.
//!
//! [`Snapshot`] describes a machine, its NICs and its limits; it is taken live or loaded. [`PlanRequest`] holds the
//! requirements. [`plan`] computes a [`Plan`] from both, or a [`Refusal`] with remedies. It is a pure function: the
//! same input gives the same plan. This crate touches no packet and starts no thread. Only `oxide plan --apply`
//! changes the host.
#![forbid(unsafe_code)]

pub mod cli;
mod cpus;
pub mod doctor;
mod drivers;
mod plan;
mod render;
mod request;
mod snapshot;
pub mod system_settings;

#[cfg(test)]
mod tests;

pub use cpus::{CpuList, CpuListError, MAX_CPUS};
pub use plan::{
    ActorPlan, Decision, DecisionCode, PLAN_SCHEMA, Page, Plan, PortPlan, Reason, ReasonCode, Refusal, Warning,
    WarningCode, ZeroCopy, plan,
};
pub use render::PlanChange;
pub use request::{Numa, Pin, PlanRequest, Queues, ZeroCopyWish};
pub use snapshot::{
    Amount, Core, CpuQuota, HashFields, Holder, HostLimits, KernelRoute, Machine, NapiDefer, Nic, NicSpecError, Node,
    Offloads, Problem, QueueIrq, RssView, SNAPSHOT_SCHEMA, Snapshot, SnapshotError, VethPeer, XdpFeatures, XdpProgram,
    live_nics, real_names, takes_for_its_own,
};

//! Describes a machine: the only input of the planner besides the request.
//!
//! This module owns the description and its JSON form. `live` fills it from this machine and the current network
//! namespace, `hwloc` from an hwloc topology. An unknown fact is `None`, never a guess.

mod addresses;
mod check;
mod described;
mod ethtool;
mod facts;
mod hwloc;
mod hwloc_xml;
mod live;
mod nat;
mod netlink;
mod nics;
mod routes;
mod system;
mod xml;

pub(crate) use addresses::holders;
pub use addresses::{Holder, real_names};
pub use check::Problem;
pub use described::NicSpecError;
pub use facts::{HashFields, Offloads, RssView, VethPeer};
pub use live::live_nics;
pub(crate) use nat::port_choosers;
pub(crate) use routes::Router;
pub use routes::{KernelRoute, takes_for_its_own};

use serde::{Deserialize, Serialize};

use crate::cpus::CpuList;

/// Version of the JSON form. A file of another version is refused.
pub const SNAPSHOT_SCHEMA: u32 = 1;

/// Holds a machine, its NICs and its limits at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Version of the form, [`SNAPSHOT_SCHEMA`].
    pub schema: u32,
    /// Origin: `live`, `hwloc xml FILE`, `synthetic STRING`.
    pub source: String,
    /// Processors and memory.
    pub machine: Machine,
    /// Network interfaces, sorted by name.
    pub nics: Vec<Nic>,
    /// Limits of this process.
    pub limits: HostLimits,
}

/// Describes processors and memory. Only online hardware threads are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Architecture, as `uname -m` shows it.
    pub architecture: Option<String>,
    /// Number of processor packages (sockets).
    pub packages: Option<u32>,
    /// NUMA nodes, sorted by id.
    pub nodes: Vec<Node>,
    /// Physical cores, sorted by their lowest CPU.
    pub cores: Vec<Core>,
    /// CPUs that exist and are offline.
    pub offline: CpuList,
    /// Number of possible CPUs, with those that may be plugged in later (`nr_cpu_ids`).
    #[serde(default)]
    pub possible_cpus: Option<u32>,
}

/// Describes one NUMA node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Number of the node in the operating system.
    pub id: u32,
    /// Size of its memory in bytes; zero for a node with processors and no memory.
    pub memory_bytes: Option<u64>,
    /// Number of free 2 MiB pages.
    pub free_huge_pages: Option<u64>,
    /// Distances to the nodes, in the order of [`Machine::nodes`]; 10 is local (ACPI SLIT). The matrix need not be
    /// symmetric.
    pub distances: Option<Vec<u32>>,
}

/// Describes one physical core.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Core {
    /// Hardware threads of the core; more than one with SMT.
    pub cpus: CpuList,
    /// Package of the core.
    pub package: Option<u32>,
    /// NUMA node that is nearest to the core.
    pub node: Option<u32>,
    /// Number of the last-level cache that it uses.
    pub cache: Option<u32>,
    /// Rank among kinds of cores, higher is faster; `None` if all are equal.
    pub kind: Option<u32>,
}

/// Describes one network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// Name of the interface.
    pub name: String,
    /// Index of the interface in the kernel.
    pub ifindex: Option<u32>,
    /// Driver, or the kind of a virtual interface: `ice`, `virtio_net`, `veth`.
    pub driver: Option<String>,
    /// Whether it is software without a device.
    pub is_virtual: Option<bool>,
    /// Whether it carries Ethernet frames; loopback and most tunnels do not.
    pub ethernet: Option<bool>,
    /// NUMA node of the device.
    pub numa_node: Option<u32>,
    /// Number of receive queues in use.
    pub rx_queues: Option<u32>,
    /// Number of transmit queues in use.
    pub tx_queues: Option<u32>,
    /// Maximum number of queues of the device.
    pub max_queues: Option<u32>,
    /// Number of descriptors in each receive ring of the NIC.
    pub rx_ring: Option<u32>,
    /// Number of descriptors in each transmit ring of the NIC.
    pub tx_ring: Option<u32>,
    /// Maximum size of an IP packet in bytes.
    pub mtu: Option<u32>,
    /// Whether it is administratively up.
    pub up: Option<bool>,
    /// Whether it has carrier.
    pub carrier: Option<bool>,
    /// Hardware address, `02:00:00:00:00:01`.
    pub mac: Option<String>,
    /// Link speed in Mbit/s.
    pub speed_mbps: Option<u32>,
    /// XDP features of the driver (`netdev` family of generic netlink, Linux 6.3).
    pub xdp_features: Option<XdpFeatures>,
    /// Attached XDP program.
    pub xdp_program: Option<XdpProgram>,
    /// Receive queues with an AF_XDP socket of any process (Linux 6.15, or the kernel's `xsk_diag` module).
    pub xsk_queues: Option<Vec<u32>>,
    /// Distribution of received packets over the queues.
    pub rss: Option<RssView>,
    /// Offloads in use.
    pub offloads: Option<Offloads>,
    /// Other end of a veth, if it is in this network namespace.
    pub peer: Option<VethPeer>,
    /// Bridge, bond or team that it is a member of.
    pub master: Option<String>,
    /// Deferral of interrupts in favour of busy polling.
    pub napi: Option<NapiDefer>,
    /// Interrupts of the receive queues.
    pub irqs: Vec<QueueIrq>,
}

/// Holds the settings that prevent the kernel from serving a queue by interrupt while an actor polls it
/// (`/sys/class/net/NIC/`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NapiDefer {
    /// Value of `gro_flush_timeout` in nanoseconds.
    pub gro_flush_timeout_ns: u64,
    /// Value of `napi_defer_hard_irqs`: number of empty polls before interrupts are enabled again.
    pub defer_hard_irqs: u32,
}

/// Holds the XDP features that a driver reports (`enum netdev_xdp_act`, include/uapi/linux/netdev.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XdpFeatures {
    /// Supports native XDP.
    pub basic: bool,
    /// Supports XDP_REDIRECT, which AF_XDP needs.
    pub redirect: bool,
    /// Supports AF_XDP zero-copy.
    pub zero_copy: bool,
    /// Supports multi-buffer receive.
    pub multi_buffer: bool,
}

/// Describes an attached XDP program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XdpProgram {
    /// Mode: `native`, `generic`, `offload` or `several`.
    pub mode: String,
    /// Id of the program in the kernel (`bpftool prog show id N`).
    pub id: Option<u32>,
}

/// Describes the interrupt of a receive queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueIrq {
    /// Number of the receive queue.
    pub queue: u32,
    /// Number of the interrupt.
    pub irq: u32,
    /// CPUs that it is delivered to.
    pub cpus: CpuList,
}

/// Holds the limits of this process and of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostLimits {
    /// CPUs that this process may run on; `None` means all online CPUs.
    pub allowed_cpus: Option<CpuList>,
    /// CPUs that the general scheduler does not use (`isolcpus`, cpuset partitions).
    pub isolated_cpus: Option<CpuList>,
    /// NUMA nodes whose memory this process may use (`cpuset.mems`); `None` means all.
    #[serde(default)]
    pub memory_nodes: Option<CpuList>,
    /// CPU time that the cgroup grants.
    pub cpu_quota: Option<CpuQuota>,
    /// Total memory in bytes.
    pub memory_total_bytes: Option<u64>,
    /// Available memory in bytes.
    pub memory_available_bytes: Option<u64>,
    /// Soft limit `RLIMIT_MEMLOCK`.
    pub memlock: Option<Amount>,
    /// Hard limit `RLIMIT_MEMLOCK`, up to which this process may raise the soft limit.
    pub memlock_max: Option<Amount>,
    /// Total number of free 2 MiB pages.
    pub free_huge_pages: Option<u64>,
    /// Value of `kernel.io_uring_disabled`: 0 allowed, 1 only for privileged processes, 2 forbidden.
    pub io_uring_disabled: Option<u32>,
    /// Kernel release, as `uname -r` shows it.
    pub kernel: Option<String>,
    /// Current clock source.
    pub clock_source: Option<String>,
    /// Effective capabilities that the engine may need, such as `CAP_NET_ADMIN`.
    pub capabilities: Option<Vec<String>>,
    /// Whether this is the initial user namespace. In another one capabilities do not lift memlock.
    pub initial_user_namespace: Option<bool>,
}

/// Holds a limit in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// There is no limit.
    Unlimited,
    /// The limit in bytes.
    Bytes(u64),
}

/// Holds the CPU time limit of a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuQuota {
    /// There is no limit.
    Unlimited,
    /// The limit in thousandths of a CPU: 2500 is two and a half CPUs.
    MilliCpus(u64),
}

/// Describes why a snapshot cannot be taken or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// An environment variable makes hwloc describe another machine.
    #[error(
        "{variable}: it makes hwloc describe another machine; to fix: unset {variable}, or plan \
         that machine on purpose with --topology or --hwloc"
    )]
    Redirected {
        /// Name of the variable.
        variable: String,
    },
    /// hwloc reports that the topology it loaded is not this machine's.
    #[error("hwloc: it loaded the topology of another machine; to fix: unset the HWLOC_ environment variables")]
    NotThisMachine,
    /// hwloc failed.
    #[error("hwloc: cannot {step}: {cause}; {remedy}")]
    Hwloc {
        /// Failed step.
        step: String,
        /// Error of hwloc.
        cause: String,
        /// Remedy.
        remedy: String,
    },
    /// An interface does not exist.
    #[error(
        "interface {name}: not in this network namespace; expected one of {present}; to fix: correct the name (see `ip link`)"
    )]
    NoInterface {
        /// Requested name.
        name: String,
        /// Existing names.
        present: String,
    },
    /// The kernel did not list its links.
    #[error("rtnetlink: cannot list the interfaces: {step}: {cause}")]
    Netlink {
        /// System call or message.
        step: &'static str,
        /// Error.
        cause: String,
    },
    /// The kernel did not report the allowed CPUs.
    #[error("sched_getaffinity failed: {0}")]
    Affinity(String),
    /// A file cannot be read.
    #[error("{path}: cannot read: {cause}")]
    File {
        /// Path of the file.
        path: String,
        /// Error.
        cause: String,
    },
    /// A file is not an hwloc topology.
    #[error("{path}: not an hwloc topology: {cause}; to fix: create one with `lstopo --of xml machine.xml`")]
    Xml {
        /// Path of the file.
        path: String,
        /// Position and error.
        cause: String,
    },
    /// A text is not a snapshot.
    #[error("{path}: not a snapshot: {cause}; to fix: create one with `oxide plan --save-snapshot FILE`")]
    Json {
        /// Path of the file.
        path: String,
        /// Position and error.
        cause: String,
    },
    /// A snapshot has another version.
    #[error("{path}: snapshot schema {found}; expected {SNAPSHOT_SCHEMA}; to fix: take the snapshot again")]
    Schema {
        /// Path of the file.
        path: String,
        /// Version in the file.
        found: u32,
    },
}

impl Snapshot {
    /// Returns the online CPUs that this process may use.
    #[must_use]
    pub fn usable_cpus(&self) -> CpuList {
        let online = self.machine.cpus();
        match &self.limits.allowed_cpus {
            Some(allowed) => online.and(allowed),
            None => online,
        }
    }

    /// Returns the interface called `name`.
    #[must_use]
    pub fn nic(&self, name: &str) -> Option<&Nic> {
        self.nics.iter().find(|nic| nic.name == name)
    }
}

impl Machine {
    /// Returns all online CPUs.
    #[must_use]
    pub fn cpus(&self) -> CpuList {
        self.cores.iter().flat_map(|core| core.cpus.iter()).collect()
    }

    /// Returns the core of a CPU.
    #[must_use]
    pub fn core_of(&self, cpu: u32) -> Option<&Core> {
        self.cores.iter().find(|core| core.cpus.contains(cpu))
    }

    /// Returns the node with this number.
    #[must_use]
    pub fn node(&self, id: u32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }
}

impl HostLimits {
    /// Returns whether capability `name` is effective; `None` if the capabilities are unknown.
    #[must_use]
    pub fn has_capability(&self, name: &str) -> Option<bool> {
        self.capabilities.as_ref().map(|all| all.iter().any(|c| c == name))
    }

    /// Returns the major and minor version of the kernel.
    #[must_use]
    pub fn kernel_version(&self) -> Option<(u32, u32)> {
        let mut parts = self.kernel.as_deref()?.split(['.', '-', '+', ' ']);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

//! What is known of a machine: the only input of the planner besides the request.
//!
//! Owns the description and its JSON form; `live` fills it from this machine and the current network
//! namespace, `hwloc` from an hwloc topology. What could not be learned is `None`, never a guess.

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

/// A machine, its NICs and its limits at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// [`SNAPSHOT_SCHEMA`].
    pub schema: u32,
    /// Where it comes from: `live`, `hwloc xml FILE`, `synthetic STRING`.
    pub source: String,
    /// Processors and memory.
    pub machine: Machine,
    /// Network interfaces, sorted by name.
    pub nics: Vec<Nic>,
    /// What this process may use.
    pub limits: HostLimits,
}

/// Processors and memory. Only online hardware threads are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// As `uname -m` says it.
    pub architecture: Option<String>,
    /// Number of processor packages (sockets).
    pub packages: Option<u32>,
    /// NUMA nodes, sorted by id.
    pub nodes: Vec<Node>,
    /// Physical cores, sorted by their lowest CPU.
    pub cores: Vec<Core>,
    /// CPUs that exist and are offline.
    pub offline: CpuList,
    /// CPUs that the kernel can have in all, with those that may be plugged in later (`nr_cpu_ids`).
    #[serde(default)]
    pub possible_cpus: Option<u32>,
}

/// One NUMA node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// The operating system's number.
    pub id: u32,
    /// Memory, bytes; zero for a node that has processors and no memory.
    pub memory_bytes: Option<u64>,
    /// Free 2 MiB huge pages.
    pub free_huge_pages: Option<u64>,
    /// Distances to the nodes, in the order of [`Machine::nodes`]; 10 is local (ACPI SLIT). Need not be
    /// symmetric.
    pub distances: Option<Vec<u32>>,
}

/// One physical core.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Core {
    /// Its hardware threads; more than one with SMT.
    pub cpus: CpuList,
    /// Package it is in.
    pub package: Option<u32>,
    /// NUMA node its memory is nearest to.
    pub node: Option<u32>,
    /// Number of the last-level cache it shares.
    pub cache: Option<u32>,
    /// Rank among kinds of cores, higher is faster; `None` where all are alike.
    pub kind: Option<u32>,
}

/// One network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// The kernel's number of it.
    pub ifindex: Option<u32>,
    /// Driver, or the kind of a virtual interface: `ice`, `virtio_net`, `veth`.
    pub driver: Option<String>,
    /// Made by software: no device behind it.
    pub is_virtual: Option<bool>,
    /// Carries Ethernet frames; loopback and most tunnels do not.
    pub ethernet: Option<bool>,
    /// NUMA node of the device.
    pub numa_node: Option<u32>,
    /// Receive queues in use now.
    pub rx_queues: Option<u32>,
    /// Transmit queues in use now.
    pub tx_queues: Option<u32>,
    /// Most queues the device can be set to.
    pub max_queues: Option<u32>,
    /// Descriptors in each receive ring of the NIC.
    pub rx_ring: Option<u32>,
    /// Descriptors in each transmit ring of the NIC.
    pub tx_ring: Option<u32>,
    /// Largest IP packet, bytes.
    pub mtu: Option<u32>,
    /// Administratively up.
    pub up: Option<bool>,
    /// Has carrier.
    pub carrier: Option<bool>,
    /// Hardware address, `02:00:00:00:00:01`.
    pub mac: Option<String>,
    /// Link speed, Mbit/s.
    pub speed_mbps: Option<u32>,
    /// What the driver can do with XDP (`netdev` family of generic netlink, Linux 6.3).
    pub xdp_features: Option<XdpFeatures>,
    /// XDP program attached now.
    pub xdp_program: Option<XdpProgram>,
    /// Receive queues that an AF_XDP socket has now, of whatever process (Linux 6.15, or the kernel's
    /// `xsk_diag` module).
    pub xsk_queues: Option<Vec<u32>>,
    /// How received packets are spread over the queues.
    pub rss: Option<RssView>,
    /// Offloads in force.
    pub offloads: Option<Offloads>,
    /// The other end of a veth, if it is in this network namespace.
    pub peer: Option<VethPeer>,
    /// The bridge, bond or team it is a member of.
    pub master: Option<String>,
    /// How interrupts are put off in favour of busy polling.
    pub napi: Option<NapiDefer>,
    /// Interrupts of the receive queues.
    pub irqs: Vec<QueueIrq>,
}

/// Settings that keep the kernel from serving a queue by interrupt while an actor polls it
/// (`/sys/class/net/NIC/`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NapiDefer {
    /// `gro_flush_timeout`, nanoseconds.
    pub gro_flush_timeout_ns: u64,
    /// `napi_defer_hard_irqs`, empty polls before interrupts are on again.
    pub defer_hard_irqs: u32,
}

/// XDP abilities a driver tells (`enum netdev_xdp_act`, include/uapi/linux/netdev.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XdpFeatures {
    /// Native XDP.
    pub basic: bool,
    /// XDP_REDIRECT, which AF_XDP needs.
    pub redirect: bool,
    /// AF_XDP zero-copy.
    pub zero_copy: bool,
    /// Multi-buffer receive.
    pub multi_buffer: bool,
}

/// An attached XDP program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XdpProgram {
    /// `native`, `generic`, `offload` or `several`.
    pub mode: String,
    /// The kernel's id of it (`bpftool prog show id N`).
    pub id: Option<u32>,
}

/// Which CPUs take the interrupt of a receive queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueIrq {
    /// Receive queue.
    pub queue: u32,
    /// Interrupt number.
    pub irq: u32,
    /// CPUs it is delivered to.
    pub cpus: CpuList,
}

/// What this process may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostLimits {
    /// CPUs this process may run on; `None` means all that are online.
    pub allowed_cpus: Option<CpuList>,
    /// CPUs kept from the general scheduler (`isolcpus`, cpuset partitions).
    pub isolated_cpus: Option<CpuList>,
    /// NUMA nodes that this process may take memory from (`cpuset.mems`); `None` means all.
    #[serde(default)]
    pub memory_nodes: Option<CpuList>,
    /// CPU time the cgroup grants.
    pub cpu_quota: Option<CpuQuota>,
    /// Memory in all, bytes.
    pub memory_total_bytes: Option<u64>,
    /// Memory that could be had now, bytes.
    pub memory_available_bytes: Option<u64>,
    /// `RLIMIT_MEMLOCK`, the soft limit.
    pub memlock: Option<Amount>,
    /// `RLIMIT_MEMLOCK`, up to which this process may raise it itself.
    pub memlock_max: Option<Amount>,
    /// Free 2 MiB huge pages in all.
    pub free_huge_pages: Option<u64>,
    /// `kernel.io_uring_disabled`: 0 allowed, 1 for the privileged only, 2 forbidden.
    pub io_uring_disabled: Option<u32>,
    /// Kernel release, as `uname -r` says it.
    pub kernel: Option<String>,
    /// Current clock source.
    pub clock_source: Option<String>,
    /// Effective capabilities that matter here, `CAP_NET_ADMIN` style.
    pub capabilities: Option<Vec<String>>,
    /// Whether this is the initial user namespace. In another, capabilities do not lift memlock.
    pub initial_user_namespace: Option<bool>,
}

/// A limit on bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// No limit.
    Unlimited,
    /// At most so many bytes.
    Bytes(u64),
}

/// CPU time of a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuQuota {
    /// No limit.
    Unlimited,
    /// Thousandths of one CPU: 2500 is two and a half CPUs.
    MilliCpus(u64),
}

/// A snapshot that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// An environment variable sends hwloc to another machine's description.
    #[error(
        "{variable} is set, so hwloc would describe another machine than this one; unset {variable}, or plan \
         that machine on purpose with --topology or --hwloc"
    )]
    Redirected {
        /// The variable.
        variable: String,
    },
    /// hwloc says the topology it loaded is not this machine's.
    #[error("hwloc loaded a topology that is not this machine's; unset the HWLOC_ environment variables")]
    NotThisMachine,
    /// hwloc failed.
    #[error("hwloc could not {step}: {cause}; {remedy}")]
    Hwloc {
        /// What was tried.
        step: String,
        /// What it answered.
        cause: String,
        /// What to do.
        remedy: String,
    },
    /// An interface that does not exist here.
    #[error("interface {name} is not in this network namespace (there are: {present}); see `ip link`")]
    NoInterface {
        /// The name asked for.
        name: String,
        /// The names there are.
        present: String,
    },
    /// The kernel did not list its links.
    #[error("listing the interfaces by rtnetlink failed at {step}: {cause}")]
    Netlink {
        /// System call or message.
        step: &'static str,
        /// What went wrong.
        cause: String,
    },
    /// The kernel did not say which CPUs may be used.
    #[error("sched_getaffinity failed: {0}")]
    Affinity(String),
    /// A file that cannot be read.
    #[error("reading {path}: {cause}")]
    File {
        /// Its path.
        path: String,
        /// What went wrong.
        cause: String,
    },
    /// A file that is not an hwloc topology.
    #[error("{path} is not an hwloc topology: {cause}; export one with `lstopo --of xml machine.xml`")]
    Xml {
        /// Its path.
        path: String,
        /// Where and what.
        cause: String,
    },
    /// Text that is not a snapshot.
    #[error("{path} is not a snapshot: {cause}; make one with `oxide plan --save-snapshot FILE`")]
    Json {
        /// Its path.
        path: String,
        /// Where and what.
        cause: String,
    },
    /// A snapshot of another version.
    #[error("{path} has snapshot schema {found}, this program reads {SNAPSHOT_SCHEMA}; take the snapshot again")]
    Schema {
        /// Its path.
        path: String,
        /// What it says.
        found: u32,
    },
}

impl Snapshot {
    /// CPUs that are online and that this process may use.
    #[must_use]
    pub fn usable_cpus(&self) -> CpuList {
        let online = self.machine.cpus();
        match &self.limits.allowed_cpus {
            Some(allowed) => online.and(allowed),
            None => online,
        }
    }

    /// The interface called `name`.
    #[must_use]
    pub fn nic(&self, name: &str) -> Option<&Nic> {
        self.nics.iter().find(|nic| nic.name == name)
    }
}

impl Machine {
    /// All online CPUs.
    #[must_use]
    pub fn cpus(&self) -> CpuList {
        self.cores.iter().flat_map(|core| core.cpus.iter()).collect()
    }

    /// The core a CPU belongs to.
    #[must_use]
    pub fn core_of(&self, cpu: u32) -> Option<&Core> {
        self.cores.iter().find(|core| core.cpus.contains(cpu))
    }

    /// The node with this number.
    #[must_use]
    pub fn node(&self, id: u32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }
}

impl HostLimits {
    /// Whether capability `name` is in effect; `None` if capabilities are unknown.
    #[must_use]
    pub fn has_capability(&self, name: &str) -> Option<bool> {
        self.capabilities.as_ref().map(|all| all.iter().any(|c| c == name))
    }

    /// Major and minor version of the kernel.
    #[must_use]
    pub fn kernel_version(&self) -> Option<(u32, u32)> {
        let mut parts = self.kernel.as_deref()?.split(['.', '-', '+', ' ']);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

//! Defines the port: one queue of one NIC, as its actor uses it.
//!
//! A port moves [`Frame`]s between an actor's [`Umem`] and one queue of one interface. It owns no memory and makes no
//! decision. The actor passes the UMEM to each call, so that the ports of one actor share it. A packet can thus leave
//! through another interface without a copy. The AF_XDP port ([`crate::xdp`]) and the simulated port follow this
//! contract.

mod burst;
mod rings;
mod rss;
pub mod sim;

use std::io;
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

pub use burst::Burst;
pub(crate) use rings::{PortRings, RingHandles};
pub use rss::Rss;

use crate::packet::MacAddr;
use crate::umem::{BadDescriptor, PortIndex, PortTaken, RegionError, Umem};

/// Identifies one queue of one interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QueueId {
    /// Interface name.
    pub interface: String,
    /// Queue number, from zero.
    pub queue: u32,
}

impl QueueId {
    /// Returns the identifier of queue `queue` of `interface`.
    #[must_use]
    pub fn new(interface: impl Into<String>, queue: u32) -> Self {
        Self { interface: interface.into(), queue }
    }
}

impl std::fmt::Display for QueueId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.interface, self.queue)
    }
}

/// Names the mode in which packets reach the packet memory, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mode {
    /// The NIC writes into the UMEM.
    ZeroCopy,
    /// The driver's XDP hook copies into the UMEM.
    Copy,
    /// The kernel builds an skb, and its generic XDP hook copies into the UMEM.
    Generic,
    /// The port is simulated and uses no kernel.
    Simulated,
    /// The port has no socket, because it has not been opened yet.
    Closed,
}

impl Mode {
    /// Returns the name used in JSON and as a metric label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Mode::ZeroCopy => "zero_copy",
            Mode::Copy => "copy",
            Mode::Generic => "generic",
            Mode::Simulated => "simulated",
            Mode::Closed => "closed",
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mode::ZeroCopy => "zero-copy",
            Mode::Copy => "copy",
            Mode::Generic => "generic",
            Mode::Simulated => "simulated",
            Mode::Closed => "closed",
        })
    }
}

/// Describes a port for its owner and its handler. The values are read back from the kernel after binding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortInfo {
    /// Interface and queue.
    pub id: QueueId,
    /// Interface number in the kernel.
    pub ifindex: u32,
    /// Hardware address.
    pub mac: MacAddr,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Mode in force.
    pub mode: Mode,
    /// Reason why the mode is not a better one; empty for the best mode.
    pub mode_reason: String,
    /// Result of the request for preferred busy polling, or the reason against it. [`Port::busy_polling`] returns
    /// whether it is in force.
    pub busy_poll: String,
}

impl PortInfo {
    /// Returns the description of a port that cannot be opened yet for this reason. Its interface number matches
    /// nothing.
    #[must_use]
    pub fn closed(id: QueueId, why: String) -> Self {
        let (mac, busy_poll) = (MacAddr::default(), String::new());
        Self { id, ifindex: 0, mac, mtu: 0, mode: Mode::Closed, mode_reason: why, busy_poll }
    }
}

/// States the result of a kick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kick {
    /// The kernel needed no kick, or took everything.
    Done,
    /// The kernel took a part: kick again in the next turn (EAGAIN, EBUSY, ENOBUFS).
    Again,
    /// The link is down. The packets on the TX ring leave when it is up again.
    LinkDown,
}

/// Holds the counters that a port keeps itself. All of them are monotonic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PortCounters {
    /// Counts packets taken from the RX ring.
    pub rx_packets: u64,
    /// Counts the bytes of these packets, with the Ethernet header and without FCS.
    pub rx_bytes: u64,
    /// Counts packets put on the TX ring.
    pub tx_packets: u64,
    /// Counts the bytes of these packets.
    pub tx_bytes: u64,
    /// Counts frames returned through the completion ring.
    pub completions: u64,
    /// Counts descriptors of the kernel that the ledger refused.
    pub bad_descriptors: u64,
    /// Counts system calls that wake the kernel for a ring.
    pub kicks: u64,
}

/// Holds the kernel's counters of a socket (`struct xdp_statistics`, include/uapi/linux/if_xdp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct KernelCounters {
    /// Counts packets dropped for reasons without a counter below.
    pub rx_dropped: u64,
    /// Counts refused fill descriptors.
    pub rx_invalid: u64,
    /// Counts refused TX descriptors.
    pub tx_invalid: u64,
    /// Counts packets dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Counts how often the fill ring was empty.
    pub fill_empty: u64,
    /// Counts how often the TX ring was empty.
    pub tx_empty: u64,
}

/// Counts the waiting entries on the rings: for the kernel on fill and TX, for the port on RX and completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Occupancy {
    /// Frames that the kernel may still use for reception.
    pub fill: u32,
    /// Packets received and not processed yet.
    pub rx: u32,
    /// Packets that the kernel has not taken yet.
    pub tx: u32,
    /// Frames sent and not reclaimed yet.
    pub completion: u32,
}

/// Reports a failed port: its identifier, the failed step and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// The interface does not exist (any more). The owner waits for it and opens a new port.
    #[error("{id}: interface missing: {source}")]
    Gone {
        /// Identifier of the port.
        id: QueueId,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The port cannot be opened now. The engine knows when it can.
    #[error("{id}: {why}")]
    NotNow {
        /// Identifier of the port.
        id: QueueId,
        /// Reason of the delay.
        why: String,
    },
    /// The kernel refused a step of opening or using the port.
    #[error("{id}: cannot {step}: {source}{}", remedy(.advice))]
    Refused {
        /// Identifier of the port.
        id: QueueId,
        /// Refused step.
        step: &'static str,
        /// Error of the kernel.
        source: io::Error,
        /// Remedy; empty if none is known.
        advice: String,
    },
    /// The kernel does not provide the required mode.
    #[error("{id}: wrong mode: {got}; expected {wanted}: {reason}")]
    Mode {
        /// Identifier of the port.
        id: QueueId,
        /// Configured mode.
        wanted: Mode,
        /// Mode that the kernel provides.
        got: String,
        /// Reason for the difference.
        reason: String,
    },
    /// The kernel does not complete the packets it was given.
    #[error("{id}: no completions for {after:?}: {sent} packets outstanding with the link up")]
    NoCompletions {
        /// Identifier of the port.
        id: QueueId,
        /// Number of outstanding packets.
        sent: u32,
        /// Time without a completion.
        after: std::time::Duration,
    },
    /// The kernel returned a descriptor that does not belong to this port.
    #[error("{id}: {source}")]
    BadDescriptor {
        /// Identifier of the port.
        id: QueueId,
        /// Returned descriptor, with the reason.
        source: BadDescriptor,
    },
    /// The sizes of memory and rings do not match.
    #[error("{id}: {source}")]
    Layout {
        /// Identifier of the port.
        id: QueueId,
        /// Sizes in conflict.
        source: crate::umem::LayoutError,
    },
    /// The port's index in the packet memory is in use.
    #[error("{id}: {source}")]
    Taken {
        /// Identifier of the port.
        id: QueueId,
        /// Index in use, with its owner.
        source: PortTaken,
    },
    /// The port was opened on other packet memory before.
    #[error("{id}: this is other packet memory; expected that which `open` returned; to fix: reopen the port on it")]
    OtherMemory {
        /// Identifier of the port.
        id: QueueId,
    },
    /// The packet memory could not be allocated.
    #[error("{id}: {source}")]
    Memory {
        /// Identifier of the port.
        id: QueueId,
        /// Reason.
        source: RegionError,
    },
    /// The interface's XDP program or one of its maps failed.
    #[error("{id}: {text}")]
    Steering {
        /// Identifier of the port.
        id: QueueId,
        /// Message of the steering module, with its remedy.
        text: String,
    },
}

impl PortError {
    /// Returns the identifier of the port.
    #[must_use]
    pub fn id(&self) -> &QueueId {
        match self {
            Self::Gone { id, .. }
            | Self::NotNow { id, .. }
            | Self::Refused { id, .. }
            | Self::Mode { id, .. }
            | Self::NoCompletions { id, .. }
            | Self::BadDescriptor { id, .. }
            | Self::Layout { id, .. }
            | Self::Taken { id, .. }
            | Self::OtherMemory { id }
            | Self::Memory { id, .. }
            | Self::Steering { id, .. } => id,
        }
    }

    /// Returns whether the port must wait for its interface, because it is missing, down, or used by another program.
    /// Only this port is affected, and it opens when the interface is available.
    #[must_use]
    pub fn waits(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::NotNow { .. }) || self.is_link_down()
    }

    /// Returns whether the interface exists but is down. It may come up by itself.
    #[must_use]
    pub fn is_link_down(&self) -> bool {
        self.errno() == Some(libc::ENETDOWN)
    }

    /// Returns whether the queue still has a socket. After a close, the kernel frees the queue within some tens of
    /// milliseconds.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.errno() == Some(libc::EBUSY)
    }

    /// Returns whether another attempt may succeed without a change by an operator.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.errno(), Some(libc::EBUSY | libc::EAGAIN | libc::ENOMEM | libc::EINTR))
    }

    fn errno(&self) -> Option<i32> {
        match self {
            Self::Gone { source, .. } | Self::Refused { source, .. } => source.raw_os_error(),
            Self::Memory { source: RegionError::Map { source, .. }, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

fn remedy(advice: &str) -> String {
    if advice.is_empty() { String::new() } else { format!("; to fix: {advice}") }
}

/// Moves packets through one queue of one interface.
///
/// Every call takes the UMEM that the port was opened with. No call blocks or allocates.
///
/// An implementation holds the [`PortKey`](crate::umem::PortKey) of its index and moves frames with it. A port without
/// a kernel needs no `unsafe` ([`Umem::simulated_port`]). A port with a kernel must guarantee that kernel's behaviour
/// ([`Umem::kernel_port`]). `tests/common/device.rs` is a small implementation.
pub trait Port {
    /// Returns the description of this port.
    fn info(&self) -> &PortInfo;

    /// Posts free frames to the fill ring, limited by the ring and the pool. Returns their number.
    fn fill(&mut self, umem: &mut Umem) -> usize;

    /// Moves received packets to the end of `into`: at most `limit`, and until `into` is full. Returns their number.
    fn receive(&mut self, umem: &mut Umem, into: &mut Burst, limit: usize) -> usize;

    /// Moves packets from the front of `from` to the TX ring until the ring is full. Returns their number. The rest
    /// stays in `from`, in order.
    fn transmit(&mut self, umem: &mut Umem, from: &mut Burst) -> usize;

    /// Takes back the frames of packets that were sent. Returns their number.
    fn reclaim(&mut self, umem: &mut Umem) -> usize;

    /// Wakes the kernel for the TX and the fill ring if it requests a wakeup. It is one bounded step; [`Kick::Again`]
    /// requests another one.
    ///
    /// # Errors
    /// Returns [`PortError::Gone`] if the interface does not exist any more, or another error of the kernel.
    fn kick(&mut self) -> Result<Kick, PortError>;

    /// Returns the descriptor to wait on for packets; `None` if there is none.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Returns the counters of the port.
    fn counters(&self) -> PortCounters;

    /// Returns the counters of the kernel.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    fn kernel_counters(&self) -> Result<KernelCounters, PortError>;

    /// Returns whether preferred busy polling is in force, so that this port's system calls do the driver's receive
    /// work.
    fn busy_polling(&self) -> bool {
        false
    }

    /// Returns the number of waiting entries on each ring.
    fn occupancy(&mut self) -> Occupancy;

    /// Starts or stops new packets (steering). Packets on the rings stay there.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    fn steer(&mut self, on: bool) -> Result<(), PortError>;
}

/// Holds the memory of an actor, and for each of its ports the port or its error.
pub type Opened<P> = (Umem, Vec<Result<P, PortError>>);

/// Opens the ports of an actor. It runs on the actor's own core, which then touches the memory first.
pub trait Backend: Send + 'static {
    /// Names the type of the ports that it opens.
    type Port: Port + 'static;
    /// Names the type of the parameters to open one port with.
    type OpenParams: Send + 'static;

    /// Opens the memory and all ports of one actor, in the requested order. Steering is still off. It may wait for busy
    /// queues.
    ///
    /// # Errors
    /// Returns a [`PortError`]; everything that was opened before is closed.
    fn open(&mut self) -> Result<(Umem, Vec<Self::Port>), PortError>;

    /// Opens memory and ports like [`open`](Self::open), but tolerates missing interfaces ([`PortError::waits`]). Such
    /// a port is an error in the list, and [`reopen`](Self::reopen) opens it later. At least one port is open.
    ///
    /// # Errors
    /// Returns the errors of [`open`](Self::open). If no port can be opened, returns the error of the first one.
    fn open_available(&mut self) -> Result<Opened<Self::Port>, PortError> {
        let (umem, ports) = self.open()?;
        Ok((umem, ports.into_iter().map(Ok).collect()))
    }

    /// Reopens port `port` of `umem` while the other ports run. The earlier [`Port`] must have been dropped. It is one
    /// attempt that does not wait. Steering is off.
    ///
    /// While the earlier port exists, or for other memory than [`open`](Self::open) returned, the call is refused
    /// ([`PortError::Taken`], [`PortError::OtherMemory`]).
    ///
    /// The first attempt writes off the earlier socket's frames
    /// ([`FrameCounts::written_off`](crate::umem::FrameCounts)), because the kernel may use them until it has released
    /// that socket. They are free again when the new socket is bound.
    ///
    /// # Errors
    /// Returns an error with [`PortError::is_busy`] while the kernel has not released the earlier socket, usually 15 to
    /// 60 ms; the caller tries again. After any other error, the caller tries again when the cause is fixed.
    fn reopen(&mut self, port: PortIndex, umem: &mut Umem) -> Result<Self::Port, PortError>;

    /// Replaces the parameters that the next [`reopen`](Self::reopen) of port `port` uses, because its interface was
    /// re-created and has another program.
    fn set_params(&mut self, port: PortIndex, request: Self::OpenParams);
}

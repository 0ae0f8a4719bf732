//! One NIC queue as its owner sees it.
//!
//! A port moves [`Frame`]s between an actor's [`Umem`] and one queue of one interface. It owns no
//! memory and makes no decision; the actor passes the UMEM to each call, so that the ports of one
//! actor share it and a packet leaves by another interface without a copy. The same contract is kept
//! by the AF_XDP port ([`crate::xdp`]) and the simulated one.

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

/// Which queue of which interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QueueId {
    /// Interface name.
    pub interface: String,
    /// Queue number, from zero.
    pub queue: u32,
}

impl QueueId {
    /// Queue `queue` of `interface`.
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

/// How packets get from the driver into our memory, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mode {
    /// The NIC writes into the UMEM.
    ZeroCopy,
    /// The driver's XDP hook copies into the UMEM.
    Copy,
    /// The kernel's generic XDP hook copies into the UMEM, after an skb was made.
    Generic,
    /// No kernel at all: the simulated port.
    Simulated,
    /// There is no socket: the port has not been opened yet.
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

/// What a port is, as far as its owner and the handler need to know. Read back from the kernel after
/// binding, not repeated from the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortInfo {
    /// Interface and queue.
    pub id: QueueId,
    /// Kernel's number of the interface.
    pub ifindex: u32,
    /// Hardware address.
    pub mac: MacAddr,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// The rung in force.
    pub mode: Mode,
    /// Why it is not a better one; empty where it is the best.
    pub mode_reason: String,
    /// What was asked for of preferred busy polling, or why not; whether it is in force says
    /// [`Port::busy_polling`].
    pub busy_poll: String,
}

impl PortInfo {
    /// A port that cannot be opened yet, for this reason. Nothing matches its interface number.
    #[must_use]
    pub fn closed(id: QueueId, why: String) -> Self {
        let (mac, busy_poll) = (MacAddr::default(), String::new());
        Self { id, ifindex: 0, mac, mtu: 0, mode: Mode::Closed, mode_reason: why, busy_poll }
    }
}

/// What the kernel answered to a kick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kick {
    /// Nothing was wanted, or everything was taken.
    Done,
    /// More is waiting: kick again next turn (EAGAIN, EBUSY, ENOBUFS: a small batch went, the rest not yet).
    Again,
    /// The link is down: what is on the TX ring leaves when it is up again.
    LinkDown,
}

/// Counters that a port keeps by itself. All monotonic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PortCounters {
    /// Packets taken from the RX ring.
    pub rx_packets: u64,
    /// Bytes of them, Ethernet header included, FCS not.
    pub rx_bytes: u64,
    /// Packets put on the TX ring.
    pub tx_packets: u64,
    /// Bytes of them.
    pub tx_bytes: u64,
    /// Frames that came back on the completion ring.
    pub completions: u64,
    /// Descriptors the kernel returned that the ledger refused.
    pub bad_descriptors: u64,
    /// System calls made to make the kernel look at a ring.
    pub kicks: u64,
}

/// The kernel's own counters of a socket (`struct xdp_statistics`, include/uapi/linux/if_xdp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct KernelCounters {
    /// Packets dropped for other reasons than the ones below.
    pub rx_dropped: u64,
    /// Fill descriptors refused.
    pub rx_invalid: u64,
    /// TX descriptors refused.
    pub tx_invalid: u64,
    /// Packets dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Times the fill ring was empty.
    pub fill_empty: u64,
    /// Times the TX ring was empty.
    pub tx_empty: u64,
}

/// Entries on the rings that are waiting: for the kernel on fill and TX, for us on RX and completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Occupancy {
    /// Frames the kernel may still take for receiving.
    pub fill: u32,
    /// Packets received, not looked at.
    pub rx: u32,
    /// Packets the kernel has still to take.
    pub tx: u32,
    /// Frames sent, not reclaimed.
    pub completion: u32,
}

/// A port failed. Which one, at which step, and what helps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// The interface is not there (any more): wait for it, then open a new port.
    #[error("{id}: interface is gone ({source})")]
    Gone {
        /// Which port.
        id: QueueId,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is nothing to open it on now; the engine knows when there is.
    #[error("{id}: {why}")]
    NotNow {
        /// Which port.
        id: QueueId,
        /// What stands in the way.
        why: String,
    },
    /// A step of opening or using the port was refused.
    #[error("{id}: {step}: {source}{}", remedy(.advice))]
    Refused {
        /// Which port.
        id: QueueId,
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
        /// What to do; empty where nothing is known.
        advice: String,
    },
    /// The wanted mode cannot be had.
    #[error("{id}: {wanted} is required, but the kernel gives {got}: {reason}")]
    Mode {
        /// Which port.
        id: QueueId,
        /// As configured.
        wanted: Mode,
        /// What there would be.
        got: String,
        /// Why.
        reason: String,
    },
    /// Packets that were given to the kernel do not come back.
    #[error("{id}: {sent} packets were given to the kernel, and none came back for {after:?} though the link is up")]
    NoCompletions {
        /// Which port.
        id: QueueId,
        /// Packets.
        sent: u32,
        /// How long.
        after: std::time::Duration,
    },
    /// The kernel returned something that is not ours.
    #[error("{id}: {source}")]
    BadDescriptor {
        /// Which port.
        id: QueueId,
        /// What it returned.
        source: BadDescriptor,
    },
    /// Sizes do not go together.
    #[error("{id}: {source}")]
    Layout {
        /// Which port.
        id: QueueId,
        /// Which sizes.
        source: crate::umem::LayoutError,
    },
    /// The port's number in the packet memory is in use.
    #[error("{id}: {source}")]
    Taken {
        /// Which port.
        id: QueueId,
        /// Which number, and who has it.
        source: PortTaken,
    },
    /// The port was opened on other packet memory before.
    #[error("{id}: this is other packet memory; expected that which `open` returned; to fix: reopen the port on it")]
    OtherMemory {
        /// Which port.
        id: QueueId,
    },
    /// Packet memory could not be had.
    #[error("{id}: {source}")]
    Memory {
        /// Which port.
        id: QueueId,
        /// Why.
        source: RegionError,
    },
    /// The interface's XDP program or its maps.
    #[error("{id}: {text}")]
    Steering {
        /// Which port.
        id: QueueId,
        /// What the steering room says, its mend included.
        text: String,
    },
}

impl PortError {
    /// Which port.
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

    /// Whether it is the interface that is missing, and nobody's fault: absent, down, or not ours now. What it costs is
    /// this one port; it is opened when the interface is there.
    #[must_use]
    pub fn waits(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::NotNow { .. }) || self.is_link_down()
    }

    /// Whether the interface is there but down: it may come up by itself.
    #[must_use]
    pub fn is_link_down(&self) -> bool {
        self.errno() == Some(libc::ENETDOWN)
    }

    /// Whether the queue has another socket, or one that the kernel has not finished with: free in some
    /// tens of milliseconds if nobody holds it.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.errno() == Some(libc::EBUSY)
    }

    /// Whether trying again may help without anybody doing anything.
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
    if advice.is_empty() { String::new() } else { format!(" ({advice})") }
}

/// One queue of one interface.
///
/// Every call takes the UMEM the port was opened with. No call blocks; no call allocates.
///
/// An implementation holds the [`PortKey`](crate::umem::PortKey) of its number and moves frames with it. Without a kernel
/// behind it, it needs no `unsafe` ([`Umem::simulated_port`]); with one, it vouches for that kernel
/// ([`Umem::kernel_port`]). `tests/common/device.rs` is a small one.
pub trait Port {
    /// What this port is.
    fn info(&self) -> &PortInfo;

    /// Posts free frames to the fill ring, as many as it wants and the pool has. Returns how many.
    fn fill(&mut self, umem: &mut Umem) -> usize;

    /// Moves received packets to the end of `into`: at most `limit`, and until it is full. Returns how
    /// many.
    fn receive(&mut self, umem: &mut Umem, into: &mut Burst, limit: usize) -> usize;

    /// Moves packets from the front of `from` to the TX ring, until that is full. Returns how many;
    /// the rest stays in `from`, in order.
    fn transmit(&mut self, umem: &mut Umem, from: &mut Burst) -> usize;

    /// Takes back the frames of packets that were sent. Returns how many.
    fn reclaim(&mut self, umem: &mut Umem) -> usize;

    /// Makes the kernel look at the TX and the fill ring, if it asked to be told. One bounded step:
    /// [`Kick::Again`] says that another is wanted.
    ///
    /// # Errors
    /// [`PortError::Gone`] when the interface is not there any more; other errors are the kernel's.
    fn kick(&mut self) -> Result<Kick, PortError>;

    /// What to wait on for packets; `None` where there is nothing to wait on.
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// The port's own counters.
    fn counters(&self) -> PortCounters;

    /// The kernel's counters.
    ///
    /// # Errors
    /// The kernel's.
    fn kernel_counters(&self) -> Result<KernelCounters, PortError>;

    /// Whether our system calls drive the driver's receive work (preferred busy polling in force).
    fn busy_polling(&self) -> bool {
        false
    }

    /// How full the rings are.
    fn occupancy(&mut self) -> Occupancy;

    /// Stops new packets from coming in: steering off. What is on the rings stays.
    ///
    /// # Errors
    /// The kernel's.
    fn steer(&mut self, on: bool) -> Result<(), PortError>;
}

/// The memory of an actor, and each of its ports or why it could not be opened.
pub type Opened<P> = (Umem, Vec<Result<P, PortError>>);

/// How an actor gets its ports: used on the actor's own core, so that memory is touched there first.
pub trait Backend: Send + 'static {
    /// The kind of port it opens.
    type Port: Port + 'static;
    /// What one port is opened from.
    type OpenParams: Send + 'static;

    /// Opens the memory and all ports of one actor; the order of the ports is the order asked for.
    /// Steering is still off. May wait for queues that are busy.
    ///
    /// # Errors
    /// [`PortError`]; whatever was opened before is closed again.
    fn open(&mut self) -> Result<(Umem, Vec<Self::Port>), PortError>;

    /// As [`open`](Self::open), but a port whose interface is not there ([`PortError::waits`]) is that error in its
    /// place, to be opened by [`reopen`](Self::reopen) later. At least one is open.
    ///
    /// # Errors
    /// As there; if no port can be opened, the first one's.
    fn open_available(&mut self) -> Result<Opened<Self::Port>, PortError> {
        let (umem, ports) = self.open()?;
        Ok((umem, ports.into_iter().map(Ok).collect()))
    }

    /// Opens port `port` of `umem` again, whose earlier [`Port`] has been dropped, while the others go on:
    /// one try, which does not wait. Steering is off.
    ///
    /// While the earlier port lives, or on other memory than [`open`](Self::open) returned, it is refused
    /// ([`PortError::Taken`], [`PortError::OtherMemory`]).
    ///
    /// The earlier socket's frames are written off with the first try
    /// ([`FrameCounts::written_off`](crate::umem::FrameCounts)), because the kernel may work on them until it has
    /// taken that socket down; they are free again when this one is bound.
    ///
    /// # Errors
    /// [`PortError::is_busy`] while the kernel has not finished with the earlier socket, usually 15 to
    /// 60 ms: try again. For other errors as well, when their cause is mended.
    fn reopen(&mut self, port: PortIndex, umem: &mut Umem) -> Result<Self::Port, PortError>;

    /// Replaces what port `port` is opened from by the next [`reopen`](Self::reopen): its interface was
    /// made again, and has another program.
    fn set_params(&mut self, port: PortIndex, request: Self::OpenParams);
}

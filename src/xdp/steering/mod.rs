//! Steering: which received packets go to a queue's AF_XDP socket, and which to the kernel.
//!
//! One [`Steering`] per interface owns our XDP program (`bpf/steer.bpf.c`), its maps and its link. The
//! supervisor holds it; each queue's actor gets the [`XskMapEntry`] of its queue, and nothing else of it. All
//! that is listed by [`Steering::allow`] goes to the sockets, everything else to the kernel untouched.
//! The table of verdicts is in `docs/steering.md`.
//!
//! ```no_run
//! use oxide::xdp::steering::{Steering, SteeringOptions};
//!
//! let mut steering = Steering::attach("eth0", &SteeringOptions::default())?;
//! steering.allow("192.0.2.7".parse()?, [53..=53, 20_000..=29_999])?;
//! let slot = steering.slot(0)?; // for the actor of RX queue 0: slot.insert(socket)
//! assert!(steering.is_attached()?);
//! # drop(slot);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attach;
mod bpf;
mod counters;
mod error;
mod interface;
mod pass_all;
mod program;

pub use counters::{SteeringCounters, Verdict};
pub use error::SteeringError;
pub use pass_all::PassAll;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::MapError;

use attach::{Attachment, AttachmentState};
use program::{Key, PortBits, Program};

/// Slots of the XSKMAP: RX queues 0 to 255.
pub const MAX_QUEUES: u32 = 256;
/// Addresses that can be listed. Each takes 8 KiB of kernel memory.
pub const MAX_ADDRESSES: u32 = 1024;

/// How the program is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachMode {
    /// Native; generic if the driver refuses that.
    #[default]
    Auto,
    /// In the driver, before an skb is made.
    Native,
    /// In the network stack, with an skb: any interface, at the price of a copy.
    Generic,
}

impl AttachMode {
    /// `XDP_FLAGS_*_MODE` of include/uapi/linux/if_link.h.
    const fn flags(self) -> u32 {
        match self {
            Self::Auto => 0,
            Self::Generic => 1 << 1,
            Self::Native => 1 << 2,
        }
    }
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// What happens to a listed packet whose queue has no socket, as between two lives of an actor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// To the kernel, which answers with ICMP port unreachable if nothing listens there.
    #[default]
    Pass,
    /// Dropped.
    Drop,
}

impl Fallback {
    /// `enum xdp_action`.
    const fn action(self) -> u32 {
        match self {
            Self::Drop => 1,
            Self::Pass => 2,
        }
    }
}

/// How to attach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SteeringOptions {
    /// Mode wanted.
    pub attach: AttachMode,
    /// For queues without a socket.
    pub fallback: Fallback,
    /// Take off another's XDP program, if one is there. Otherwise that is an error.
    pub replace: bool,
}

/// The steering program on one interface. Dropping it, or the end of the process by any cause, takes
/// the program off.
pub struct Steering {
    interface: String,
    attachment: Attachment,
    program: Program,
}

// The supervisor's thread and the actors' are not the one that attached.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Steering>();
    is_send::<XskMapEntry>();
    is_send::<PassAll>();
};

impl fmt::Debug for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steering")
            .field("interface", &self.interface)
            .field("attachment", &self.attachment)
            .finish_non_exhaustive()
    }
}

impl Steering {
    /// Loads the program and attaches it to `interface` of the calling thread's network namespace.
    /// Nothing is listed yet, so every packet goes on to the kernel.
    ///
    /// Needs `CAP_NET_ADMIN` and `CAP_BPF`. Takes tens of milliseconds: the kernel waits for its
    /// readers, and aya parses the kernel's type information, which we have no use for (26 ms and
    /// 20 MB for a moment, on an EPYC of 2024).
    ///
    /// # Errors
    /// [`SteeringError`], told apart by cause. Nothing stays attached or loaded then.
    pub fn attach(interface: &str, options: &SteeringOptions) -> Result<Self, SteeringError> {
        let program = Program::load(interface, options.fallback)?;
        let attachment = Attachment::new(program.fd.as_fd(), interface, options.attach, options.replace)?;
        Ok(Self { interface: interface.to_owned(), attachment, program })
    }

    /// Loads the program and its maps without an interface, and lets them go.
    pub(super) fn try_load() -> Result<(), SteeringError> {
        Program::load("no interface", Fallback::Pass).map(drop)
    }

    /// The mode in force: [`AttachMode::Native`] or [`AttachMode::Generic`].
    #[must_use]
    pub fn mode(&self) -> AttachMode {
        self.attachment.mode
    }

    /// Why native mode was not possible, where it was tried.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        self.attachment.why.as_deref()
    }

    /// Lists `ports` of `address`, beside those that are listed already. One step for the packets: they
    /// see all the ports of this call or none.
    ///
    /// `address` is one of the host's own. An IPv4-mapped IPv6 address means its IPv4 address; packets
    /// that carry the mapped form itself are never steered.
    ///
    /// # Errors
    /// [`SteeringError::Address`] if it is not unicast, [`SteeringError::ListFull`].
    pub fn allow(
        &mut self,
        address: IpAddr,
        ports: impl IntoIterator<Item = RangeInclusive<u16>>,
    ) -> Result<(), SteeringError> {
        let listed = self.ports(address)?.unwrap_or([0; 8192]);
        self.write(address, listed, ports)
    }

    /// Lists `ports` of `address` and no others: what was listed and is not among them goes to the kernel from now
    /// on. One step for the packets, as with [`allow`](Self::allow).
    ///
    /// # Errors
    /// As there.
    pub fn set(
        &mut self,
        address: IpAddr,
        ports: impl IntoIterator<Item = RangeInclusive<u16>>,
    ) -> Result<(), SteeringError> {
        self.write(address, [0; 8192], ports)
    }

    fn write(
        &mut self,
        address: IpAddr,
        mut bits: PortBits,
        ports: impl IntoIterator<Item = RangeInclusive<u16>>,
    ) -> Result<(), SteeringError> {
        let canonical = address.to_canonical();
        let broadcast = matches!(canonical, IpAddr::V4(v4) if v4.is_broadcast());
        if canonical.is_unspecified() || canonical.is_multicast() || broadcast {
            return Err(SteeringError::Address { address });
        }
        for port in ports.into_iter().flatten() {
            // port / 8 <= 8191.
            bits[usize::from(port / 8)] |= 1 << (port % 8);
        }
        self.program.listed.insert(key(address), bits, 0).map_err(|error| match program::os_error(&error) {
            Some(os) if os.raw_os_error() == Some(libc::E2BIG) => SteeringError::ListFull { address },
            os => self.map_failed("list an address", os),
        })
    }

    /// Takes `address` off the list, with all its ports. No error if it was not listed.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel refuses.
    pub fn deny(&mut self, address: IpAddr) -> Result<(), SteeringError> {
        match self.program.listed.remove(&key(address)).map_err(|error| program::os_error(&error)) {
            Err(Some(os)) if os.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(os) => Err(self.map_failed("take an address off the list", os)),
            Ok(()) => Ok(()),
        }
    }

    /// Whether UDP packets to `port` of `address` are steered, asked of the kernel.
    #[must_use]
    pub fn listed(&self, address: IpAddr, port: u16) -> bool {
        // port / 8 <= 8191.
        self.ports(address).ok().flatten().is_some_and(|bits| bits[usize::from(port / 8)] >> (port % 8) & 1 == 1)
    }

    /// The place of one RX queue's socket.
    ///
    /// # Errors
    /// [`SteeringError::Queue`] if `queue` is not below [`MAX_QUEUES`].
    pub fn slot(&self, queue: u32) -> Result<XskMapEntry, SteeringError> {
        if queue >= MAX_QUEUES {
            return Err(SteeringError::Queue { interface: self.interface.clone(), queue });
        }
        let map = self.program.sockets.try_clone();
        let map = map.map_err(|e| SteeringError::kernel(&self.interface, "duplicate a descriptor", e))?;
        Ok(XskMapEntry { map, queue })
    }

    /// Packets by verdict since the program was attached. Costs one system call per verdict.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel refuses.
    pub fn counters(&self) -> Result<SteeringCounters, SteeringError> {
        let mut counters = SteeringCounters::default();
        for (counter, key) in counters.0.iter_mut().zip(0_u32..) {
            let per_cpu = self.program.counters.get(&key, 0);
            let per_cpu = per_cpu.map_err(|e| self.map_failed("read the counters", program::os_error(&e)))?;
            *counter = per_cpu.iter().sum();
        }
        Ok(counters)
    }

    /// Whether the program still is on its interface. It is not once another process detached it, put another one under
    /// our link, or the interface went away; no event tells, so look now and then.
    ///
    /// # Errors
    /// [`SteeringError`] if the kernel refuses.
    pub fn is_attached(&self) -> Result<bool, SteeringError> {
        self.hold().map(|hold| hold == AttachmentState::Ours)
    }

    fn hold(&self) -> Result<AttachmentState, SteeringError> {
        self.attachment.hold().map_err(|e| SteeringError::kernel(&self.interface, "look at the XDP link", e))
    }

    /// Puts the program back on its interface after somebody took it off, or under our link after somebody put another
    /// one there. Lists, sockets and counters are as they were.
    ///
    /// # Errors
    /// As [`attach`](Self::attach); [`SteeringError::Busy`] if another program is there now.
    pub fn reattach(&mut self, options: &SteeringOptions) -> Result<(), SteeringError> {
        let program = self.program.fd.as_fd();
        if let AttachmentState::Swapped(other) = self.hold()? {
            tracing::warn!(interface = self.interface, program = other, "another program was put under our XDP link");
            let restored = self.attachment.restore(program);
            return restored.map_err(|e| SteeringError::kernel(&self.interface, "put our XDP program back", e));
        }
        self.attachment = Attachment::new(program, &self.interface, options.attach, options.replace)?;
        Ok(())
    }

    /// Runs the program over `packet` as if RX queue `queue` had received it, and returns its
    /// `enum xdp_action`. Counts like a real packet; delivers nothing. For tests.
    ///
    /// # Errors
    /// The kernel's answer; `EINVAL` if the interface has no such queue.
    #[doc(hidden)]
    pub fn test_run(&self, packet: &[u8], queue: u32) -> io::Result<u32> {
        bpf::test_run(self.program.fd.as_fd(), packet, self.attachment.ifindex, queue)
    }

    fn ports(&self, address: IpAddr) -> Result<Option<PortBits>, SteeringError> {
        match self.program.listed.get(&key(address), 0) {
            Ok(bits) => Ok(Some(bits)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(self.map_failed("read the list", program::os_error(&error))),
        }
    }

    fn map_failed(&self, step: &'static str, source: Option<io::Error>) -> SteeringError {
        let source = source.unwrap_or_else(|| io::Error::other("the map is not of the expected shape"));
        SteeringError::kernel(&self.interface, step, source)
    }
}

/// Whether an XDP program is on the interface, whoever put it there. One netlink question, where an attempt to attach
/// costs a program load.
pub(crate) fn has_program(interface: &str) -> bool {
    interface::Interface::find(interface).is_ok_and(|found| found.programs().next().is_some())
}

/// Takes every XDP program off an interface, whoever put it there. For tests of what happens then.
///
/// # Errors
/// [`SteeringError`] if the kernel refuses.
#[doc(hidden)]
pub fn detach_all(interface: &str) -> Result<(), SteeringError> {
    attach::clear(interface)
}

/// Puts a program that passes everything under the XDP links of an interface, whoever made them. For tests of what
/// happens then.
///
/// # Errors
/// [`SteeringError`] if the kernel refuses.
#[doc(hidden)]
pub fn swap_all(interface: &str) -> Result<(), SteeringError> {
    let program = pass_all::program().map_err(|e| SteeringError::kernel(interface, "load a program", e))?;
    attach::swap(interface, program.as_fd())
}

fn key(address: IpAddr) -> Key {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The place of one RX queue's socket in the steering program, for the actor that owns the queue. A
/// handle of its own: it can go to another thread, and may outlive its [`Steering`], without effect
/// then.
#[derive(Debug)]
pub struct XskMapEntry {
    map: OwnedFd,
    queue: u32,
}

impl XskMapEntry {
    /// Index of the RX queue.
    #[must_use]
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// From now on listed packets of this queue go to `socket`, an AF_XDP socket bound to the queue.
    /// One that was there before is replaced. Closing the socket empties the slot.
    ///
    /// # Errors
    /// [`SteeringError::Socket`] if it is no AF_XDP socket.
    pub fn insert(&self, socket: BorrowedFd<'_>) -> Result<(), SteeringError> {
        bpf::xskmap_update(self.map.as_fd(), self.queue, socket)
            .map_err(|source| SteeringError::Socket { queue: self.queue, source })
    }

    /// From now on listed packets of this queue take the fallback. No error if the slot was empty.
    ///
    /// # Errors
    /// [`SteeringError::Socket`] if the kernel refuses.
    pub fn remove(&self) -> Result<(), SteeringError> {
        bpf::xskmap_delete(self.map.as_fd(), self.queue)
            .map_err(|source| SteeringError::Socket { queue: self.queue, source })
    }
}

//! Decides which received packets go to a queue's AF_XDP socket, and which to the kernel.
//!
//! One [`Steering`] per interface owns the XDP program (`bpf/steer.bpf.c`), its maps and its link. The supervisor holds
//! it, and each queue's actor gets only the [`XskMapEntry`] of its queue. Packets to the destinations of
//! [`Steering::allow`] go to the sockets; all other packets go to the kernel unchanged. The table of verdicts is in
//! `docs/steering.md`.
//!
//! ```no_run
//! use oxide::xdp::steering::{Steering, SteeringOptions};
//!
//! let mut steering = Steering::attach("eth0", &SteeringOptions::default())?;
//! steering.allow("192.0.2.7".parse()?, [53..=53, 20_000..=29_999])?;
//! let slot = steering.slot(0)?; // The actor of RX queue 0 calls slot.insert(socket).
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

/// Counts the entries of the XSKMAP, for RX queues 0 to 255.
pub const MAX_QUEUES: u32 = 256;
/// Limits the addresses of the destinations. Each one takes 8 KiB of kernel memory.
pub const MAX_ADDRESSES: u32 = 1024;

/// Names the mode in which the program is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachMode {
    /// Uses native mode, or generic mode if the driver refuses native mode.
    #[default]
    Auto,
    /// Runs in the driver, before an skb is built.
    Native,
    /// Runs in the network stack with an skb. It works on any interface, but costs a copy.
    Generic,
}

impl AttachMode {
    /// Returns `XDP_FLAGS_*_MODE` of include/uapi/linux/if_link.h.
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

/// States what happens to a listed packet whose queue has no socket, for example between two actors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// Passes it to the kernel, which answers with ICMP port unreachable if nothing listens there.
    #[default]
    Pass,
    /// Drops it.
    Drop,
}

impl Fallback {
    /// Returns the value of `enum xdp_action`.
    const fn action(self) -> u32 {
        match self {
            Self::Drop => 1,
            Self::Pass => 2,
        }
    }
}

/// Sets how the program is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SteeringOptions {
    /// Requested mode.
    pub attach: AttachMode,
    /// Action for queues without a socket.
    pub fallback: Fallback,
    /// Whether to detach another XDP program first. Otherwise such a program is an error.
    pub replace: bool,
}

/// Owns the steering program on one interface. Dropping it detaches the program, as does the end of the process for any
/// reason.
pub struct Steering {
    interface: String,
    attachment: Attachment,
    program: Program,
}

// These types move to the threads of the supervisor and the actors.
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
    /// Loads the program and attaches it to `interface` of the calling thread's network namespace. There are no
    /// destinations yet, so every packet goes to the kernel.
    ///
    /// It needs `CAP_NET_ADMIN` and `CAP_BPF`. It takes tens of milliseconds: the kernel waits for its readers, and aya
    /// parses the kernel's type information, which is not needed here (26 ms and a temporary 20 MB on an EPYC of 2024).
    ///
    /// # Errors
    /// Returns a [`SteeringError`] with the cause. Nothing stays attached or loaded.
    pub fn attach(interface: &str, options: &SteeringOptions) -> Result<Self, SteeringError> {
        let program = Program::load(interface, options.fallback)?;
        let attachment = Attachment::new(program.fd.as_fd(), interface, options.attach, options.replace)?;
        Ok(Self { interface: interface.to_owned(), attachment, program })
    }

    /// Loads the program and its maps without an interface, and unloads them.
    pub(super) fn try_load() -> Result<(), SteeringError> {
        Program::load("no interface", Fallback::Pass).map(drop)
    }

    /// Returns the mode in force: [`AttachMode::Native`] or [`AttachMode::Generic`].
    #[must_use]
    pub fn mode(&self) -> AttachMode {
        self.attachment.mode
    }

    /// Returns why native mode was not possible, if it was tried.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        self.attachment.why.as_deref()
    }

    /// Adds `ports` of `address` to the destinations. The change is atomic for packets: they see all ports of this call
    /// or none.
    ///
    /// `address` is one of the host's addresses. An IPv4-mapped IPv6 address means its IPv4 address. Packets with the
    /// mapped form itself are never steered.
    ///
    /// # Errors
    /// Returns [`SteeringError::Address`] if it is not unicast, or [`SteeringError::ListFull`].
    pub fn allow(
        &mut self,
        address: IpAddr,
        ports: impl IntoIterator<Item = RangeInclusive<u16>>,
    ) -> Result<(), SteeringError> {
        let listed = self.ports(address)?.unwrap_or([0; 8192]);
        self.write(address, listed, ports)
    }

    /// Sets the destinations of `address` to `ports`. Its other ports go to the kernel from now on. The change is
    /// atomic for packets, as with [`allow`](Self::allow).
    ///
    /// # Errors
    /// Returns the errors of [`allow`](Self::allow).
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
            // The index port / 8 is at most 8191.
            bits[usize::from(port / 8)] |= 1 << (port % 8);
        }
        self.program.listed.insert(key(address), bits, 0).map_err(|error| match program::os_error(&error) {
            Some(os) if os.raw_os_error() == Some(libc::E2BIG) => SteeringError::ListFull { address },
            os => self.map_failed("list an address", os),
        })
    }

    /// Adds a prefix to the destinations: packets to its addresses are steered, whatever their protocol, fragments and
    /// packets with options included. A packet is not steered if its frame has a VLAN tag or a group address.
    ///
    /// `length` counts bits of `address`. No address of the host should be inside: its packets would no longer reach the kernel.
    ///
    /// # Errors
    /// Returns [`SteeringError::Address`] if it is a multicast prefix or has more bits than the address, or
    /// [`SteeringError::ListFull`].
    pub fn allow_prefix(&mut self, address: IpAddr, length: u8) -> Result<(), SteeringError> {
        let (bits, offset) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        if address.is_multicast() || length > bits || mapped {
            return Err(SteeringError::Address { address });
        }
        let prefix = aya::maps::lpm_trie::Key::new(u32::from(length) + offset, key(address));
        self.program.prefixes.insert(&prefix, 1, 0).map_err(|error| match program::os_error(&error) {
            Some(os) if os.raw_os_error() == Some(libc::ENOSPC) => SteeringError::ListFull { address },
            os => self.map_failed("list a prefix", os),
        })
    }

    /// Removes `address` with all its ports from the destinations. It is no error if the address was not listed.
    ///
    /// # Errors
    /// Returns a [`SteeringError`] if the kernel refuses.
    pub fn deny(&mut self, address: IpAddr) -> Result<(), SteeringError> {
        match self.program.listed.remove(&key(address)).map_err(|error| program::os_error(&error)) {
            Err(Some(os)) if os.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(os) => Err(self.map_failed("remove an address from the list", os)),
            Ok(()) => Ok(()),
        }
    }

    /// Returns whether UDP packets to `port` of `address` are steered, as the kernel reports it.
    #[must_use]
    pub fn listed(&self, address: IpAddr, port: u16) -> bool {
        // The index port / 8 is at most 8191.
        self.ports(address).ok().flatten().is_some_and(|bits| bits[usize::from(port / 8)] >> (port % 8) & 1 == 1)
    }

    /// Returns the XSKMAP entry of one RX queue.
    ///
    /// # Errors
    /// Returns [`SteeringError::Queue`] if `queue` is not below [`MAX_QUEUES`].
    pub fn slot(&self, queue: u32) -> Result<XskMapEntry, SteeringError> {
        if queue >= MAX_QUEUES {
            return Err(SteeringError::Queue { interface: self.interface.clone(), queue });
        }
        let map = self.program.sockets.try_clone();
        let map = map.map_err(|e| SteeringError::kernel(&self.interface, "duplicate a descriptor", e))?;
        Ok(XskMapEntry { map, queue })
    }

    /// Returns the packets by verdict since the program was attached. It takes one system call per verdict.
    ///
    /// # Errors
    /// Returns a [`SteeringError`] if the kernel refuses.
    pub fn counters(&self) -> Result<SteeringCounters, SteeringError> {
        let mut counters = SteeringCounters::default();
        for (counter, key) in counters.0.iter_mut().zip(0_u32..) {
            let per_cpu = self.program.counters.get(&key, 0);
            let per_cpu = per_cpu.map_err(|e| self.map_failed("read the counters", program::os_error(&e)))?;
            *counter = per_cpu.iter().sum();
        }
        Ok(counters)
    }

    /// Returns whether the program still is on its interface. Another process may have detached it or put another
    /// program into the link, or the interface may have been deleted. No event reports this, so callers check
    /// regularly.
    ///
    /// # Errors
    /// Returns a [`SteeringError`] if the kernel refuses.
    pub fn is_attached(&self) -> Result<bool, SteeringError> {
        self.hold().map(|hold| hold == AttachmentState::Ours)
    }

    fn hold(&self) -> Result<AttachmentState, SteeringError> {
        self.attachment.hold().map_err(|e| SteeringError::kernel(&self.interface, "read the XDP link", e))
    }

    /// Attaches the program again after another process detached it, or puts it back into the link after another
    /// process replaced it. Destinations, sockets and counters do not change.
    ///
    /// # Errors
    /// Returns the errors of [`attach`](Self::attach), for example [`SteeringError::Busy`] if another program is
    /// attached.
    pub fn reattach(&mut self, options: &SteeringOptions) -> Result<(), SteeringError> {
        let program = self.program.fd.as_fd();
        if let AttachmentState::Swapped(other) = self.hold()? {
            tracing::warn!(
                interface = self.interface,
                program = other,
                "another program was put into the XDP link; replacing it"
            );
            let restored = self.attachment.restore(program);
            return restored.map_err(|e| SteeringError::kernel(&self.interface, "put the XDP program back", e));
        }
        self.attachment = Attachment::new(program, &self.interface, options.attach, options.replace)?;
        Ok(())
    }

    /// Runs the program over `packet` as if RX queue `queue` had received it. Returns its `enum xdp_action`. It counts
    /// like a real packet but delivers nothing. It is meant for tests.
    ///
    /// # Errors
    /// Returns the error of the kernel, which is `EINVAL` if the interface has no such queue.
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
        let source = source.unwrap_or_else(|| io::Error::other("the map has an unexpected layout"));
        SteeringError::kernel(&self.interface, step, source)
    }
}

/// Returns whether an XDP program of any owner is on the interface. It sends one netlink request, while an attempt to
/// attach would load a program.
pub(crate) fn has_program(interface: &str) -> bool {
    interface::Interface::find(interface).is_ok_and(|found| found.programs().next().is_some())
}

/// Detaches every XDP program of any owner from an interface, for tests.
///
/// # Errors
/// Returns a [`SteeringError`] if the kernel refuses.
#[doc(hidden)]
pub fn detach_all(interface: &str) -> Result<(), SteeringError> {
    attach::clear(interface)
}

/// Puts a program that passes everything into the XDP links of an interface, for tests.
///
/// # Errors
/// Returns a [`SteeringError`] if the kernel refuses.
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

/// Refers to the XSKMAP entry of one RX queue, for the actor that owns the queue. It can move to another thread. It may
/// outlive its [`Steering`], and has no effect then.
#[derive(Debug)]
pub struct XskMapEntry {
    map: OwnedFd,
    queue: u32,
}

impl XskMapEntry {
    /// Returns the number of the RX queue.
    #[must_use]
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Redirects listed packets of this queue to `socket`, an AF_XDP socket bound to the queue. It replaces an earlier
    /// socket. Closing the socket empties the entry.
    ///
    /// # Errors
    /// Returns [`SteeringError::Socket`] if it is no AF_XDP socket.
    pub fn insert(&self, socket: BorrowedFd<'_>) -> Result<(), SteeringError> {
        bpf::xskmap_update(self.map.as_fd(), self.queue, socket)
            .map_err(|source| SteeringError::Socket { queue: self.queue, source })
    }

    /// Empties the entry, so that listed packets of this queue take the fallback. It is no error if it was empty.
    ///
    /// # Errors
    /// Returns [`SteeringError::Socket`] if the kernel refuses.
    pub fn remove(&self) -> Result<(), SteeringError> {
        bpf::xskmap_delete(self.map.as_fd(), self.queue)
            .map_err(|source| SteeringError::Socket { queue: self.queue, source })
    }
}

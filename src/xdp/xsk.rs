//! Owns one AF_XDP socket: socket(2), memory registration, rings, bind(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::xdp::{SocketAddrXdp, SocketAddrXdpFlags, XdpUmemReg, XdpUmemRegFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use super::rings::{self, MappedEnds};
use crate::umem::{PortIndex, RingSizes, Umem};

/// Owns a socket with its rings. It is either not bound, or bound to one queue until it closes.
///
/// Each socket registers the actor's memory itself. With XDP_SHARED_UMEM, a second socket could use the first one's
/// registration, but xsk_bind (net/xdp/xsk.c) requires the first socket to be bound, and uses its descriptor at each
/// later bind. So no port could outlive the first one. The kernel allows any number of registrations of the same pages;
/// the ledger ensures that a frame belongs to one socket only.
pub(super) struct Xsk {
    // Fields are dropped in this order: the kernel keeps the socket while a ring is mapped.
    pub(super) ends: MappedEnds,
    socket: OwnedFd,
}

/// Names the refused step of [`Xsk::new`], with the error of the kernel.
pub(super) type Refused = (&'static str, io::Error);

/// Names the step that pins the packet memory.
pub(super) const REGISTERING: &str = "register the UMEM";

impl Xsk {
    /// Creates a socket for port `port` of `umem`, registers the memory, and maps empty rings of `sizes`.
    pub(super) fn new(umem: &mut Umem, port: PortIndex, sizes: RingSizes) -> Result<Self, Refused> {
        let at = |step| move |error: rustix::io::Errno| (step, io::Error::from(error));
        let socket = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map_err(at("create the AF_XDP socket"))?;
        register(socket.as_fd(), umem).map_err(|error| (REGISTERING, error))?;
        // SAFETY: the key goes to `PortRings`, which keeps it. It posts only frames that this memory gives out for the
        // key, on this socket's rings. It reports each entry that the kernel returned on the RX and the completion ring
        // once. The kernel writes to frames from the fill ring and reads frames from the TX ring, between their start
        // and their end (xp_aligned_validate_desc, net/xdp/xsk_queue.h), and returns them when it is done.
        let key = unsafe { umem.kernel_port(port) };
        let key = key.map_err(|taken| ("reserve the port's index", io::Error::other(taken)))?;
        let ends = rings::map(socket.as_fd(), key, sizes).map_err(|error| ("create the rings", error))?;
        Ok(Self { ends, socket })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Binds to `queue` of the interface with number `ifindex` (xsk_bind, net/xdp/xsk.c). `flags` contains XDP_COPY or
    /// XDP_ZEROCOPY. EBUSY means that the queue has a socket. The caller may then try again, because the kernel took
    /// nothing from the fill ring.
    pub(super) fn bind(&self, ifindex: u32, queue: u32, flags: SocketAddrXdpFlags) -> io::Result<()> {
        let flags = flags | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
        Ok(bind(&self.socket, &SocketAddrXdp::new(flags, ifindex, queue))?)
    }
}

/// Registers the memory with XDP_UMEM_REG (xdp_umem_create, net/xdp/xdp_umem.c). The kernel pins the pages and counts
/// them against the user's locked memory, unless CAP_IPC_LOCK is held. ENOBUFS means that the limit is exceeded.
fn register(socket: BorrowedFd<'_>, umem: &Umem) -> io::Result<()> {
    let (addr, len) = umem.span();
    let layout = umem.layout();
    let registration = XdpUmemReg {
        addr,
        len,
        chunk_size: layout.frame_size(),
        headroom: layout.headroom(),
        flags: XdpUmemRegFlags::empty(),
        tx_metadata_len: 0,
    };
    Ok(sockopt::set_xdp_umem_reg(socket, registration)?)
}

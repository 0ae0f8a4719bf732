//! One AF_XDP socket: socket(2), the memory it is told of, its rings, bind(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::xdp::{SocketAddrXdp, SocketAddrXdpFlags, XdpUmemReg, XdpUmemRegFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use super::rings::{self, MappedEnds};
use crate::umem::{PortIndex, RingSizes, Umem};

/// A socket with its rings. Not bound yet, or bound to one queue for the rest of its life.
///
/// Each socket registers the actor's memory for itself, where XDP_SHARED_UMEM would let a second socket
/// use the first one's registration: xsk_bind (net/xdp/xsk.c) accepts only a *bound* socket as the first,
/// whose descriptor is asked for again at each later bind, so that no port could outlive the first one.
/// The kernel allows any number of registrations of the same pages; the ledger sees to it that a frame is
/// with one socket only.
pub(super) struct Xsk {
    // Dropped in this order: the kernel keeps the socket while a ring is mapped.
    pub(super) ends: MappedEnds,
    socket: OwnedFd,
}

/// The step of [`Xsk::new`] that was refused, and the kernel's answer.
pub(super) type Refused = (&'static str, io::Error);

/// The name of the step that pins the packet memory.
pub(super) const REGISTERING: &str = "registering the UMEM";

impl Xsk {
    /// A socket for port `port` of `umem`, which it knows, with rings of `sizes`, all empty.
    pub(super) fn new(umem: &mut Umem, port: PortIndex, sizes: RingSizes) -> Result<Self, Refused> {
        let at = |step| move |error: rustix::io::Errno| (step, io::Error::from(error));
        let socket = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map_err(at("creating the AF_XDP socket"))?;
        register(socket.as_fd(), umem).map_err(|error| (REGISTERING, error))?;
        // SAFETY: the key goes to `Ends`, which keeps it. That posts no other frames than this memory gives out for the
        // key, on this socket's rings, and reports what the kernel returned on the RX and the completion ring, each entry
        // once. The kernel writes to frames that it has from the fill ring and reads those from the TX ring, between
        // their start and their end (xp_aligned_validate_desc, net/xdp/xsk_queue.h), and returns them when it is done.
        let key = unsafe { umem.kernel_port(port) };
        let key = key.map_err(|taken| ("taking the port's number", io::Error::other(taken)))?;
        let ends = rings::map(socket.as_fd(), key, sizes).map_err(|error| ("making the rings", error))?;
        Ok(Self { ends, socket })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Binds to `queue` of the interface numbered `ifindex` (xsk_bind, net/xdp/xsk.c). `flags` has
    /// XDP_COPY or XDP_ZEROCOPY. After EBUSY, which means that the queue has a socket, it may be tried
    /// again; nothing was taken from the fill ring.
    pub(super) fn bind(&self, ifindex: u32, queue: u32, flags: SocketAddrXdpFlags) -> io::Result<()> {
        let flags = flags | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
        Ok(bind(&self.socket, &SocketAddrXdp::new(flags, ifindex, queue))?)
    }
}

/// XDP_UMEM_REG (xdp_umem_create, net/xdp/xdp_umem.c): the kernel pins the pages and counts them against
/// the user's locked memory, unless CAP_IPC_LOCK is held. ENOBUFS: more than the limit.
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

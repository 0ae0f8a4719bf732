//! Maps the four rings of one socket, in the layout of the kernel.
//!
//! ```text
//!   XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING                      of Descriptor   packets
//!   XDP_UMEM_PGOFF_FILL_RING, XDP_UMEM_PGOFF_COMPLETION_RING  of u64          addresses of frames
//! ```

use std::ffi::c_void;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::sockopt;
use rustix::net::xdp::{
    XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpRingOffset,
};

use crate::port::{PortRings, RingHandles};
use crate::ring::{Descriptor, Mapped, RingOffsets};
use crate::umem::{self, PortKey, RingSizes};

/// Holds the user side of a socket's rings. Each ring is unmapped on drop. The kernel keeps the socket, and so the
/// queue, as long as one of them is mapped.
pub(super) type MappedEnds = PortRings<Mapped<u64>, Mapped<Descriptor>>;

/// Sets the sizes (XDP_RX_RING and the like) and maps the rings. It must run before bind, because xsk_mmap
/// (net/xdp/xsk.c) refuses a bound socket. It runs only once for a socket, because a ring has one user.
pub(super) fn map(socket: BorrowedFd<'_>, key: PortKey, sizes: RingSizes) -> io::Result<MappedEnds> {
    sockopt::set_xdp_rx_ring_size(socket, sizes.rx)?;
    sockopt::set_xdp_tx_ring_size(socket, sizes.tx)?;
    sockopt::set_xdp_umem_fill_ring_size(socket, sizes.fill)?;
    sockopt::set_xdp_umem_completion_ring_size(socket, sizes.completion)?;
    let at = sockopt::xdp_mmap_offsets(socket)?;
    let invalid = |e| io::Error::new(io::ErrorKind::InvalidInput, e);
    let rx = ring(socket, XDP_PGOFF_RX_RING, &at.rx, sizes.rx)?;
    let tx = ring(socket, XDP_PGOFF_TX_RING, &at.tx, sizes.tx)?;
    let fill = ring(socket, XDP_UMEM_PGOFF_FILL_RING, &at.fr, sizes.fill)?;
    let completion = ring(socket, XDP_UMEM_PGOFF_COMPLETION_RING, &at.cr, sizes.completion)?;
    let rings = RingHandles {
        rx: rx.consumer(sizes.rx).map_err(invalid)?,
        tx: tx.producer(sizes.tx).map_err(invalid)?,
        fill: fill.producer(sizes.fill).map_err(invalid)?,
        completion: completion.consumer(sizes.completion).map_err(invalid)?,
    };
    Ok(PortRings::new(rings, key, sizes))
}

/// Maps the ring of `entries` entries at `page_offset` of `socket`.
fn ring<T: Copy + 'static>(
    socket: BorrowedFd<'_>,
    page_offset: u64,
    at: &XdpRingOffset,
    entries: u32,
) -> io::Result<Mapped<T>> {
    // Kernel 5.4 introduced the flags.
    let Some(flags) = at.flags else { return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)) };
    let offsets = RingOffsets {
        producer: at.producer as usize,
        consumer: at.consumer as usize,
        flags: flags as usize,
        slots: at.desc as usize,
    };
    let mapping = Mapping::new(socket, page_offset, offsets.slots + entries as usize * size_of::<T>())?;
    let start = mapping.start.cast();
    // SAFETY: the kernel lays out the three index words and `entries` entries of the size of `T` at these offsets
    // (XDP_MMAP_OFFSETS), page-aligned, and the mapping covers them. Any bits are a valid descriptor or address. `map`
    // creates one user of each ring, and the kernel is the other one (net/xdp/xsk_queue.h).
    Ok(unsafe { Mapped::new(start, &offsets, Arc::new(mapping)) })
}

struct Mapping {
    start: NonNull<c_void>,
    length: usize,
}

// SAFETY: a mapping belongs to the process. This type only unmaps it, which any thread may do.
unsafe impl Send for Mapping {}
// SAFETY: a shared reference gives no access to the mapping.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(socket: BorrowedFd<'_>, page_offset: u64, length: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address chosen by the kernel does not affect existing memory.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                socket,
                page_offset,
            )
        }?;
        let Some(start) = NonNull::new(start) else { return Err(io::Error::from_raw_os_error(libc::ENOMEM)) };
        umem::dont_fork(start.cast(), length);
        Ok(Self { start, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the mapping made in `new`. Its only user, the ring, is being dropped.
        if let Err(error) = unsafe { munmap(self.start.as_ptr(), self.length) } {
            tracing::error!(%error, "cannot unmap a ring; its queue stays busy");
        }
    }
}

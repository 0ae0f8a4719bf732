//! Sets socket options that rustix lacks, and makes the two system calls that wake the kernel for a ring. The comments
//! name the functions of net/xdp/xsk.c and net/core/sock.c.

use std::io;
use std::os::fd::RawFd;

use crate::port::Kick;

// Numbers of include/uapi/asm-generic/socket.h.
const SO_BUSY_POLL: libc::c_int = 46;
const SO_PREFER_BUSY_POLL: libc::c_int = 69;
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;
// Number of include/uapi/linux/if_xdp.h, since kernel 6.18: packets that one sendto may take in copy mode (default 32).
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Configures preferred busy polling: the actor's own system calls run the driver's receive work on its core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusyPoll {
    /// Time in microseconds for which one call may poll the driver.
    pub timeout_us: u32,
    /// Limit of packets that one call may take from the driver.
    pub budget: u32,
}

impl BusyPoll {
    /// Enables it for a bound socket. On devices without a NAPI id (veth in copy mode), the kernel accepts it without
    /// effect.
    pub(super) fn apply(self, fd: RawFd) -> io::Result<()> {
        set(fd, libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, 1)?;
        set(fd, libc::SOL_SOCKET, SO_BUSY_POLL, self.timeout_us)?;
        set(fd, libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, self.budget)
    }
}

/// Lets one kick send a whole ring if the kernel knows the option. Older kernels send 32 packets per kick.
pub(super) fn raise_tx_budget(fd: RawFd, packets: u32) {
    // Before 6.18 it is ENOPROTOOPT. The loop then kicks again, which costs more system calls and loses nothing.
    let _ = set(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, packets);
}

fn set(fd: RawFd, level: libc::c_int, name: libc::c_int, value: u32) -> io::Result<()> {
    let length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes from `value`, which lives through the call.
    let failed = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), length) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the kernel send the packets on the TX ring (xsk_sendmsg). Copy mode takes a small batch per call and returns
/// EAGAIN if more remain. EBUSY means that the driver dropped some, with a completion. ENOBUFS means that no skb could
/// be allocated. None of these loses a frame.
pub(super) fn wake_tx(fd: RawFd) -> io::Result<Kick> {
    // SAFETY: sendto(2) with no data and no address reads no memory.
    let failed = unsafe { libc::sendto(fd, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) } < 0;
    classify(failed)
}

/// Makes the kernel read the fill ring and, with busy polling, run the driver's receive work (xsk_recvmsg).
pub(super) fn wake_rx(fd: RawFd) -> io::Result<Kick> {
    // SAFETY: recvfrom(2) with a null buffer of length zero writes no memory.
    let failed = unsafe {
        libc::recvfrom(fd, std::ptr::null_mut(), 0, libc::MSG_DONTWAIT, std::ptr::null_mut(), std::ptr::null_mut())
    } < 0;
    classify(failed)
}

fn classify(failed: bool) -> io::Result<Kick> {
    if !failed {
        return Ok(Kick::Done);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => Ok(Kick::Again),
        Some(libc::ENETDOWN) => Ok(Kick::LinkDown),
        _ => Err(error),
    }
}

/// Returns whether the socket belongs to a NAPI instance that busy polling can drive (SO_INCOMING_NAPI_ID). The kernel
/// sets it at bind in zero-copy mode, and with the first packet in copy mode. It stays zero on veth.
pub(super) fn has_napi(fd: RawFd) -> bool {
    const SO_INCOMING_NAPI_ID: libc::c_int = 56;
    let mut id: u32 = 0;
    let mut length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `id`.
    let failed =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, SO_INCOMING_NAPI_ID, (&raw mut id).cast(), &raw mut length) };
    failed == 0 && id != 0
}

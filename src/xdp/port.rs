//! Implements the port contract over the four rings of one AF_XDP socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use rustix::net::sockopt;

use super::options;
use super::steering::XskMapEntry;
use super::xsk::Xsk;
use crate::port::{Burst, KernelCounters, Kick, Occupancy, Port, PortCounters, PortError, PortInfo};
use crate::umem::Umem;

/// Moves packets through one queue of one interface.
///
/// Dropping it closes the socket and unmaps its rings. The kernel releases the socket some tens of milliseconds later;
/// until then, a new bind to the queue returns EBUSY.
pub struct XdpPort {
    // Fields are dropped in this order: steering stops first, so that no packet goes to a closing socket.
    gate: XskMapGuard,
    xsk: Xsk,
    info: PortInfo,
    busy_poll: BusyPolling,
}

/// States whether this port's system calls drive the driver's receive work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BusyPolling {
    /// Busy polling is not configured, or the kernel refused it.
    Off,
    /// The kernel accepted it. The first packet shows whether there is a NAPI instance to drive.
    Accepted,
    /// Busy polling is in force.
    On,
}

/// Removes the socket's entry from the XSKMAP on drop.
struct XskMapGuard {
    slot: Option<Arc<XskMapEntry>>,
    open: bool,
}

impl Drop for XskMapGuard {
    fn drop(&mut self) {
        if self.open
            && let Some(slot) = &self.slot
            && let Err(error) = slot.remove()
        {
            tracing::warn!(%error, "cannot remove the socket from the XSKMAP; the kernel removes it at the close");
        }
    }
}

/// Holds the constructor arguments of the port.
pub(super) struct BoundSocket {
    /// Bound socket with its rings.
    pub(super) xsk: Xsk,
    pub(super) slot: Option<Arc<XskMapEntry>>,
    pub(super) info: PortInfo,
    pub(super) busy_poll: BusyPolling,
}

impl XdpPort {
    pub(super) fn new(parts: BoundSocket) -> Self {
        let BoundSocket { xsk, slot, info, busy_poll } = parts;
        Self { gate: XskMapGuard { slot, open: false }, xsk, info, busy_poll }
    }

    fn refused(&self, step: &'static str, source: io::Error) -> PortError {
        match source.raw_os_error() {
            Some(libc::ENXIO | libc::ENODEV) => PortError::Gone { id: self.info.id.clone(), source },
            _ => PortError::Refused { id: self.info.id.clone(), step, source, advice: String::new() },
        }
    }
}

impl Port for XdpPort {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn fill(&mut self, umem: &mut Umem) -> usize {
        self.xsk.ends.fill(umem)
    }

    fn receive(&mut self, umem: &mut Umem, into: &mut Burst, limit: usize) -> usize {
        let id = &self.info.id;
        let refuse = |error| tracing::error!(port = %id, %error, "RX descriptor refused");
        let taken = self.xsk.ends.receive(umem, into, limit, refuse);
        if taken > 0 && self.busy_poll == BusyPolling::Accepted {
            let driven = options::has_napi(self.xsk.fd().as_raw_fd());
            self.busy_poll = if driven { BusyPolling::On } else { BusyPolling::Off };
        }
        taken
    }

    fn transmit(&mut self, umem: &mut Umem, from: &mut Burst) -> usize {
        self.xsk.ends.transmit(umem, from)
    }

    fn reclaim(&mut self, umem: &mut Umem) -> usize {
        let id = &self.info.id;
        self.xsk.ends.reclaim(umem, |error| tracing::error!(port = %id, %error, "completion refused"))
    }

    fn kick(&mut self) -> Result<Kick, PortError> {
        let fd = self.xsk.fd().as_raw_fd();
        let mut answer = Kick::Done;
        if self.xsk.ends.tx_wants_wakeup() {
            self.xsk.ends.count_kick();
            answer = options::wake_tx(fd).map_err(|e| self.refused("wake the TX ring (sendto)", e))?;
        }
        if self.busy_poll == BusyPolling::On || self.xsk.ends.fill_wants_wakeup() {
            self.xsk.ends.count_kick();
            let rx = options::wake_rx(fd).map_err(|e| self.refused("wake the fill ring (recvfrom)", e))?;
            // EAGAIN also means that nothing was received, so only a link that is down changes the result.
            if rx == Kick::LinkDown {
                answer = rx;
            }
        }
        Ok(answer)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.xsk.fd())
    }

    fn counters(&self) -> PortCounters {
        self.xsk.ends.counters()
    }

    fn kernel_counters(&self) -> Result<KernelCounters, PortError> {
        let refused =
            |e: rustix::io::Errno| self.refused("read the socket's counters (getsockopt XDP_STATISTICS)", e.into());
        let stats = sockopt::xdp_statistics(self.xsk.fd()).map_err(refused)?;
        Ok(KernelCounters {
            rx_dropped: stats.rx_dropped,
            rx_invalid: stats.rx_invalid_descs,
            tx_invalid: stats.tx_invalid_descs,
            rx_ring_full: stats.rx_ring_full.unwrap_or(0),
            fill_empty: stats.rx_fill_ring_empty_descs.unwrap_or(0),
            tx_empty: stats.tx_ring_empty_descs.unwrap_or(0),
        })
    }

    fn busy_polling(&self) -> bool {
        self.busy_poll == BusyPolling::On
    }

    fn occupancy(&mut self) -> Occupancy {
        self.xsk.ends.occupancy()
    }

    fn steer(&mut self, on: bool) -> Result<(), PortError> {
        let Some(slot) = &self.gate.slot else { return Ok(()) };
        let refused = |text: String| PortError::Steering { id: self.info.id.clone(), text };
        if on && !self.gate.open {
            slot.insert(self.xsk.fd()).map_err(|e| refused(e.to_string()))?;
        } else if !on && self.gate.open {
            slot.remove().map_err(|e| refused(e.to_string()))?;
        }
        self.gate.open = on;
        Ok(())
    }
}

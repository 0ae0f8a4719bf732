//! The port contract over the four rings of one AF_XDP socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;

use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, TxQueue};

use super::options;
use super::steering::Slot;
use crate::packet::LANES;
use crate::port::{Burst, KernelCounters, Kick, Occupancy, Port, PortCounters, PortError, PortInfo};
use crate::umem::{PortIndex, RingSizes, Umem};

/// The memory as xsk-rs has it, shared by the ports of one actor on one thread. xsk-rs descriptors
/// cannot be made from an address, so the ones it hands out at creation are kept, one for each frame.
pub(super) struct Backing {
    pub(super) umem: xsk_rs::Umem,
    pub(super) descriptors: Vec<FrameDesc>,
}

/// One queue of one interface, through xsk-rs.
///
/// Dropping it closes the socket and unmaps its rings; the kernel tears the socket down some tens of
/// milliseconds later, until when the queue answers EBUSY to a new bind.
pub struct XdpPort {
    // Dropped in this order: steering off first, so that no packet goes to a dying socket.
    gate: Gate,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    backing: Rc<Backing>,
    info: PortInfo,
    index: PortIndex,
    rings: RingSizes,
    busy_poll: BusyPolling,
    scratch: Box<[FrameDesc; LANES]>,
    counters: PortCounters,
    posted_fill: u32,
    posted_tx: u32,
}

/// Whether our system calls drive the driver's receive work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BusyPolling {
    /// Not wished, or refused.
    Off,
    /// Accepted by the kernel; whether there is a NAPI instance to drive shows with the first packet.
    Accepted,
    /// In force.
    On,
}

/// The socket's entry in the XSKMAP, taken out on drop.
struct Gate {
    slot: Option<Rc<Slot>>,
    open: bool,
}

impl Drop for Gate {
    fn drop(&mut self) {
        if self.open
            && let Some(slot) = &self.slot
            && let Err(error) = slot.remove()
        {
            tracing::warn!(%error, "socket not taken out of the XSKMAP; the kernel empties the entry when it closes");
        }
    }
}

/// What `open` hands over.
pub(super) struct Parts {
    pub(super) rx: RxQueue,
    pub(super) tx: TxQueue,
    pub(super) fill: FillQueue,
    pub(super) completion: CompQueue,
    pub(super) backing: Rc<Backing>,
    pub(super) info: PortInfo,
    pub(super) index: PortIndex,
    pub(super) rings: RingSizes,
    pub(super) busy_poll: BusyPolling,
}

impl XdpPort {
    pub(super) fn new(parts: Parts, slot: Option<Rc<Slot>>) -> Self {
        let Parts { rx, tx, fill, completion, backing, info, index, rings, busy_poll } = parts;
        Self {
            gate: Gate { slot, open: false },
            rx,
            tx,
            fill,
            completion,
            backing,
            info,
            index,
            rings,
            busy_poll,
            scratch: Box::new([FrameDesc::default(); LANES]),
            counters: PortCounters::default(),
            posted_fill: 0,
            posted_tx: 0,
        }
    }

    fn raw_fd(&self) -> RawFd {
        self.tx.fd().as_raw_fd()
    }

    fn refused(&self, step: &'static str, source: io::Error) -> PortError {
        match source.raw_os_error() {
            Some(libc::ENXIO | libc::ENODEV) => PortError::Gone { id: self.info.id.clone(), source },
            _ => PortError::Refused { id: self.info.id.clone(), step, source, advice: String::new() },
        }
    }

    /// Frames the TX ring still holds for the kernel.
    fn tx_waiting(&mut self) -> u32 {
        self.rings.tx.saturating_sub(self.tx.nb_free_exact())
    }
}

impl Port for XdpPort {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn fill(&mut self, umem: &mut Umem) -> usize {
        let mut posted = 0;
        // Below a batch it is not worth the ring's cache line.
        while self.posted_fill + LANES as u32 <= self.rings.fill && self.fill.nb_free(LANES as u32) >= LANES as u32 {
            let mut n = 0;
            for entry in self.scratch.iter_mut() {
                let Some(index) = umem.post_fill(self.index) else { break };
                // One descriptor for each frame of the layout; `index` is below its count.
                *entry = self.backing.descriptors[index as usize];
                n += 1;
            }
            // SAFETY: the descriptors are this UMEM's own, each of a frame that the ledger has just
            // moved from Free to this port's Receive: nobody else has a token for it or will get one
            // before `receive` sees it again.
            let produced = unsafe { self.fill.produce(&self.scratch[..n]) };
            debug_assert_eq!(produced, n, "room for a batch was there");
            posted += n;
            self.posted_fill += n as u32;
            if n < LANES {
                break;
            }
        }
        posted
    }

    fn receive(&mut self, umem: &mut Umem, into: &mut Burst, limit: usize) -> usize {
        let room = into.room().min(limit);
        // SAFETY: the frames named by these descriptors were given to the kernel by `fill`; the RX
        // ring gives them back. The ledger checks each below before a token is made.
        let n = unsafe { self.rx.consume(&mut self.scratch[..room]) };
        if n > 0 && self.busy_poll == BusyPolling::Accepted {
            let driven = options::has_napi(self.raw_fd());
            self.busy_poll = if driven { BusyPolling::On } else { BusyPolling::Off };
        }
        let mut taken = 0;
        for desc in &self.scratch[..n] {
            let (address, length) = (desc.addr() as u64, desc.lengths().data() as u32);
            self.posted_fill = self.posted_fill.saturating_sub(1);
            match umem.received(self.index, address, length) {
                // A multi-buffer chain is never asked for (no XDP_USE_SG), so a descriptor is a packet.
                Ok(frame) => {
                    self.counters.rx_bytes += u64::from(length);
                    taken += 1;
                    // `room` frames were asked for, so this fits; the frame is given back if not.
                    if let Err(frame) = into.push(frame) {
                        umem.give(frame);
                    }
                }
                Err(error) => {
                    self.counters.bad_descriptors += 1;
                    tracing::error!(port = %self.info.id, %error, "RX descriptor refused");
                }
            }
        }
        self.counters.rx_packets += taken as u64;
        taken
    }

    fn transmit(&mut self, umem: &mut Umem, from: &mut Burst) -> usize {
        let wanted = from.len().min(LANES);
        if wanted == 0 {
            return 0;
        }
        // The completion ring must have room for whatever is under way.
        let under_way = self.rings.completion.saturating_sub(self.posted_tx) as usize;
        let n = wanted.min(self.tx.nb_free(wanted as u32) as usize).min(under_way);
        let mut filled = 0;
        for frame in from.drain_front(n) {
            let (index, length) = (frame.index() as usize, frame.length());
            let mut desc = self.backing.descriptors[index];
            if desc.addr() % umem.layout().frame_size() as usize != usize::from(frame.offset()) {
                // xsk-rs cannot move the start of a packet; no driver we know of needs it.
                self.counters.bad_descriptors += 1;
                umem.give(frame);
                continue;
            }
            // SAFETY: the token `frame` is in our hands, so nobody else reads or writes the bytes that
            // the cursor spans; it only sets the length.
            unsafe { self.backing.umem.data_mut(&mut desc) }.cursor().set_pos(usize::from(length));
            let _ = umem.post_transmit(self.index, frame);
            self.counters.tx_bytes += u64::from(length);
            self.scratch[filled] = desc;
            filled += 1;
        }
        // SAFETY: each descriptor names a frame whose token was given up above; the ledger holds it as
        // this port's Transmit until the completion ring returns it.
        let produced = unsafe { self.tx.produce(&self.scratch[..filled]) };
        debug_assert_eq!(produced, filled, "room was checked");
        self.posted_tx += filled as u32;
        self.counters.tx_packets += filled as u64;
        n
    }

    fn reclaim(&mut self, umem: &mut Umem) -> usize {
        let mut reclaimed = 0;
        while self.posted_tx > 0 {
            // SAFETY: consuming only reads addresses; each is checked against the ledger before the
            // frame it names is free.
            let n = unsafe { self.completion.consume(&mut self.scratch[..]) };
            for desc in &self.scratch[..n] {
                match umem.completed(self.index, desc.addr() as u64) {
                    Ok(()) => {
                        reclaimed += 1;
                        self.posted_tx = self.posted_tx.saturating_sub(1);
                    }
                    Err(error) => {
                        self.counters.bad_descriptors += 1;
                        tracing::error!(port = %self.info.id, %error, "completion refused");
                    }
                }
            }
            if n < LANES {
                break;
            }
        }
        self.counters.completions += reclaimed as u64;
        reclaimed
    }

    fn kick(&mut self) -> Result<Kick, PortError> {
        let fd = self.raw_fd();
        let mut answer = Kick::Done;
        if self.posted_tx > 0 && self.tx.needs_wakeup() && self.tx_waiting() > 0 {
            self.counters.kicks += 1;
            answer = options::wake_tx(fd).map_err(|e| self.refused("sendto to wake the TX ring", e))?;
        }
        if self.busy_poll == BusyPolling::On || self.fill.needs_wakeup() {
            self.counters.kicks += 1;
            let rx = options::wake_rx(fd).map_err(|e| self.refused("recvfrom to wake the fill ring", e))?;
            // Nothing received is EAGAIN as well: only a dead link is news.
            if rx == Kick::LinkDown {
                answer = rx;
            }
        }
        Ok(answer)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the socket is open as long as `self.tx` lives, which the borrow of self outlives not.
        Some(unsafe { BorrowedFd::borrow_raw(self.raw_fd()) })
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn kernel_counters(&self) -> Result<KernelCounters, PortError> {
        let stats = self.tx.fd().xdp_statistics().map_err(|e| self.refused("getsockopt XDP_STATISTICS", e))?;
        Ok(KernelCounters {
            rx_dropped: stats.rx_dropped(),
            rx_invalid: stats.rx_invalid_descs(),
            tx_invalid: stats.tx_invalid_descs(),
            rx_ring_full: stats.rx_ring_full(),
            fill_empty: stats.rx_fill_ring_empty_descs(),
            tx_empty: stats.tx_ring_empty_descs(),
        })
    }

    fn busy_polling(&self) -> bool {
        self.busy_poll == BusyPolling::On
    }

    fn occupancy(&mut self) -> Occupancy {
        Occupancy {
            fill: self.rings.fill.saturating_sub(self.fill.nb_free_exact()),
            rx: self.rx.nb_avail_exact(),
            tx: self.tx_waiting(),
            completion: self.completion.nb_avail_exact(),
        }
    }

    fn steer(&mut self, on: bool) -> Result<(), PortError> {
        let Some(slot) = self.gate.slot.clone() else { return Ok(()) };
        let refused = |text: String| PortError::Steering { id: self.info.id.clone(), text };
        if on && !self.gate.open {
            // SAFETY: as in `fd`.
            let fd = unsafe { BorrowedFd::borrow_raw(self.raw_fd()) };
            slot.insert(fd).map_err(|e| refused(e.to_string()))?;
        } else if !on && self.gate.open {
            slot.remove().map_err(|e| refused(e.to_string()))?;
        }
        self.gate.open = on;
        Ok(())
    }
}

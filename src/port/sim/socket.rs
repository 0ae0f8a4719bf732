//! Simulates the kernel side of one socket: its ends of the four rings, and the frames it holds between them.
//!
//! It follows copy mode (`xsk_generic_rcv`, `__xsk_generic_xmit` in net/xdp/xsk.c) unless stated otherwise.

use std::collections::VecDeque;

use super::{Descriptor, Driver, KernelFaultRates, Rng};
use crate::port::KernelCounters;
use crate::ring::{Consumer, Producer};
use crate::umem::{BadDescriptor, PortKey, Umem, UmemLayout};

/// Limits the descriptors that one `sendto` call takes (`TX_BATCH_SIZE`, net/xdp/xsk.c).
const TX_BATCH_SIZE: u32 = 32;

/// Reports that the kernel side found a frame in another state than its ring implies. The port or the actor used a
/// frame that it did not own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A packet could not be written to a frame from the fill ring.
    Write(BadDescriptor),
    /// A packet could not be read from a frame of the TX ring.
    Read(BadDescriptor),
    /// The fill ring contained an address outside the UMEM.
    Fill(u64),
    /// The TX ring contained a descriptor outside the UMEM or across two frames.
    Transmit {
        /// Posted address.
        address: u64,
        /// Posted length, in bytes.
        length: u32,
    },
}

/// Counts the frames that the kernel side holds, for a comparison with the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holdings {
    /// Frames on the fill ring, on the RX ring, and between them.
    pub receive: u32,
    /// Frames on the TX ring, on the completion ring, and between them.
    pub transmit: u32,
    /// Frames of [`transmit`](Self::transmit) that will never be completed.
    pub lost: u32,
}

/// States whether a packet reached the RX ring of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Delivered,
    Refused,
}

/// Holds the kernel side of the rings.
pub(super) struct KernelRings {
    pub(super) fill: Consumer<u64>,
    pub(super) completion: Producer<u64>,
    pub(super) rx: Producer<Descriptor>,
    pub(super) tx: Consumer<Descriptor>,
}

pub(super) struct Socket {
    pub(super) steered: bool,
    pub(super) counters: KernelCounters,
    pub(super) violations: Vec<Violation>,
    rings: KernelRings,
    layout: UmemLayout,
    driver: Driver,
    /// Whether the kernel has set need-wakeup and sleeps until the next kick.
    asleep: bool,
    /// Frames taken from the fill ring for packets that did not fit the RX ring. They are used first.
    spare: Vec<u64>,
    /// Descriptors taken from the TX ring and not read yet.
    taken: VecDeque<Descriptor>,
    /// Addresses of read packets, with the time at which they go to the completion ring.
    completing: VecDeque<(u64, u64)>,
    lost: u32,
}

impl Socket {
    pub(super) fn new(mut rings: KernelRings, layout: UmemLayout, driver: Driver) -> Self {
        rings.tx.set_need_wakeup(driver == Driver::Copy);
        Self {
            steered: false,
            counters: KernelCounters::default(),
            violations: Vec::new(),
            rings,
            layout,
            driver,
            asleep: false,
            spare: Vec::new(),
            taken: VecDeque::new(),
            completing: VecDeque::new(),
            lost: 0,
        }
    }

    pub(super) fn holdings(&mut self) -> Holdings {
        let under_way = (self.taken.len() + self.completing.len()) as u32;
        Holdings {
            receive: self.rings.fill.waiting() + self.spare.len() as u32 + self.rings.rx.waiting(),
            transmit: self.rings.tx.waiting() + under_way + self.rings.completion.waiting() + self.lost,
            lost: self.lost,
        }
    }

    pub(super) fn asleep(&self) -> bool {
        self.asleep
    }

    /// Makes the kernel sleep until the next kick.
    pub(super) fn doze(&mut self) {
        self.asleep = true;
        self.rings.fill.set_need_wakeup(true);
        self.rings.tx.set_need_wakeup(true);
    }

    /// Simulates the system call: wakes the kernel and takes up to a batch of descriptors. Returns whether some are
    /// left.
    pub(super) fn kicked(&mut self, faults: &KernelFaultRates) -> bool {
        self.asleep = false;
        self.rings.fill.set_need_wakeup(false);
        self.rings.tx.set_need_wakeup(self.driver == Driver::Copy);
        self.take(if faults.kick_batch == 0 { TX_BATCH_SIZE } else { faults.kick_batch });
        self.rings.tx.waiting() > 0
    }

    /// Takes descriptors without a system call, like a zero-copy driver.
    pub(super) fn poll_tx(&mut self) {
        if self.driver == Driver::ZeroCopy && !self.asleep {
            self.take(u32::MAX);
        }
    }

    /// Moves descriptors from the TX ring to `taken`. It reserves an entry on the completion ring for each
    /// (`xsk_cq_reserve_locked`).
    fn take(&mut self, limit: u32) {
        let promised = self.rings.completion.waiting() + (self.taken.len() + self.completing.len()) as u32;
        let room = self.rings.completion.capacity().saturating_sub(promised);
        let descriptors = self.rings.tx.peek(limit.min(room));
        let count = descriptors.len();
        if count == 0 {
            self.counters.tx_empty += 1;
        }
        for descriptor in descriptors.iter() {
            if within_frame(&self.layout, &descriptor) {
                self.taken.push_back(descriptor);
            } else {
                self.counters.tx_invalid += 1;
                let Descriptor { address, length, .. } = descriptor;
                self.violations.push(Violation::Transmit { address, length });
                // As observed on a real kernel, the address is completed in any case.
                self.completing.push_back((address, 0));
            }
        }
        descriptors.release(count);
    }

    /// Sends up to `limit` of the packets taken, in order. Calls `wire` for each, with `None` if it does not leave.
    pub(super) fn send(
        &mut self,
        (umem, key): (&Umem, &PortKey),
        limit: u32,
        now_ns: u64,
        faults: &KernelFaultRates,
        rng: &mut Rng,
        mut wire: impl FnMut(Option<&[u8]>),
    ) {
        for _ in 0..limit {
            let Some(Descriptor { address, length, .. }) = self.taken.pop_front() else { break };
            match umem.kernel_read(key, address, length) {
                Ok(packet) => wire((!rng.chance(faults.tx_drop_ppm)).then_some(packet)),
                Err(error) => self.violations.push(Violation::Read(error)),
            }
            let delay = if faults.delay_ns == 0 { 0 } else { rng.below(faults.delay_ns) };
            self.completing.push_back((address, now_ns + delay));
        }
    }

    /// Puts up to `limit` due completions on their ring.
    pub(super) fn complete(
        &mut self,
        memory: (&Umem, &PortKey),
        limit: u32,
        now_ns: u64,
        faults: &KernelFaultRates,
        rng: &mut Rng,
    ) {
        for _ in 0..limit {
            if rng.chance(faults.reorder_ppm) {
                let other = rng.below(self.completing.len() as u64) as usize;
                if other > 0 {
                    self.completing.swap(0, other);
                }
            }
            match self.completing.front() {
                Some(&(_, due_ns)) if due_ns <= now_ns => {}
                _ => break,
            }
            let Some((address, _)) = self.completing.pop_front() else { break };
            if rng.chance(faults.lost_ppm) {
                self.lost += 1;
                continue;
            }
            // The entry was reserved when the descriptor was taken.
            let pushed = self.rings.completion.push(address);
            debug_assert!(pushed, "a completion entry was reserved");
            if rng.chance(faults.duplicate_ppm) && self.completion_room() {
                let _ = self.rings.completion.push(address);
            }
            if rng.chance(faults.bogus_ppm) && self.completion_room() {
                let bogus = self.bogus_completion(memory, rng);
                let _ = self.rings.completion.push(bogus);
            }
        }
    }

    /// Returns whether the completion ring has a free entry that is not reserved.
    fn completion_room(&mut self) -> bool {
        let promised = self.rings.completion.waiting() + (self.taken.len() + self.completing.len()) as u32;
        promised < self.rings.completion.capacity()
    }

    /// Returns an address that is no valid completion: outside the UMEM, or of a frame that is not being sent. A frame
    /// that is being sent would look like a real completion.
    fn bogus_completion(&self, (umem, key): (&Umem, &PortKey), rng: &mut Rng) -> u64 {
        let address = self.layout.address(rng.below(u64::from(self.layout.frame_count())) as u32) as u64;
        let believable = umem.kernel_read(key, address, 0).is_ok();
        if believable || rng.chance(500_000) { self.outside(rng) } else { address }
    }

    fn outside(&self, rng: &mut Rng) -> u64 {
        self.layout.bytes() as u64 + (rng.next() >> 8)
    }

    /// Receives a packet from the wire.
    pub(super) fn receive(
        &mut self,
        (umem, key): (&mut Umem, &PortKey),
        packet: &[u8],
        faults: &KernelFaultRates,
        rng: &mut Rng,
    ) -> Delivery {
        let data_offset = u64::from(self.layout.data_offset());
        if packet.len() as u64 + data_offset > u64::from(self.layout.frame_size()) {
            self.counters.rx_dropped += 1;
            return Delivery::Refused;
        }
        let frame = if rng.chance(faults.starve_ppm) { None } else { self.next_frame() };
        let Some(frame) = frame else {
            self.counters.rx_dropped += 1;
            self.counters.fill_empty += 1;
            return Delivery::Refused;
        };
        let address = frame + data_offset;
        if let Err(error) = umem.kernel_write(key, address, packet) {
            self.violations.push(Violation::Write(error));
            self.counters.rx_dropped += 1;
            return Delivery::Refused;
        }
        if rng.chance(faults.bogus_ppm) {
            // Both descriptors are wrong, whatever happens to the frame before they are read.
            let wrong = if rng.chance(500_000) {
                Descriptor { address: self.outside(rng), length: 64, options: 0 }
            } else {
                Descriptor { address, length: self.layout.frame_size(), options: 0 }
            };
            let _ = self.rings.rx.push(wrong);
        }
        if !self.rings.rx.push(Descriptor { address, length: packet.len() as u32, options: 0 }) {
            self.counters.rx_ring_full += 1;
            self.spare.push(frame);
            return Delivery::Refused;
        }
        Delivery::Delivered
    }

    /// Returns the address of the next frame to receive into, as the offset of its first byte in the UMEM.
    fn next_frame(&mut self) -> Option<u64> {
        if let Some(frame) = self.spare.pop() {
            return Some(frame);
        }
        while let Some(address) = self.rings.fill.pop() {
            if address < self.layout.bytes() as u64 {
                return Some(address - address % u64::from(self.layout.frame_size()));
            }
            self.counters.rx_invalid += 1;
            self.violations.push(Violation::Fill(address));
        }
        None
    }
}

/// Checks a descriptor like `xp_aligned_validate_desc` in net/xdp/xsk_queue.h.
fn within_frame(layout: &UmemLayout, descriptor: &Descriptor) -> bool {
    let size = u64::from(layout.frame_size());
    let offset = descriptor.address % size;
    descriptor.address < layout.bytes() as u64
        && descriptor.length > 0
        && offset + u64::from(descriptor.length) <= size
        && descriptor.options == 0
}

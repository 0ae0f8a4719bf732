//! Simulates one NIC queue: packets that arrive, packets that left, and the socket bound to it.

use std::collections::VecDeque;
use std::io;

use super::socket::{Delivery, KernelRings, Socket};
use super::{Driver, Holdings, KernelFaultRates, Rng, Violation};
use crate::port::{Kick, PortError, QueueId};
use crate::umem::{PortKey, RegionError, Umem, UmemLayout};

/// Limits the buffers kept for reuse, so that a long run allocates none.
const SPARE_BUFFERS: usize = 4096;

/// Holds the counters of a NIC queue over all its sockets. At any time
/// `arrived = passed + dropped + refused + delivered + waiting`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct NicCounters {
    /// Counts packets put on the wire towards this queue.
    pub arrived: u64,
    /// Counts arrived packets that reached no socket, because none was steered to or the link was down.
    pub passed: u64,
    /// Counts arrived packets lost by [`KernelFaultRates::rx_drop_ppm`].
    pub dropped: u64,
    /// Counts arrived packets without a frame, without space on the RX ring, or too long for a frame.
    pub refused: u64,
    /// Counts arrived packets put on the RX ring.
    pub delivered: u64,
    /// Counts arrived packets not processed yet.
    pub waiting: u64,
    /// Counts packets that left through the wire.
    pub sent: u64,
    /// Counts packets that were completed but did not leave.
    pub unsent: u64,
    /// Counts sockets that were bound here and are closed.
    pub closed: u64,
}

pub(super) struct NicQueue {
    pub(super) id: QueueId,
    pub(super) faults: KernelFaultRates,
    driver: Driver,
    rng: Rng,
    link_up: bool,
    /// Whether the interface exists.
    present: bool,
    /// Counts the creations of the interface. A socket of an earlier one has failed.
    generation: u64,
    bound: Option<Bound>,
    sockets: u64,
    /// Time in ns until which the kernel releases the last socket (xdp-tutorial#458).
    busy_until_ns: u64,
    arrivals: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
    buffers: Vec<Vec<u8>>,
    counters: NicCounters,
    /// Violations of closed sockets.
    violations: Vec<Violation>,
    /// Errors that the next binds return.
    refusals: VecDeque<i32>,
    /// Error that the next kick returns.
    kick_error: Option<i32>,
}

struct Bound {
    number: u64,
    generation: u64,
    dead: bool,
    socket: Socket,
}

impl Bound {
    /// Returns whether the socket belongs to the current generation of the interface.
    fn is_current(&self, generation: u64) -> bool {
        !self.dead && self.generation == generation
    }
}

impl NicQueue {
    pub(super) fn new(id: QueueId, driver: Driver, rng: Rng) -> Self {
        Self {
            id,
            faults: KernelFaultRates::none(),
            driver,
            rng,
            link_up: true,
            present: true,
            generation: 0,
            bound: None,
            sockets: 0,
            busy_until_ns: 0,
            arrivals: VecDeque::new(),
            sent: VecDeque::new(),
            buffers: Vec::new(),
            counters: NicCounters::default(),
            violations: Vec::new(),
            refusals: VecDeque::new(),
            kick_error: None,
        }
    }

    /// Returns a start value for ring indices. Half of the values are so close to 2^32 that the indices wrap soon.
    pub(super) fn ring_start(&mut self) -> u32 {
        let draw = self.rng.next();
        if draw & 1 == 0 { (draw >> 32) as u32 } else { u32::MAX - ((draw >> 32) as u32 & 0xfff) }
    }

    /// Checks whether a socket could be bound now. Callers check this before they allocate memory.
    pub(super) fn may_bind(&mut self, layout: &UmemLayout, now_ns: u64) -> Result<(), PortError> {
        let errno = if !self.present {
            return Err(self.gone(libc::ENODEV));
        } else if let Some(errno) = self.refusals.pop_front() {
            errno
        } else if self.bound.is_some() || now_ns < self.busy_until_ns {
            libc::EBUSY
        } else if !self.link_up {
            libc::ENETDOWN
        } else {
            return Ok(());
        };
        let (id, source) = (self.id.clone(), io::Error::from_raw_os_error(errno));
        if errno == libc::ENOMEM {
            let source = RegionError::Map { bytes: layout.bytes(), source };
            return Err(PortError::Memory { id, source });
        }
        Err(PortError::Refused { id, step: "bind", source, advice: String::new() })
    }

    /// Binds a socket, after [`may_bind`](Self::may_bind) has allowed it. Returns its number.
    pub(super) fn bind(&mut self, rings: KernelRings, layout: UmemLayout) -> Result<u64, PortError> {
        if self.bound.is_some() {
            let (id, source) = (self.id.clone(), io::Error::from_raw_os_error(libc::EBUSY));
            return Err(PortError::Refused { id, step: "bind", source, advice: String::new() });
        }
        self.sockets += 1;
        let socket = Socket::new(rings, layout, self.driver);
        self.bound = Some(Bound { number: self.sockets, generation: self.generation, dead: false, socket });
        Ok(self.sockets)
    }

    /// Closes socket `number`, after which the kernel side does not write to its memory. The queue stays busy for a
    /// time that was measured on a real kernel.
    pub(super) fn close(&mut self, number: u64, now_ns: u64) {
        if self.bound.as_ref().is_none_or(|bound| bound.number != number) {
            return;
        }
        if let Some(bound) = self.bound.take() {
            self.violations.extend(bound.socket.violations);
        }
        self.counters.closed += 1;
        self.busy_until_ns = now_ns + 15_000_000 + self.rng.below(35_000_000);
        // Packets that had arrived are passed, like packets that arrive now.
        self.counters.passed += self.arrivals.len() as u64;
        while let Some(packet) = self.arrivals.pop_front() {
            self.recycle(packet);
        }
    }

    /// Makes the next `binds` binds return `errno`.
    pub(super) fn refuse(&mut self, errno: i32, binds: usize) {
        self.refusals = VecDeque::from(vec![errno; binds]);
    }

    /// Makes the next kick of the bound socket return `errno`.
    pub(super) fn fail_kick(&mut self, errno: i32) {
        self.kick_error = Some(errno);
    }

    /// Cancels the errors set for the next binds and kicks.
    pub(super) fn repair(&mut self) {
        self.refusals.clear();
        self.kick_error = None;
    }

    /// Makes the socket fail while its interface stays. It sets need-wakeup, so that the next kick finds out.
    pub(super) fn kill_socket(&mut self) {
        if let Some(bound) = &mut self.bound {
            bound.dead = true;
            bound.socket.doze();
            // Packets that had arrived go back to the kernel.
            self.counters.passed += self.arrivals.len() as u64;
            self.arrivals.clear();
        }
    }

    pub(super) fn is_present(&self) -> bool {
        self.present
    }

    /// Returns how often the interface was re-created.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns socket `number`, if it belongs to the current generation of its interface.
    fn live(&mut self, number: u64) -> Result<&mut Socket, PortError> {
        let generation = self.generation;
        let id = &self.id;
        match &mut self.bound {
            Some(bound) if bound.number == number && bound.is_current(generation) && self.present => {
                Ok(&mut bound.socket)
            }
            _ => Err(PortError::Gone { id: id.clone(), source: io::Error::from_raw_os_error(libc::ENXIO) }),
        }
    }

    fn gone(&self, errno: i32) -> PortError {
        PortError::Gone { id: self.id.clone(), source: io::Error::from_raw_os_error(errno) }
    }

    /// Simulates sendto or recvfrom on socket `number`.
    pub(super) fn kick(&mut self, number: u64) -> Result<Kick, PortError> {
        let (link_up, faults) = (self.link_up, self.faults);
        let again = self.rng.chance(faults.again_ppm);
        if let Some(errno) = self.kick_error.take() {
            let (id, source) = (self.id.clone(), io::Error::from_raw_os_error(errno));
            return Err(PortError::Refused { id, step: "kick", source, advice: String::new() });
        }
        let socket = self.live(number)?;
        if !link_up {
            return Ok(Kick::LinkDown);
        }
        if again || socket.kicked(&faults) {
            return Ok(Kick::Again);
        }
        Ok(Kick::Done)
    }

    pub(super) fn steer(&mut self, number: u64, on: bool) -> Result<(), PortError> {
        match self.live(number) {
            Ok(socket) => socket.steered = on,
            // A deleted interface has no program, so steering is already off.
            Err(_) if !on => {}
            Err(gone) => return Err(gone),
        }
        Ok(())
    }

    pub(super) fn steer_away(&mut self) {
        if let Some(bound) = &mut self.bound {
            bound.socket.steered = false;
        }
    }

    pub(super) fn kernel_counters(&mut self, number: u64) -> Result<crate::port::KernelCounters, PortError> {
        self.live(number).map(|socket| socket.counters)
    }

    pub(super) fn holdings(&mut self) -> Holdings {
        self.bound.as_mut().map(|bound| bound.socket.holdings()).unwrap_or_default()
    }

    /// Executes one step of the kernel for socket `number` with the memory `umem`.
    pub(super) fn run(&mut self, number: u64, umem: &mut Umem, key: &PortKey, now_ns: u64) {
        let (faults, link_up) = (self.faults, self.link_up);
        let Self { rng, bound, arrivals, sent, buffers, counters, present, generation, .. } = self;
        let Some(bound) = bound.as_mut().filter(|b| b.number == number && b.is_current(*generation) && *present) else {
            return;
        };
        if rng.chance(faults.idle_ppm) {
            return;
        }
        let socket = &mut bound.socket;
        let mut limit = || if faults.batch == 0 { u32::MAX } else { 1 + rng.below(u64::from(faults.batch)) as u32 };
        let (send, complete, receive) = (limit(), limit(), limit());
        if link_up {
            socket.poll_tx();
            socket.send((umem, key), send, now_ns, &faults, rng, |packet| match packet {
                Some(packet) => {
                    counters.sent += 1;
                    sent.push_back(copy(buffers, packet));
                }
                None => counters.unsent += 1,
            });
        }
        socket.complete((umem, key), complete, now_ns, &faults, rng);
        for _ in 0..receive {
            if socket.asleep() {
                break;
            }
            let Some(packet) = arrivals.pop_front() else { break };
            if rng.chance(faults.rx_drop_ppm) {
                counters.dropped += 1;
            } else {
                match socket.receive((umem, key), &packet, &faults, rng) {
                    Delivery::Delivered => counters.delivered += 1,
                    Delivery::Refused => counters.refused += 1,
                }
            }
            recycle(buffers, packet);
        }
        if rng.chance(faults.doze_ppm) {
            socket.doze();
        }
    }

    /// Receives a packet from the wire.
    pub(super) fn inject(&mut self, packet: &[u8]) {
        self.counters.arrived += 1;
        let steered = self.bound.as_ref().is_some_and(|b| b.socket.steered && b.is_current(self.generation));
        if steered && self.link_up && self.present {
            let packet = copy(&mut self.buffers, packet);
            self.arrivals.push_back(packet);
        } else {
            self.counters.passed += 1;
        }
    }

    /// Returns the next packet that left through the wire.
    pub(super) fn next_sent(&mut self) -> Option<Vec<u8>> {
        self.sent.pop_front()
    }

    /// Takes a buffer back for reuse.
    pub(super) fn recycle(&mut self, buffer: Vec<u8>) {
        recycle(&mut self.buffers, buffer);
    }

    pub(super) fn set_link(&mut self, up: bool) {
        self.link_up = up;
    }

    pub(super) fn set_present(&mut self, present: bool) {
        if self.present && !present {
            // Packets in progress are lost with the device.
            self.counters.passed += self.arrivals.len() as u64;
            self.arrivals.clear();
        } else if present && !self.present {
            self.generation += 1;
        }
        self.present = present;
    }

    pub(super) fn counters(&self) -> NicCounters {
        NicCounters { waiting: self.waiting(), ..self.counters }
    }

    pub(super) fn waiting(&self) -> u64 {
        self.arrivals.len() as u64
    }

    pub(super) fn violations(&self) -> Vec<Violation> {
        let bound = self.bound.iter().flat_map(|bound| &bound.socket.violations);
        self.violations.iter().chain(bound).copied().collect()
    }
}

fn copy(buffers: &mut Vec<Vec<u8>>, packet: &[u8]) -> Vec<u8> {
    let mut buffer = buffers.pop().unwrap_or_default();
    buffer.clear();
    buffer.extend_from_slice(packet);
    buffer
}

fn recycle(buffers: &mut Vec<Vec<u8>>, buffer: Vec<u8>) {
    if buffers.len() < SPARE_BUFFERS {
        buffers.push(buffer);
    }
}

//! Injects faults for drills and tests. Each fault looks like the real one at the place where it is detected.

use std::time::Duration;

use super::Datapath;
use crate::port::Port;
use crate::queue::Handler;
use crate::umem::PortIndex;

/// Lists the faults that can be injected into one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatapathFault {
    /// The handler panics at each packet whose number is a multiple of this value; 0 stops it.
    PanicEvery(u64),
    /// The handler blocks for this time, once.
    Stall(Duration),
    /// The completion ring of a port stays silent until its socket is reopened.
    Completions(PortIndex),
    /// The socket of a port fails.
    SocketLost(PortIndex),
    /// This number of frames leaves the accounting.
    Leak(u32),
}

/// Holds the faults in force.
#[derive(Default)]
pub(super) struct ActiveFaults {
    panic_every: u64,
    handled: u64,
    stall: Duration,
    /// Ports with silent completion rings, as a bit mask.
    pub(super) silent: u8,
    pub(super) socket_lost: u8,
}

impl ActiveFaults {
    /// Applies the faults before the handler is called with this number of packets.
    #[inline]
    pub(super) fn strike(&mut self, packets: usize) {
        if self.panic_every == 0 && self.stall.is_zero() {
            return;
        }
        self.struck(packets as u64);
    }

    #[cold]
    #[allow(clippy::panic)] // The test requests the panic.
    fn struck(&mut self, packets: u64) {
        std::thread::sleep(std::mem::take(&mut self.stall));
        let Some(before) = self.handled.checked_div(self.panic_every) else { return };
        self.handled += packets;
        if self.handled / self.panic_every > before {
            panic!("injected panic");
        }
    }
}

impl<P: Port, H: Handler> Datapath<P, H> {
    /// Injects a fault into this queue.
    pub fn inject(&mut self, fault: DatapathFault) {
        match fault {
            DatapathFault::PanicEvery(packets) => (self.faults.panic_every, self.faults.handled) = (packets, 0),
            DatapathFault::Stall(time) => self.faults.stall = time,
            DatapathFault::Completions(port) => self.faults.silent |= port.bit(),
            DatapathFault::SocketLost(port) => self.faults.socket_lost |= port.bit(),
            DatapathFault::Leak(frames) => (0..frames).for_each(|_| _ = self.umem.take()),
        }
    }
}

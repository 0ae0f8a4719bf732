//! Faults on purpose, for the drill and for tests: what real ones look like from where they are noticed.

use std::time::Duration;

use super::Datapath;
use crate::port::Port;
use crate::queue::Handler;
use crate::umem::PortIndex;

/// Something that goes wrong in one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatapathFault {
    /// The handler panics at each packet whose number is a multiple of this; 0: no more.
    PanicEvery(u64),
    /// The handler does not return for this long, once.
    Stall(Duration),
    /// The completion ring of a port stays silent until its socket is opened anew.
    Completions(PortIndex),
    /// The socket of a port is of no more use.
    SocketLost(PortIndex),
    /// This many frames are lost.
    Leak(u32),
}

/// The faults in force.
#[derive(Default)]
pub(super) struct ActiveFaults {
    panic_every: u64,
    handled: u64,
    stall: Duration,
    /// Ports, a bit each.
    pub(super) silent: u8,
    pub(super) socket_lost: u8,
}

impl ActiveFaults {
    /// Where the handler is called, with the number of packets it is about to get.
    #[inline]
    pub(super) fn strike(&mut self, packets: usize) {
        if self.panic_every == 0 && self.stall.is_zero() {
            return;
        }
        self.struck(packets as u64);
    }

    #[cold]
    #[allow(clippy::panic)] // that is what was asked for
    fn struck(&mut self, packets: u64) {
        std::thread::sleep(std::mem::take(&mut self.stall));
        let Some(before) = self.handled.checked_div(self.panic_every) else { return };
        self.handled += packets;
        if self.handled / self.panic_every > before {
            panic!("a fault on purpose");
        }
    }
}

impl<P: Port, H: Handler> Datapath<P, H> {
    /// Lets something go wrong.
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

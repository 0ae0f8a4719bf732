//! Implements the port on a simulated socket.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use super::SimNet;
use super::net::lock;
use super::nic::NicQueue;
use crate::port::{Burst, KernelCounters, Kick, Occupancy, Port, PortCounters, PortError, PortInfo, PortRings};
use crate::ring::{Descriptor, InMemory};
use crate::umem::Umem;

/// Moves packets through one queue of one simulated interface. Dropping it closes its socket.
pub struct SimPort {
    pub(super) info: PortInfo,
    pub(super) ends: PortRings<InMemory<u64>, InMemory<Descriptor>>,
    pub(super) net: SimNet,
    pub(super) nic: Arc<Mutex<NicQueue>>,
    /// Number of the socket at its NIC queue.
    pub(super) socket: u64,
}

impl SimPort {
    /// Executes one step of the kernel for this port. It sends packets, returns completions, writes arrived packets to
    /// `umem`, and puts them on the RX ring. The faults and the seed decide how many.
    pub fn run_kernel(&mut self, umem: &mut Umem) {
        lock(&self.nic).run(self.socket, umem, self.ends.key(), self.net.now_ns());
    }
}

impl Drop for SimPort {
    fn drop(&mut self) {
        lock(&self.nic).close(self.socket, self.net.now_ns());
    }
}

impl Port for SimPort {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn fill(&mut self, umem: &mut Umem) -> usize {
        self.ends.fill(umem)
    }

    fn receive(&mut self, umem: &mut Umem, into: &mut Burst, limit: usize) -> usize {
        let id = &self.info.id;
        self.ends.receive(umem, into, limit, |error| tracing::debug!(port = %id, %error, "RX descriptor refused"))
    }

    fn transmit(&mut self, umem: &mut Umem, from: &mut Burst) -> usize {
        self.ends.transmit(umem, from)
    }

    fn reclaim(&mut self, umem: &mut Umem) -> usize {
        let id = &self.info.id;
        self.ends.reclaim(umem, |error| tracing::debug!(port = %id, %error, "completion refused"))
    }

    fn kick(&mut self) -> Result<Kick, PortError> {
        if !self.ends.tx_wants_wakeup() && !self.ends.fill_wants_wakeup() {
            return Ok(Kick::Done);
        }
        self.ends.count_kick();
        lock(&self.nic).kick(self.socket)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> PortCounters {
        self.ends.counters()
    }

    fn kernel_counters(&self) -> Result<KernelCounters, PortError> {
        lock(&self.nic).kernel_counters(self.socket)
    }

    fn occupancy(&mut self) -> Occupancy {
        self.ends.occupancy()
    }

    fn steer(&mut self, on: bool) -> Result<(), PortError> {
        lock(&self.nic).steer(self.socket, on)
    }
}

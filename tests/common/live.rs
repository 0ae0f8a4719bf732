//! Wraps a simulated port so that each access runs one step of its kernel. It serves tests whose actor owns the memory
//! on another thread.

use std::os::fd::BorrowedFd;

use oxide::port::sim::{SimBackend, SimPort};
use oxide::port::{
    Backend, Burst, KernelCounters, Kick, Occupancy, Opened, Port, PortCounters, PortError, PortInfo, QueueId,
};
use oxide::umem::{PortIndex, Umem};

pub(crate) struct LivePort(SimPort);

impl Port for LivePort {
    fn info(&self) -> &PortInfo {
        self.0.info()
    }

    fn fill(&mut self, umem: &mut Umem) -> usize {
        self.0.fill(umem)
    }

    fn receive(&mut self, umem: &mut Umem, into: &mut Burst, limit: usize) -> usize {
        self.0.receive(umem, into, limit)
    }

    fn transmit(&mut self, umem: &mut Umem, from: &mut Burst) -> usize {
        self.0.transmit(umem, from)
    }

    fn reclaim(&mut self, umem: &mut Umem) -> usize {
        self.0.run_kernel(umem);
        self.0.reclaim(umem)
    }

    fn kick(&mut self) -> Result<Kick, PortError> {
        self.0.kick()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> PortCounters {
        self.0.counters()
    }

    fn kernel_counters(&self) -> Result<KernelCounters, PortError> {
        self.0.kernel_counters()
    }

    fn occupancy(&mut self) -> Occupancy {
        self.0.occupancy()
    }

    fn steer(&mut self, on: bool) -> Result<(), PortError> {
        self.0.steer(on)
    }
}

/// Opens [`LivePort`]s.
pub(crate) struct LiveBackend(pub(crate) SimBackend);

impl Backend for LiveBackend {
    type Port = LivePort;
    type OpenParams = QueueId;

    fn open(&mut self) -> Result<(Umem, Vec<LivePort>), PortError> {
        let (umem, ports) = self.0.open()?;
        Ok((umem, ports.into_iter().map(LivePort).collect()))
    }

    fn open_available(&mut self) -> Result<Opened<LivePort>, PortError> {
        let (umem, ports) = self.0.open_available()?;
        Ok((umem, ports.into_iter().map(|port| port.map(LivePort)).collect()))
    }

    fn reopen(&mut self, port: PortIndex, umem: &mut Umem) -> Result<LivePort, PortError> {
        self.0.reopen(port, umem).map(LivePort)
    }

    fn set_params(&mut self, port: PortIndex, request: QueueId) {
        self.0.set_params(port, request);
    }
}

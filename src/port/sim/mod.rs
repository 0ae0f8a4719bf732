//! Simulates NIC queues in memory: the kernel side of AF_XDP sockets, and the port on top of it.
//!
//! ```text
//!   SimNet  a handle for all NIC queues: injects packets, collects sent packets, changes links
//!     nic.rs     one NIC queue: arrived packets, sent packets, link, faults
//!     socket.rs  the kernel side of one socket's four rings, and the frames it holds
//!     link.rs    delay, loss, reordering and rate of a wire between two queues
//!   SimPort  the user side of the rings, with the same `Port` contract as AF_XDP
//! ```
//!
//! The kernel side works only when [`SimPort::run_kernel`] is called with the memory to write packets to. Time is
//! virtual ([`SimNet::advance`]). Every choice comes from the seed, and each NIC queue has its own random sequence. So
//! one seed gives one run, and events at one queue do not change another queue.
//!
//! This example shows how to test an application's handler:
//!
//! ```
//! use oxide::port::sim::{SimBackend, SimInterface, SimNet};
//! use oxide::port::{Backend, Burst, Port, QueueId};
//!
//! let net = SimNet::new(&[SimInterface::new("sim0", 1)], 42);
//! let id = QueueId::new("sim0", 0);
//! let (mut umem, mut ports) = SimBackend::new(&net, &[id.clone()]).open()?;
//! let port = &mut ports[0];
//! port.steer(true)?;
//! port.fill(&mut umem);
//!
//! net.inject(&id, b"a frame as it comes from the wire, Ethernet header first, at least 60 bytes");
//! port.run_kernel(&mut umem);
//! let mut burst = Burst::new();
//! assert_eq!(port.receive(&mut umem, &mut burst, 64), 1);
//! port.transmit(&mut umem, &mut burst);
//! port.kick()?;
//! port.run_kernel(&mut umem);
//! assert_eq!(net.sent(&id).len(), 1);
//! # Ok::<(), oxide::port::PortError>(())
//! ```

mod backend;
mod faults;
mod link;
mod net;
mod nic;
mod port;
mod rng;
mod socket;

pub use backend::SimBackend;
#[doc(hidden)]
pub use faults::number;
pub use faults::{KernelFaultRates, UnknownFault};
pub use link::{LinkCounters, LinkError, LinkSpec, Loss, SimLink};
pub use net::{SimInterface, SimNet};
pub use nic::NicCounters;
pub use port::SimPort;
pub use rng::Rng;
pub use socket::{Holdings, Violation};

pub(crate) use crate::ring::Descriptor;

/// Names the transmit behaviour of the simulated driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// Behaves like the kernel's copy mode: need-wakeup on TX is always set, and only a kick takes descriptors.
    #[default]
    Copy,
    /// Behaves like a zero-copy driver: takes descriptors by itself until it sleeps.
    ZeroCopy,
}

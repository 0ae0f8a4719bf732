//! A NIC without a NIC: the kernel's side of AF_XDP queues in memory, and the port on it.
//!
//! ```text
//!   SimNet  a handle on all NIC queues: put packets on the wire, take what was sent, pull the plug
//!     nic.rs     one NIC queue: packets that arrive, packets that left, link, faults
//!     socket.rs  the kernel's ends of one socket's four rings, and the frames it holds
//!     link.rs    delay, loss, reordering and rate of a wire between two queues
//!   SimPort  the user's ends of the rings, by the same `Port` contract as AF_XDP
//! ```
//!
//! Nothing happens by itself: the kernel's side works when [`SimPort::run_kernel`] is called, with the
//! memory it writes packets to, and never otherwise. Time is virtual ([`SimNet::advance`]), and every
//! choice is drawn from the seed, for each NIC queue from a sequence of its own; so one seed is one
//! run, and what happens at one queue moves nothing at another.
//!
//! An application's handler is tested with it like this:
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

/// How the simulated driver sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// As the kernel's copy mode: need-wakeup on TX is always up, and only a kick takes descriptors.
    #[default]
    Copy,
    /// As a zero-copy driver: takes descriptors by itself until it dozes off.
    ZeroCopy,
}

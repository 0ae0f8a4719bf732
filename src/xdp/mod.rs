//! AF_XDP: sockets, steering, attachment. The only room that talks to the kernel's AF_XDP and to the BPF
//! loader.
//!
//! ```text
//!   device.rs   what the interface is (ioctl)        backend.rs  memory, ladder of modes, EBUSY, one port again
//!   rings.rs    the four rings, mapped               refusal.rs  errno -> what it means and what helps
//!   xsk.rs      socket, registration, bind           port.rs     XdpPort: the Port contract over one socket
//!   options.rs  busy polling, budgets, wake-ups      socket.rs   the small API: one queue, no actor
//!   steering/   program, maps, link                  trial.rs    steps of opening that touch no interface
//! ```

mod backend;
mod device;
mod options;
mod port;
mod refusal;
mod rings;
mod socket;
pub mod steering;
mod trial;
mod xsk;

pub use backend::{PortOpenParams, XdpBackend, XdpOptions, ZeroCopy};
pub use device::Device;
pub use options::BusyPoll;
pub use port::XdpPort;
pub use socket::{Socket, SocketConfig, SocketStats};
pub use trial::{try_memory, try_program};

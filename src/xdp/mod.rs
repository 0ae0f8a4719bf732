//! Implements AF_XDP: sockets, steering, attachment. Only this module uses the kernel's AF_XDP and the BPF loader.
//!
//! ```text
//!   device.rs   lookup of an interface (ioctl)       backend.rs  memory, modes, EBUSY, reopening of a port
//!   rings.rs    the four rings, mapped               refusal.rs  meaning and remedy of each errno
//!   xsk.rs      socket, registration, bind           port.rs     XdpPort: the Port contract over one socket
//!   options.rs  busy polling, budgets, wake-ups      socket.rs   the small API: one queue without an actor
//!   steering/   program, maps, link                  trial.rs    steps of opening that need no interface
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

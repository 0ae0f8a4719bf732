//! AF_XDP: sockets, steering, attachment. The only room that talks to xsk-rs and the BPF loader.
//!
//! ```text
//!   device.rs   what the interface is (ioctl)          steering/  program, maps, link
//!   options.rs  socket options xsk-rs has no call for   open.rs    ladder of modes, EBUSY retry -> Umem + ports
//!   port.rs     XdpPort: the Port contract over four rings of one socket
//!   trial.rs    steps of opening that touch no interface, one by one
//! ```

mod device;
mod open;
mod options;
mod port;
mod socket;
pub mod steering;
mod trial;

pub use device::Device;
pub use open::{PortRequest, XdpBackend, XdpOptions, ZeroCopy};
pub use options::BusyPoll;
pub use port::XdpPort;
pub use socket::{Socket, SocketConfig, SocketStats};
pub use trial::{try_memory, try_program};

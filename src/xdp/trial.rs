//! Steps of opening that touch no interface, one by one, for whoever wants to know which is refused.

use std::io;

use super::open::{XdpOptions, register};
use super::steering::{Steering, SteeringError};
use crate::umem::{PageKind, UmemLayout};

/// Loads the steering program and its maps, and lets them go again.
///
/// # Errors
/// [`SteeringError`], told apart by cause.
pub fn try_program() -> Result<(), SteeringError> {
    Steering::try_load()
}

/// Opens an AF_XDP socket, registers packet memory of one port of these sizes with it, and closes it again.
/// Returns the bytes.
///
/// # Errors
/// The kernel's: EPERM without `CAP_NET_RAW`, ENOBUFS above the locked-memory limit, EAFNOSUPPORT
/// without AF_XDP; EINVAL for sizes that do not go together.
pub fn try_memory(options: &XdpOptions) -> io::Result<usize> {
    let frames = options.frame_count.unwrap_or_else(|| UmemLayout::frames_for(&options.rings, 1));
    let layout = UmemLayout::new(options.frame_size, frames, options.headroom, &options.rings, 1, 1500)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e.to_string()))?;
    register(&layout, &options.rings, PageKind::Base).map(|_| layout.bytes())
}

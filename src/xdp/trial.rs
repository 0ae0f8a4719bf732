//! Runs the steps of opening that need no interface one by one, to find the one that the kernel refuses.

use std::io;

use super::backend::XdpOptions;
use super::steering::{Steering, SteeringError};
use super::xsk::Xsk;
use crate::umem::{PageKind, PortIndex, Region, RegionError, Umem, UmemLayout};

/// Loads the steering program and its maps, and unloads them.
///
/// # Errors
/// Returns a [`SteeringError`] with the cause.
pub fn try_program() -> Result<(), SteeringError> {
    Steering::try_load()
}

/// Opens an AF_XDP socket, registers packet memory for one port of these sizes, and closes the socket. Returns the size
/// of the memory in bytes.
///
/// # Errors
/// Returns the error of the kernel: EPERM without `CAP_NET_RAW`, ENOBUFS above the locked-memory limit, EAFNOSUPPORT
/// without AF_XDP, or EINVAL for sizes that do not match.
pub fn try_memory(options: &XdpOptions) -> io::Result<usize> {
    let frames = options.frame_count.unwrap_or_else(|| UmemLayout::frames_for(&options.rings, 1));
    let invalid = |e: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidInput, e.to_string());
    let layout = UmemLayout::new(options.frame_size, frames, options.headroom, &options.rings, 1, 1500)
        .map_err(|e| invalid(&e))?;
    let region = Region::map(layout.bytes(), PageKind::Base, None).map_err(|e| match e {
        RegionError::Map { source, .. } | RegionError::Node { source, .. } => source,
    })?;
    let mut umem = Umem::new(region, layout).map_err(|e| invalid(&e))?;
    Xsk::new(&mut umem, PortIndex::P0, options.rings).map(|_| layout.bytes()).map_err(|(_, source)| source)
}

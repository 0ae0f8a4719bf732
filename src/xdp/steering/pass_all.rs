//! Provides an XDP program that passes every packet, for the other end of a veth.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::attach::Attachment;
use super::{AttachMode, SteeringError, bpf};

/// Attaches a program that passes every packet to the kernel, until it is dropped.
///
/// Native XDP on a veth accepts redirected and transmitted frames only if the veth peer has a program too
/// (drivers/net/veth.c, `veth_xdp_xmit`). Labs, demo and tests attach this one there.
#[derive(Debug)]
pub struct PassAll {
    attachment: Attachment,
    _program: OwnedFd,
}

impl PassAll {
    /// Attaches to `interface` of the calling thread's network namespace, in native mode, or in generic mode if the
    /// driver refuses native mode.
    ///
    /// # Errors
    /// Returns the errors of [`Steering::attach`](super::Steering::attach).
    pub fn attach(interface: &str) -> Result<Self, SteeringError> {
        let program = program().map_err(|e| SteeringError::kernel(interface, "load the pass-all program", e))?;
        let attachment = Attachment::new(program.as_fd(), interface, AttachMode::Auto, false)?;
        Ok(Self { attachment, _program: program })
    }

    /// Returns the mode in force: [`AttachMode::Native`] or [`AttachMode::Generic`].
    #[must_use]
    pub fn mode(&self) -> AttachMode {
        self.attachment.mode
    }
}

pub(super) fn program() -> io::Result<OwnedFd> {
    // The program is: r0 = XDP_PASS; exit. The encoding follows Documentation/bpf/standardization/instruction-set.rst
    // for little-endian machines, like bpf/steer.bpf.o.
    const INSTRUCTIONS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    bpf::load_xdp(&INSTRUCTIONS, b"oxide_pass_all")
}

//! The XDP program that does nothing, for the far end of a veth.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::attach::Attachment;
use super::{AttachMode, SteeringError, bpf};

/// A program that passes every packet to the kernel, attached until dropped.
///
/// Native XDP on a veth takes redirected and transmitted frames only if its peer has a program too
/// (drivers/net/veth.c, `veth_xdp_xmit`). Labs, demo and tests put this one there.
#[derive(Debug)]
pub struct PassAll {
    attachment: Attachment,
    _program: OwnedFd,
}

impl PassAll {
    /// Attaches to `interface` of the calling thread's network namespace: native, or generic if the
    /// driver refuses that.
    ///
    /// # Errors
    /// [`SteeringError`], as [`Steering::attach`](super::Steering::attach).
    pub fn attach(interface: &str) -> Result<Self, SteeringError> {
        let program = program().map_err(|e| SteeringError::kernel(interface, "load the pass-all program", e))?;
        let attachment = Attachment::new(program.as_fd(), interface, AttachMode::Auto, false)?;
        Ok(Self { attachment, _program: program })
    }

    /// The mode in force: [`AttachMode::Native`] or [`AttachMode::Generic`].
    #[must_use]
    pub fn mode(&self) -> AttachMode {
        self.attachment.mode
    }
}

pub(super) fn program() -> io::Result<OwnedFd> {
    // r0 = XDP_PASS; exit. Encoding: Documentation/bpf/standardization/instruction-set.rst, here for
    // little-endian machines, as bpf/steer.bpf.o.
    const INSTRUCTIONS: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    bpf::load_xdp(&INSTRUCTIONS, b"oxide_pass_all")
}

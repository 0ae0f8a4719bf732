//! The steering program and its maps in the kernel, loaded and not yet attached.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use aya::programs::Xdp;
use aya::util::KernelVersion;
use aya::{EbpfError, EbpfLoader};

use super::{Fallback, SteeringError};

/// `bpf/steer.bpf.c`, compiled; docs/steering.md says how. In the repository, so that a clone builds
/// without clang; tests/steering checks that it is what its source says.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/steer.bpf.o"));

/// An address in network order, IPv4 as ::ffff:a.b.c.d.
pub(super) type Key = [u8; 16];
/// UDP port p is bit p % 8 of byte p / 8.
pub(super) type PortBits = [u8; 8192];

pub(super) struct Program {
    pub(super) fd: OwnedFd,
    pub(super) listed: HashMap<MapData, Key, PortBits>,
    pub(super) counters: PerCpuArray<MapData, u64>,
    pub(super) sockets: OwnedFd,
}

impl Program {
    pub(super) fn load(interface: &str, fallback: Fallback) -> Result<Self, SteeringError> {
        Self::load_with(interface, fallback, has_buff_len())
    }

    fn load_with(interface: &str, fallback: Fallback, has_buff_len: bool) -> Result<Self, SteeringError> {
        let failed = |error: &(dyn Error + 'static)| load_error(interface, error);
        let (action, has_buff_len) = (fallback.action(), u32::from(has_buff_len));
        let mut object = EbpfLoader::new()
            .btf(None)
            .override_global("FALLBACK", &action, true)
            .override_global("HAS_BUFF_LEN", &has_buff_len, true)
            .load(OBJECT)
            .map_err(|e: EbpfError| failed(&e))?;

        let program = object.program_mut("oxide_steer").ok_or_else(|| absent("program oxide_steer"))?;
        let program: &mut Xdp = program.try_into().map_err(|e: aya::programs::ProgramError| failed(&e))?;
        program.load().map_err(|e| failed(&e))?;
        let fd = program.fd().map_err(|e| failed(&e))?.as_fd().try_clone_to_owned();
        let fd = fd.map_err(|e| SteeringError::kernel(interface, "duplicate a descriptor", e))?;

        let listed = object.take_map("LISTED").ok_or_else(|| absent("map LISTED"))?;
        let counters = object.take_map("COUNTERS").ok_or_else(|| absent("map COUNTERS"))?;
        let Some(Map::XskMap(sockets)) = object.take_map("SOCKETS") else { return Err(absent("map SOCKETS")) };
        let sockets = sockets.fd().as_fd().try_clone_to_owned();
        Ok(Self {
            fd,
            listed: listed.try_into().map_err(|e: aya::maps::MapError| failed(&e))?,
            counters: counters.try_into().map_err(|e: aya::maps::MapError| failed(&e))?,
            sockets: sockets.map_err(|e| SteeringError::kernel(interface, "duplicate a descriptor", e))?,
        })
    }
}

/// `bpf_xdp_get_buff_len` came with 5.18. Before, the program needs `CAP_PERFMON` as well.
fn has_buff_len() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(5, 18, 0))
}

fn absent(what: &str) -> SteeringError {
    SteeringError::Load { reason: format!("the object has no {what}") }
}

/// The kernel's answer within a loader's error, if that was the cause.
pub(super) fn os_error(error: &(dyn Error + 'static)) -> Option<io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(io::Error::from_raw_os_error(code));
        }
        cause = error.source();
    }
    None
}

fn load_error(interface: &str, error: &(dyn Error + 'static)) -> SteeringError {
    const STEP: &str = "load the steering program and its maps";
    match os_error(error) {
        // EPERM is also what a kernel before 5.11 says when the memory lock limit is too low; the
        // explanation mentions it.
        Some(os) if matches!(os.raw_os_error(), Some(libc::EPERM | libc::ENOMEM)) => {
            SteeringError::kernel(interface, STEP, os)
        }
        // EACCES and EINVAL are the verifier's: its log is in the text.
        _ => {
            let mut reason = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                reason = format!("{reason}: {error}");
                cause = error.source();
            }
            SteeringError::Load { reason }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use super::*;
    use crate::xdp::steering::bpf;

    /// Both ways of measuring the frame pass the verifier and agree, whatever this kernel has.
    #[test]
    fn old_and_new_kernels_agree() {
        if !rustix::process::geteuid().is_root() {
            let _ = writeln!(io::stderr(), "SKIPPED old_and_new_kernels_agree: needs root");
            return;
        }
        let mut frame = vec![2; 12];
        frame.extend([8, 0, 0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 9, 0, 53, 0, 10, 0, 0, 1, 2]);
        for has_buff_len in [false, has_buff_len()] {
            let mut program = Program::load_with("none", Fallback::Drop, has_buff_len).unwrap();
            let mut bits = [0; 8192];
            bits[53 / 8] = 1 << (53 % 8);
            let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 2];
            program.listed.insert(mapped, bits, 0).unwrap();
            // Whole: listed, dropped for want of a socket. One byte short: passed.
            let action = |frame: &[u8]| bpf::test_run(program.fd.as_fd(), frame, 0, 0).unwrap();
            assert_eq!(action(&frame), Fallback::Drop.action());
            assert_eq!(action(&frame[..frame.len() - 1]), Fallback::Pass.action());
        }
    }
}

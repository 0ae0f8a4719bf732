//! Loads the steering program and its maps into the kernel, without attaching it.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{HashMap, LpmTrie, Map, MapData, PerCpuArray};
use aya::programs::Xdp;
use aya::{EbpfError, EbpfLoader};

use super::{Fallback, SteeringError};

/// Contains `bpf/steer.bpf.c`, compiled as docs/steering.md describes. It is in the repository, so that a clone builds
/// without clang. tests/steering checks that it matches its source.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/steer.bpf.o"));

/// Holds an address in network order; IPv4 is ::ffff:a.b.c.d.
pub(super) type Key = [u8; 16];
/// Holds one bit per UDP port: port p is bit p % 8 of byte p / 8.
pub(super) type PortBits = [u8; 8192];

pub(super) struct Program {
    pub(super) fd: OwnedFd,
    pub(super) listed: HashMap<MapData, Key, PortBits>,
    pub(super) prefixes: LpmTrie<MapData, Key, u64>,
    pub(super) counters: PerCpuArray<MapData, u64>,
    pub(super) sockets: OwnedFd,
}

impl Program {
    pub(super) fn load(interface: &str, fallback: Fallback) -> Result<Self, SteeringError> {
        let failed = |error: &(dyn Error + 'static)| load_error(interface, error);
        let mut object = EbpfLoader::new()
            .btf(None)
            .override_global("FALLBACK", &fallback.action(), true)
            .load(OBJECT)
            .map_err(|e: EbpfError| failed(&e))?;

        let program = object.program_mut("oxide_steer").ok_or_else(|| absent("program oxide_steer"))?;
        let program: &mut Xdp = program.try_into().map_err(|e: aya::programs::ProgramError| failed(&e))?;
        program.load().map_err(|e| failed(&e))?;
        let fd = program.fd().map_err(|e| failed(&e))?.as_fd().try_clone_to_owned();
        let fd = fd.map_err(|e| SteeringError::kernel(interface, "duplicate a descriptor", e))?;

        let listed = object.take_map("LISTED").ok_or_else(|| absent("map LISTED"))?;
        let prefixes = object.take_map("PREFIXES").ok_or_else(|| absent("map PREFIXES"))?;
        let counters = object.take_map("COUNTERS").ok_or_else(|| absent("map COUNTERS"))?;
        let Some(Map::XskMap(sockets)) = object.take_map("SOCKETS") else { return Err(absent("map SOCKETS")) };
        let sockets = sockets.fd().as_fd().try_clone_to_owned();
        Ok(Self {
            fd,
            listed: listed.try_into().map_err(|e: aya::maps::MapError| failed(&e))?,
            prefixes: prefixes.try_into().map_err(|e: aya::maps::MapError| failed(&e))?,
            counters: counters.try_into().map_err(|e: aya::maps::MapError| failed(&e))?,
            sockets: sockets.map_err(|e| SteeringError::kernel(interface, "duplicate a descriptor", e))?,
        })
    }
}

fn absent(what: &str) -> SteeringError {
    SteeringError::Load { reason: format!("the object has no {what}") }
}

/// Returns the kernel's error within a loader's error, if that was the cause.
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
        // Before kernel 5.11, EPERM also means that the locked-memory limit is too low. The message mentions it.
        Some(os) if matches!(os.raw_os_error(), Some(libc::EPERM | libc::ENOMEM)) => {
            SteeringError::kernel(interface, STEP, os)
        }
        // EACCES and EINVAL come from the verifier, whose log is in the text.
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

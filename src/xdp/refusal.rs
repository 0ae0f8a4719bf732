//! Explains errors of the kernel: the meaning of an errno here, and the remedy.

use std::io;

use rustix::net::{AddressFamily, SocketType, netdevice, socket};

use super::Device;
use crate::port::{PortError, QueueId};

/// Returns the interface if it exists and is up.
pub(super) fn device(id: &QueueId) -> Result<Device, PortError> {
    match Device::named(&id.interface) {
        Ok(device) if device.up => Ok(device),
        Ok(_) => {
            let source = io::Error::from_raw_os_error(libc::ENETDOWN);
            let advice = format!("ip link set dev {} up", id.interface);
            Err(PortError::Refused { id: id.clone(), step: "use the interface", source, advice })
        }
        Err(source) => Err(PortError::Gone { id: id.clone(), source }),
    }
}

/// Returns whether no interface of the calling thread's namespace has this number any more. The kernel unbinds every
/// socket of a deleted interface (xsk_notifier, net/xdp/xsk.c).
pub(super) fn is_gone(ifindex: u32) -> bool {
    let Ok(any) = socket(AddressFamily::INET, SocketType::DGRAM, None) else { return false };
    netdevice::index_to_name(&any, ifindex) == Err(rustix::io::Errno::NODEV)
}

/// Creates the error for a refused step, with the remedy for its errno. `bytes` is the size of the UMEM, or 0.
pub(super) fn refused(id: &QueueId, step: &'static str, source: io::Error, bytes: usize) -> PortError {
    let interface = &id.interface;
    let advice = match source.raw_os_error() {
        Some(libc::ENOBUFS) if bytes > 0 => format!(
            "raise the locked-memory limit above the UMEM's {bytes} bytes with `ulimit -l unlimited` or \
             LimitMEMLOCK=infinity, grant CAP_IPC_LOCK, or set a smaller ring_size"
        ),
        Some(libc::EPERM) => {
            "grant CAP_NET_RAW for AF_XDP sockets, and CAP_NET_ADMIN and CAP_BPF for the XDP program".to_owned()
        }
        Some(libc::EBUSY) => format!(
            "stop the process whose socket has queue {} of {interface}, shown by `ss --xdp -p` or \
             `grep -ls 'socket:\\[' /proc/[0-9]*/maps`",
            id.queue
        ),
        Some(libc::EINVAL) => {
            format!("use a queue of {interface} that `ethtool -l {interface}` lists; {} may not exist", id.queue)
        }
        Some(libc::ENXIO | libc::ENODEV) => return PortError::Gone { id: id.clone(), source },
        _ => String::new(),
    };
    PortError::Refused { id: id.clone(), step, source, advice }
}

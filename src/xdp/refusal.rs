//! What the kernel refused, with what it means here and what helps.

use std::io;

use rustix::net::{AddressFamily, SocketType, netdevice, socket};

use super::Device;
use crate::port::{PortError, QueueId};

/// The interface, there and up.
pub(super) fn device(id: &QueueId) -> Result<Device, PortError> {
    match Device::named(&id.interface) {
        Ok(device) if device.up => Ok(device),
        Ok(_) => {
            let source = io::Error::from_raw_os_error(libc::ENETDOWN);
            let advice = format!("ip link set dev {} up", id.interface);
            Err(PortError::Refused { id: id.clone(), step: "the interface is down", source, advice })
        }
        Err(source) => Err(PortError::Gone { id: id.clone(), source }),
    }
}

/// Whether no interface of the calling thread's namespace has this number any more: the kernel unbinds
/// every socket of an interface that leaves (xsk_notifier, net/xdp/xsk.c).
pub(super) fn is_gone(ifindex: u32) -> bool {
    let Ok(any) = socket(AddressFamily::INET, SocketType::DGRAM, None) else { return false };
    netdevice::index_to_name(&any, ifindex) == Err(rustix::io::Errno::NODEV)
}

/// The kernel's errno, with what it means here and what helps.
pub(super) fn refused(id: &QueueId, step: &'static str, source: io::Error, bytes: usize) -> PortError {
    let interface = &id.interface;
    let advice = match source.raw_os_error() {
        Some(libc::ENOBUFS) if bytes > 0 => format!(
            "the UMEM's {bytes} bytes exceed the locked-memory limit: `ulimit -l unlimited`, LimitMEMLOCK=infinity in the \
             unit, CAP_IPC_LOCK, or a smaller ring_size"
        ),
        Some(libc::EPERM) => "AF_XDP sockets need CAP_NET_RAW, the XDP program CAP_NET_ADMIN and CAP_BPF".to_owned(),
        Some(libc::EBUSY) => format!(
            "another socket has queue {} of {interface}; find its process with `ss --xdp -p` or `grep -ls 'socket:\\[' /proc/[0-9]*/maps`",
            id.queue
        ),
        Some(libc::EINVAL) => {
            format!("{interface} may have no queue {}: `ethtool -l {interface}` lists its channels", id.queue)
        }
        Some(libc::ENXIO | libc::ENODEV) => return PortError::Gone { id: id.clone(), source },
        _ => String::new(),
    };
    PortError::Refused { id: id.clone(), step, source, advice }
}

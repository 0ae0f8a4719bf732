//! Opening: the memory and all ports of one actor, on the best rung of the ladder that the kernel
//! gives, with the reason for each rung that it does not.
//!
//! Order: memory, then for each port socket and bind, then fill. The XDP program is attached before
//! (gVNIC and ice need it so: quilkin 6e878b34a, agave#6836); the socket is put into the XSKMAP last,
//! by [`Port::steer`](crate::port::Port::steer). xsk-rs binds before anything can be filled, which
//! igb on kernel 6.18 does not survive: a limit of this port until rings of our own replace it.

use std::error::Error;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};

use super::Device;
use super::options::{self, BusyPoll};
use super::port::{Backing, BusyPolling, Parts, XdpPort};
use super::steering::Slot;
use crate::port::{Backend, Mode, Port, PortError, PortInfo, QueueId};
use crate::umem::{self, PageKind, PageReport, PortIndex, Region, RingSizes, Umem, UmemLayout};

/// Wish for zero-copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZeroCopy {
    /// Zero-copy where the driver has it, else copy, and the reason is told.
    #[default]
    Auto,
    /// Zero-copy, or the queue does not start.
    Require,
    /// Copy.
    Off,
}

/// Sizes and wishes of one actor's memory and sockets.
#[derive(Debug, Clone)]
pub struct XdpOptions {
    /// Ring sizes of each port.
    pub rings: RingSizes,
    /// Bytes in a frame: 2048 or 4096.
    pub frame_size: u32,
    /// Frames in the UMEM; `None` for as many as the rings need.
    pub frame_count: Option<u32>,
    /// Bytes kept free before each packet.
    pub headroom: u32,
    /// Page size wished for.
    pub pages: PageKind,
    /// NUMA node for the memory.
    pub node: Option<u32>,
    /// Wish for zero-copy.
    pub zero_copy: ZeroCopy,
    /// Why [`ZeroCopy::Auto`] should not even try: what is on record of the driver.
    pub avoid_zero_copy: Option<String>,
    /// Preferred busy polling.
    pub busy_poll: Option<BusyPoll>,
    /// How long a queue may answer EBUSY before that is an error: the kernel tears sockets down
    /// late, 15 to 60 ms after they were closed.
    pub busy_deadline: Duration,
}

impl Default for XdpOptions {
    fn default() -> Self {
        Self {
            rings: RingSizes { fill: 2048, rx: 1024, tx: 1024, completion: 1024 },
            frame_size: 2048,
            frame_count: None,
            headroom: 0,
            pages: PageKind::Huge,
            node: None,
            zero_copy: ZeroCopy::Auto,
            avoid_zero_copy: None,
            busy_poll: Some(BusyPoll { timeout_us: 20, budget: 64 }),
            busy_deadline: Duration::from_secs(2),
        }
    }
}

/// One port to open.
#[derive(Debug)]
pub struct PortRequest {
    /// Interface and queue.
    pub id: QueueId,
    /// The queue's entry in the interface's XSKMAP; `None` for a socket that only sends.
    pub slot: Option<Slot>,
    /// Why the interface's program is attached in generic mode; `None` where it is native.
    pub generic: Option<String>,
}

/// Opens one actor's memory and ports through xsk-rs.
#[derive(Debug)]
pub struct XdpBackend {
    options: XdpOptions,
    requests: Vec<PortRequest>,
}

impl XdpBackend {
    /// Ports are numbered in the order of `requests`.
    #[must_use]
    pub fn new(options: XdpOptions, requests: Vec<PortRequest>) -> Self {
        Self { options, requests }
    }
}

/// A rung that was not reached, or the end.
enum Fall {
    /// Try the next rung; why.
    Down(String),
    Failed(PortError),
}

impl Backend for XdpBackend {
    type Port = XdpPort;

    fn open(mut self) -> Result<(Umem, Vec<XdpPort>), PortError> {
        let slots: Vec<_> = self.requests.iter_mut().map(|r| r.slot.take().map(Rc::new)).collect();
        let devices = self.requests.iter().map(|r| device(&r.id)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = self.requests.first().map(|r| r.id.clone()) else {
            let id = QueueId::new("none", 0);
            let source = io::Error::from_raw_os_error(libc::EINVAL);
            return Err(PortError::Refused { id, step: "no port asked for", source, advice: String::new() });
        };
        let mut reasons = Vec::new();
        for mode in self.ladder(&first, &mut reasons)? {
            match self.open_in(mode, &devices, &slots, &reasons) {
                Ok(opened) => return Ok(opened),
                Err(Fall::Down(reason)) if self.options.zero_copy != ZeroCopy::Require => reasons.push(reason),
                Err(Fall::Down(reason)) => {
                    let got = "copy".to_owned();
                    return Err(PortError::Mode { id: first, wanted: Mode::ZeroCopy, got, reason });
                }
                Err(Fall::Failed(error)) => return Err(error),
            }
        }
        let source = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        Err(PortError::Refused { id: first, step: "bind in any mode", source, advice: reasons.join("; ") })
    }
}

impl XdpBackend {
    /// The rungs to try, best first.
    fn ladder(&self, first: &QueueId, reasons: &mut Vec<String>) -> Result<Vec<Mode>, PortError> {
        if let Some(request) = self.requests.iter().find(|r| r.generic.is_some()) {
            let why = request.generic.clone().unwrap_or_default();
            let reason = format!("the XDP program of {} is attached in generic mode: {why}", request.id.interface);
            if self.options.zero_copy == ZeroCopy::Require {
                let (id, got) = (first.clone(), "generic".to_owned());
                return Err(PortError::Mode { id, wanted: Mode::ZeroCopy, got, reason });
            }
            reasons.push(reason);
            return Ok(vec![Mode::Generic]);
        }
        Ok(match self.options.zero_copy {
            ZeroCopy::Auto if self.options.avoid_zero_copy.is_some() => {
                reasons.extend(self.options.avoid_zero_copy.clone());
                vec![Mode::Copy]
            }
            ZeroCopy::Auto => vec![Mode::ZeroCopy, Mode::Copy],
            ZeroCopy::Require => vec![Mode::ZeroCopy],
            ZeroCopy::Off => {
                reasons.push("zero_copy = \"off\" in the configuration".to_owned());
                vec![Mode::Copy]
            }
        })
    }

    fn open_in(
        &self,
        mode: Mode,
        devices: &[Device],
        slots: &[Option<Rc<Slot>>],
        reasons: &[String],
    ) -> Result<(Umem, Vec<XdpPort>), Fall> {
        let (mut umem, backing) = self.memory(devices).map_err(Fall::Failed)?;
        let mut ports = Vec::with_capacity(self.requests.len());
        for (index, ((request, device), slot)) in self.requests.iter().zip(devices).zip(slots).enumerate() {
            let index = PortIndex::try_from(index).unwrap_or(PortIndex::MAX);
            let parts = self.port(mode, index, request, device, &backing, reasons)?;
            let mut port = XdpPort::new(parts, slot.clone());
            port.fill(&mut umem);
            ports.push(port);
        }
        Ok((umem, ports))
    }

    /// The UMEM, as xsk-rs maps and registers it, and as we see it.
    fn memory(&self, devices: &[Device]) -> Result<(Umem, Rc<Backing>), PortError> {
        let options = &self.options;
        let id = self.requests.first().map_or_else(|| QueueId::new("none", 0), |r| r.id.clone());
        let layout_error = |source| PortError::Layout { id: id.clone(), source };
        let memory_error = |source| PortError::Memory { id: id.clone(), source };

        let ports = self.requests.len() as u32;
        let mtu = devices.iter().map(|d| d.mtu).max().unwrap_or(0);
        let frames = options.frame_count.unwrap_or_else(|| UmemLayout::frames_for(&options.rings, ports));
        let bytes = frames as usize * options.frame_size as usize;
        let (mut kind, mut fallback) = umem::choose_pages(bytes, options.pages, options.node);

        let map = |kind: PageKind| {
            // Whole huge pages: munmap(2) of a part of one fails, and the memory would stay.
            let frames = match kind {
                PageKind::Huge => frames.next_multiple_of((umem::HUGE_PAGE / options.frame_size as usize) as u32),
                PageKind::Base => frames,
            };
            let layout = UmemLayout::new(options.frame_size, frames, options.headroom, &options.rings, ports, mtu)
                .map_err(layout_error)?;
            umem::with_node(options.node, || register(&layout, &options.rings, kind))
                .map_err(memory_error)?
                .map(|registered| (layout, registered))
                .map_err(|source| refused(&id, "registering the UMEM", source, layout.bytes()))
        };
        let (layout, (umem, descriptors)) = match map(kind) {
            Err(PortError::Refused { source, .. }) if kind == PageKind::Huge => {
                fallback = Some(format!("huge pages were free but could not be registered: {source}"));
                kind = PageKind::Base;
                map(kind)?
            }
            other => other?,
        };
        let report = PageReport { kind, node: options.node, fallback };
        let region = adopt(&umem, &layout, report);
        let ours = Umem::new(region, layout).map_err(layout_error)?;
        Ok((ours, Rc::new(Backing { umem, descriptors })))
    }

    /// Socket, bind, busy polling, and what the kernel says it gave.
    fn port(
        &self,
        mode: Mode,
        index: PortIndex,
        request: &PortRequest,
        device: &Device,
        backing: &Rc<Backing>,
        reasons: &[String],
    ) -> Result<Parts, Fall> {
        let id = &request.id;
        let interface: Interface = id.interface.parse().map_err(|_| {
            let source = io::Error::from_raw_os_error(libc::EINVAL);
            Fall::Failed(refused(id, "interface name", source, 0))
        })?;
        let config = self.socket_config(mode).map_err(|source| Fall::Failed(refused(id, "ring sizes", source, 0)))?;
        let until = Instant::now() + self.options.busy_deadline;
        let (tx, rx, rings) = loop {
            // SAFETY: xsk-rs asks that each frame be owned by one side at a time: every descriptor that
            // goes to or comes from these queues passes the ledger of `Umem`, which has one place for each.
            let created = unsafe { xsk_rs::Socket::new(config, &backing.umem, &interface, id.queue) };
            match created {
                Ok(created) => break created,
                Err(error) => match errno(&error) {
                    libc::EBUSY if Instant::now() < until => thread::sleep(Duration::from_millis(1)),
                    // veth and old drivers say EOPNOTSUPP, virtio-net without iommu EINVAL: both mean no.
                    code @ (libc::EOPNOTSUPP | libc::EINVAL) if mode == Mode::ZeroCopy => {
                        let name = io::Error::from_raw_os_error(code);
                        return Err(Fall::Down(format!("the driver of {} has no zero-copy ({name})", id.interface)));
                    }
                    code => {
                        let source = io::Error::from_raw_os_error(code);
                        return Err(Fall::Failed(refused(id, "creating and binding the AF_XDP socket", source, 0)));
                    }
                },
            }
        };
        let Some((fill, completion)) = rings else {
            let source = io::Error::from_raw_os_error(libc::EBUSY);
            return Err(Fall::Failed(refused(id, "a second socket on the same queue", source, 0)));
        };
        let fd = tx.fd().as_raw_fd();
        options::raise_tx_budget(fd, self.options.rings.tx);
        let (busy_poll, busy_poll_text) = self.busy_poll(fd);
        let given = match options::is_zero_copy(fd) {
            Ok(true) => Mode::ZeroCopy,
            Ok(false) if mode == Mode::Generic => Mode::Generic,
            Ok(false) => Mode::Copy,
            Err(source) => return Err(Fall::Failed(refused(id, "getsockopt XDP_OPTIONS", source, 0))),
        };
        let mode_reason = if given == Mode::ZeroCopy { String::new() } else { reasons.join("; ") };
        let info = PortInfo {
            id: id.clone(),
            ifindex: device.ifindex,
            mac: device.mac,
            mtu: device.mtu,
            mode: given,
            mode_reason,
            busy_poll: busy_poll_text,
        };
        let (backing, rings) = (Rc::clone(backing), self.options.rings);
        Ok(Parts { rx, tx, fill, completion, backing, info, index, rings, busy_poll })
    }

    fn socket_config(&self, mode: Mode) -> io::Result<SocketConfig> {
        let rings = &self.options.rings;
        let copy = if mode == Mode::ZeroCopy { BindFlags::XDP_ZEROCOPY } else { BindFlags::XDP_COPY };
        Ok(SocketConfig::builder()
            .rx_queue_size(size(rings.rx)?)
            .tx_queue_size(size(rings.tx)?)
            .bind_flags(copy | BindFlags::XDP_USE_NEED_WAKEUP)
            // libxdp's own program leaks a descriptor per socket and doubles the EBUSY time.
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .build())
    }

    /// How far it got, and the words for it.
    fn busy_poll(&self, fd: RawFd) -> (BusyPolling, String) {
        let Some(wish) = self.options.busy_poll else {
            return (BusyPolling::Off, "off in the configuration".to_owned());
        };
        let words = format!("{} us, budget {}", wish.timeout_us, wish.budget);
        match wish.apply(fd) {
            Ok(()) if options::has_napi(fd) => (BusyPolling::On, words),
            Ok(()) => (BusyPolling::Accepted, format!("{words}, if the device has a NAPI instance for this queue")),
            Err(error) => (BusyPolling::Off, format!("refused by the kernel: {error}")),
        }
    }
}

fn size(entries: u32) -> io::Result<QueueSize> {
    QueueSize::new(entries).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e.to_string()))
}

/// Registers memory of `layout`'s size with the kernel, by way of xsk-rs.
pub(super) fn register(
    layout: &UmemLayout,
    rings: &RingSizes,
    kind: PageKind,
) -> io::Result<(xsk_rs::Umem, Vec<xsk_rs::FrameDesc>)> {
    let invalid = |e: String| io::Error::new(io::ErrorKind::InvalidInput, e);
    let config = UmemConfig::builder()
        .frame_size(FrameSize::new(layout.frame_size()).map_err(|e| invalid(e.to_string()))?)
        .fill_queue_size(size(rings.fill)?)
        .comp_queue_size(size(rings.completion)?)
        .frame_headroom(layout.headroom())
        .build()
        .map_err(|e| invalid(e.to_string()))?;
    let count = NonZeroU32::new(layout.frame_count()).ok_or_else(|| invalid("no frames".to_owned()))?;
    xsk_rs::Umem::new(config, count, kind == PageKind::Huge).map_err(|e| io::Error::from_raw_os_error(errno(&e)))
}

/// Our view of the memory that xsk-rs mapped, which stays mapped as long as the view lives.
fn adopt(umem: &xsk_rs::Umem, layout: &UmemLayout, report: PageReport) -> Region {
    let mut first = xsk_rs::FrameDesc::default();
    // SAFETY: the default descriptor is address 0, length 0, the first frame of this UMEM; nothing else
    // uses the memory yet, since no queue exists.
    let start = unsafe { umem.data_mut(&mut first) }.contents_mut().as_mut_ptr().expose_provenance();
    let start = NonNull::new(ptr::with_exposed_provenance_mut::<u8>(start)).unwrap_or(NonNull::dangling());
    umem::dont_fork(start, layout.bytes());
    // SAFETY: xsk-rs mapped `layout.bytes()` readable and writable bytes there (frame_size x
    // frame_count), and keeps them mapped while any clone of its Umem lives: the owner is one. Besides
    // this region only the kernel touches them, frame by frame as the ledger allows.
    unsafe { Region::adopt(start, layout.bytes(), report, Box::new(umem.clone())) }
}

/// The interface, there and up.
fn device(id: &QueueId) -> Result<Device, PortError> {
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

fn errno(error: &(dyn Error + 'static)) -> i32 {
    error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error)
        .unwrap_or(libc::EIO)
}

/// The kernel's errno, with what it means here and what helps.
fn refused(id: &QueueId, step: &'static str, source: io::Error, bytes: usize) -> PortError {
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

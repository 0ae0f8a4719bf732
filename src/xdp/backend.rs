//! Opens the memory and the ports of one actor, and reopens single ports. Each port gets the best mode that the kernel
//! provides. The reason why a better mode failed is kept.
//!
//! ```text
//!   memory -> for each port: socket, registration, rings, fill, bind -> read the mode back
//!                                                        |
//!                          EBUSY: the same socket again, until the deadline
//!                          EOPNOTSUPP, EINVAL in zero-copy: a new socket in the next mode
//! ```
//!
//! Frames are posted before bind, because some drivers (igb on kernel 6.18) read the fill ring only then. The XDP
//! program is attached before, because gVNIC and ice need it (quilkin 6e878b34a, agave#6836). The socket is put into
//! the XSKMAP last, by [`Port::steer`](crate::port::Port::steer).

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use rustix::net::xdp::{SocketAddrXdpFlags, XdpOptionsFlags};
use serde::{Deserialize, Serialize};

use super::Device;
use super::options::{self, BusyPoll};
use super::port::{BoundSocket, BusyPolling, XdpPort};
use super::refusal::{device, is_gone, refused};
use super::steering::XskMapEntry;
use super::xsk::{REGISTERING, Xsk};
use crate::port::{Backend, Mode, Opened, Port, PortError, PortInfo, QueueId};
use crate::umem::{PageKind, PortIndex, Region, RingSizes, Umem, UmemLayout};

/// States whether zero-copy is required.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZeroCopy {
    /// Uses zero-copy if the driver supports it, and copy mode otherwise, with the reason.
    #[default]
    Auto,
    /// Requires zero-copy. Without it, the queue does not start.
    Require,
    /// Uses copy mode.
    Off,
}

/// Holds the sizes and modes of one actor's memory and sockets.
#[derive(Debug, Clone)]
pub struct XdpOptions {
    /// Ring sizes of each port.
    pub rings: RingSizes,
    /// Size of a frame in bytes: 2048 or 4096.
    pub frame_size: u32,
    /// Number of frames in the UMEM; `None` for as many as the rings need.
    pub frame_count: Option<u32>,
    /// Bytes kept free before each packet.
    pub headroom: u32,
    /// Requested page size.
    pub pages: PageKind,
    /// NUMA node of the memory; `None` for any.
    pub node: Option<u32>,
    /// Requirement for zero-copy.
    pub zero_copy: ZeroCopy,
    /// Reason why [`ZeroCopy::Auto`] does not try zero-copy: a known defect of the driver.
    pub avoid_zero_copy: Option<String>,
    /// Preferred busy polling; `None` if it is off.
    pub busy_poll: Option<BusyPoll>,
    /// Time for which a queue may answer EBUSY before that is an error. The kernel releases a socket 15 to 60 ms after
    /// its close.
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

/// Holds the parameters to open one port.
#[derive(Debug)]
pub struct PortOpenParams {
    /// Interface and queue.
    pub id: QueueId,
    /// The queue's entry in the interface's XSKMAP; `None` for a socket that only transmits.
    pub slot: Option<XskMapEntry>,
    /// Reason why the interface's program is attached in generic mode; `None` in native mode.
    pub generic: Option<String>,
}

/// Opens one actor's memory and ports.
pub struct XdpBackend {
    options: XdpOptions,
    places: Vec<PortOpening>,
    /// Identifier of the memory on which the ports were opened.
    memory: Option<u32>,
}

/// Names the step that returns EBUSY for a busy queue.
const BINDING: &str = "bind the AF_XDP socket";

/// Holds the state of opening one port.
struct PortOpening {
    id: QueueId,
    slot: Option<Arc<XskMapEntry>>,
    generic: Option<String>,
    /// Socket with rings and frames that waits until its queue is free.
    prepared: Option<Prepared>,
    /// Whether the parameters changed, so that the prepared socket must be replaced.
    renewed: bool,
    /// Reason why the port cannot be opened until its parameters are set.
    absent: Option<String>,
    /// Interface number and queue of sockets of this port that may still be bound.
    bound_to: Vec<(u32, u32)>,
}

struct Prepared {
    xsk: Xsk,
    /// Modes to try. The first one uses this socket, each later one a new socket.
    modes: &'static [Mode],
    /// Reasons against better modes.
    reasons: Vec<String>,
}

impl PortOpening {
    fn new(request: PortOpenParams) -> Self {
        let PortOpenParams { id, slot, generic } = request;
        Self {
            id,
            slot: slot.map(Arc::new),
            generic,
            prepared: None,
            renewed: false,
            absent: None,
            bound_to: Vec::new(),
        }
    }
}

impl XdpBackend {
    /// Creates a backend. The ports are numbered in the order of `requests`.
    #[must_use]
    pub fn new(options: XdpOptions, requests: Vec<PortOpenParams>) -> Self {
        Self { options, places: requests.into_iter().map(PortOpening::new).collect(), memory: None }
    }

    /// Adds a port that cannot be opened now for this reason. It waits for [`Backend::set_params`].
    #[must_use]
    pub fn with_absent(mut self, at: PortIndex, id: QueueId, why: String) -> Self {
        let place =
            PortOpening { absent: Some(why), ..PortOpening::new(PortOpenParams { id, slot: None, generic: None }) };
        self.places.insert(usize::from(at).min(self.places.len()), place);
        self
    }

    /// Makes one attempt to open port `port`, for [`Backend::reopen`].
    fn reopen_once(&mut self, port: PortIndex, umem: &mut Umem) -> Result<XdpPort, PortError> {
        let Some(place) = self.places.get_mut(usize::from(port)) else {
            let source = io::Error::from_raw_os_error(libc::EINVAL);
            return Err(refused(&QueueId::new("none", 0), "find the port", source, 0));
        };
        if self.memory != Some(umem.id()) {
            return Err(PortError::OtherMemory { id: place.id.clone() });
        }
        if place.prepared.is_none() {
            umem.check_closed(port).map_err(|source| PortError::Taken { id: place.id.clone(), source })?;
            umem.write_off(port);
        }
        let opened = place.attempt(port, &self.options, umem)?;
        let now = (opened.info().ifindex, place.id.queue);
        place.bound_to.retain(|&queue| queue == now || !is_gone(queue.0));
        if place.bound_to == [now] {
            // SAFETY: each queue that an earlier socket of this port was bound to, on this memory, could be bound again
            // since, or its interface was deleted and the kernel has unbound it.
            unsafe { umem.take_back(port) };
        }
        Ok(opened)
    }
}

impl Backend for XdpBackend {
    type Port = XdpPort;
    type OpenParams = PortOpenParams;

    fn open(&mut self) -> Result<(Umem, Vec<XdpPort>), PortError> {
        let (umem, ports) = self.open_available()?;
        Ok((umem, ports.into_iter().collect::<Result<_, _>>()?))
    }

    fn open_available(&mut self) -> Result<Opened<XdpPort>, PortError> {
        let opened = match self.open_on(self.options.pages, None) {
            Err(PortError::Refused { step: REGISTERING, source, .. }) if self.options.pages == PageKind::Huge => {
                self.open_on(PageKind::Base, Some(format!("the kernel refused to register huge pages: {source}")))
            }
            other => other,
        };
        if opened.is_err() {
            // The prepared sockets belong to memory that was dropped.
            self.places.iter_mut().for_each(|place| place.prepared = None);
        }
        opened
    }

    fn reopen(&mut self, port: PortIndex, umem: &mut Umem) -> Result<XdpPort, PortError> {
        self.reopen_once(port, umem)
    }

    fn set_params(&mut self, port: PortIndex, request: PortOpenParams) {
        if let Some(place) = self.places.get_mut(usize::from(port)) {
            let PortOpening { prepared, bound_to, .. } = std::mem::replace(place, PortOpening::new(request));
            (place.prepared, place.renewed, place.bound_to) = (prepared, true, bound_to);
        }
    }
}

impl XdpBackend {
    fn open_on(&mut self, pages: PageKind, fallback: Option<String>) -> Result<Opened<XdpPort>, PortError> {
        let mut umem = self.memory(pages, fallback)?;
        self.memory = Some(umem.id());
        let mut ports = Vec::with_capacity(self.places.len());
        // The layout was refused above if there are more queues than indices.
        for (index, place) in PortIndex::ALL.into_iter().zip(&mut self.places) {
            let until = Instant::now() + self.options.busy_deadline;
            // Earlier sockets belong to other memory.
            (place.prepared, place.bound_to) = (None, Vec::new());
            let port = loop {
                match place.attempt(index, &self.options, &mut umem) {
                    Err(error) if error.is_busy() && Instant::now() < until => thread::sleep(Duration::from_millis(1)),
                    Err(error) if error.waits() => break Err(error),
                    other => break Ok(other?),
                }
            };
            ports.push(port);
        }
        // The actor needs at least one open port.
        if ports.iter().all(Result::is_err)
            && let Some(Err(error)) = ports.drain(..).next()
        {
            return Err(error);
        }
        Ok((umem, ports))
    }

    fn memory(&self, pages: PageKind, fallback: Option<String>) -> Result<Umem, PortError> {
        let options = &self.options;
        let Some(id) = self.places.first().map(|place| place.id.clone()) else {
            let source = io::Error::from_raw_os_error(libc::EINVAL);
            return Err(refused(&QueueId::new("none", 0), "find a port", source, 0));
        };
        let devices: Vec<_> = self.places.iter().map(PortOpening::device).collect();
        let mtu = devices.iter().flatten().map(|d| d.mtu).max();
        let Some(mtu) = mtu else {
            // No interface is available, so no memory is allocated.
            return Err(devices
                .into_iter()
                .find_map(Result::err)
                .unwrap_or(PortError::Gone { id, source: io::Error::from_raw_os_error(libc::ENODEV) }));
        };
        let ports = self.places.len() as u32;
        let frames = options.frame_count.unwrap_or_else(|| UmemLayout::frames_for(&options.rings, ports));
        let layout = UmemLayout::new(options.frame_size, frames, options.headroom, &options.rings, ports, mtu)
            .map_err(|source| PortError::Layout { id: id.clone(), source })?;
        let region = Region::map(layout.bytes(), pages, options.node)
            .map_err(|source| PortError::Memory { id: id.clone(), source })?
            .because(fallback);
        Umem::new(region, layout).map_err(|source| PortError::Layout { id, source })
    }
}

impl PortOpening {
    /// Returns the interface if it exists, is up, and its program is attached.
    fn device(&self) -> Result<Device, PortError> {
        match &self.absent {
            Some(why) => Err(PortError::NotNow { id: self.id.clone(), why: why.clone() }),
            None => device(&self.id),
        }
    }

    /// Returns the modes to try, best first, and the reasons against better ones.
    fn modes_to_try(&self, options: &XdpOptions) -> Result<(&'static [Mode], Vec<String>), PortError> {
        if let Some(why) = &self.generic {
            let reason = format!("the XDP program of {} is attached in generic mode: {why}", self.id.interface);
            if options.zero_copy == ZeroCopy::Require {
                return Err(self.not_zero_copy("generic", reason));
            }
            return Ok((&[Mode::Generic], vec![reason]));
        }
        Ok(match (options.zero_copy, &options.avoid_zero_copy) {
            (ZeroCopy::Auto, Some(why)) => (&[Mode::Copy], vec![why.clone()]),
            (ZeroCopy::Auto, None) => (&[Mode::ZeroCopy, Mode::Copy], Vec::new()),
            (ZeroCopy::Require, _) => (&[Mode::ZeroCopy], Vec::new()),
            (ZeroCopy::Off, _) => (&[Mode::Copy], vec!["zero_copy = \"off\" in the configuration".to_owned()]),
        })
    }

    fn not_zero_copy(&self, got: &str, reason: String) -> PortError {
        PortError::Mode { id: self.id.clone(), wanted: Mode::ZeroCopy, got: got.to_owned(), reason }
    }

    /// Makes one attempt: tries the modes until one works. After EBUSY it keeps the socket for the next attempt.
    fn attempt(&mut self, index: PortIndex, options: &XdpOptions, umem: &mut Umem) -> Result<XdpPort, PortError> {
        let device = self.device()?;
        if std::mem::take(&mut self.renewed) && self.prepared.take().is_some() {
            // SAFETY: that socket was never bound, and it is closed.
            unsafe { umem.recall(index) };
        }
        let mut prepared = match self.prepared.take() {
            Some(prepared) => prepared,
            None => {
                let (modes, reasons) = self.modes_to_try(options)?;
                self.prepare(index, options, umem, modes, reasons)?
            }
        };
        loop {
            let mode = prepared.modes.first().copied().unwrap_or(Mode::Copy);
            let flag = match mode {
                Mode::ZeroCopy => SocketAddrXdpFlags::XDP_ZEROCOPY,
                _ => SocketAddrXdpFlags::XDP_COPY,
            };
            let Err(source) = prepared.xsk.bind(device.ifindex, self.id.queue, flag) else {
                // This proves that an earlier socket has left this queue, but nothing about other queues: the same name
                // may now belong to another interface.
                let now = (device.ifindex, self.id.queue);
                self.bound_to.retain(|&earlier| earlier != now);
                self.bound_to.push(now);
                return self.bound(index, options, umem, prepared, device);
            };
            if source.raw_os_error() == Some(libc::EBUSY) {
                self.prepared = Some(prepared);
                return Err(refused(&self.id, BINDING, source, 0));
            }
            let Prepared { xsk, modes, mut reasons, .. } = prepared;
            drop(xsk);
            // SAFETY: that socket was never bound, so the kernel has not used its frames, and it is closed.
            unsafe { umem.recall(index) };
            match source.raw_os_error() {
                // veth and old drivers return EOPNOTSUPP, virtio-net without iommu EINVAL: both mean no zero-copy.
                Some(libc::EOPNOTSUPP | libc::EINVAL) if mode == Mode::ZeroCopy => {
                    let reason = format!("the driver of {} has no zero-copy ({source})", self.id.interface);
                    if options.zero_copy == ZeroCopy::Require {
                        return Err(self.not_zero_copy("copy", reason));
                    }
                    reasons.push(reason);
                }
                _ => return Err(refused(&self.id, BINDING, source, 0)),
            }
            prepared = self.prepare(index, options, umem, &modes[1..], reasons)?;
        }
    }

    /// Returns a socket that is ready for bind, with a full fill ring.
    fn prepare(
        &self,
        index: PortIndex,
        options: &XdpOptions,
        umem: &mut Umem,
        modes: &'static [Mode],
        reasons: Vec<String>,
    ) -> Result<Prepared, PortError> {
        let bytes = umem.layout().bytes();
        let mut xsk =
            Xsk::new(umem, index, options.rings).map_err(|(step, source)| refused(&self.id, step, source, bytes))?;
        xsk.ends.fill_up(umem);
        Ok(Prepared { xsk, modes, reasons })
    }

    /// Reads back what the kernel provides, and creates the port.
    fn bound(
        &self,
        index: PortIndex,
        options: &XdpOptions,
        umem: &mut Umem,
        prepared: Prepared,
        device: Device,
    ) -> Result<XdpPort, PortError> {
        let Prepared { xsk, modes, reasons } = prepared;
        let fd = xsk.fd().as_raw_fd();
        options::raise_tx_budget(fd, options.rings.tx);
        let (busy_poll, busy_poll_text) = busy_poll(options, fd);
        let mode = match sockopt::xdp_options(xsk.fd()) {
            Ok(flags) if flags.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY) => Mode::ZeroCopy,
            Ok(_) if modes.first() == Some(&Mode::Generic) => Mode::Generic,
            Ok(_) => Mode::Copy,
            Err(error) => {
                drop(xsk);
                umem.write_off(index);
                return Err(refused(&self.id, "read the mode (getsockopt XDP_OPTIONS)", error.into(), 0));
            }
        };
        let info = PortInfo {
            id: self.id.clone(),
            ifindex: device.ifindex,
            mac: device.mac,
            mtu: device.mtu,
            mode,
            mode_reason: if mode == Mode::ZeroCopy { String::new() } else { reasons.join("; ") },
            busy_poll: busy_poll_text,
        };
        Ok(XdpPort::new(BoundSocket { xsk, slot: self.slot.clone(), info, busy_poll }))
    }
}

/// Applies busy polling. Returns its state and the description.
fn busy_poll(options: &XdpOptions, fd: RawFd) -> (BusyPolling, String) {
    let Some(wanted) = options.busy_poll else {
        return (BusyPolling::Off, "off in the configuration".to_owned());
    };
    let text = format!("{} us, budget {}", wanted.timeout_us, wanted.budget);
    match wanted.apply(fd) {
        Ok(()) if options::has_napi(fd) => (BusyPolling::On, text),
        Ok(()) => (BusyPolling::Accepted, format!("{text}, if the device has a NAPI instance for this queue")),
        Err(error) => (BusyPolling::Off, format!("refused by the kernel: {error}")),
    }
}

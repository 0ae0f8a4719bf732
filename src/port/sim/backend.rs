//! Opens memory and simulated ports for one actor.

use std::io;

use super::net::lock;
use super::socket::KernelRings;
use super::{Descriptor, SimNet, SimPort};
use crate::port::{Backend, Mode, Opened, PortError, PortInfo, PortRings, QueueId, RingHandles};
use crate::ring::{self, InMemory};
use crate::umem::{PageKind, PortIndex, Region, RingSizes, Umem, UmemLayout};

type UserRings = RingHandles<InMemory<u64>, InMemory<Descriptor>>;

/// Opens one UMEM, and one port on it for each queue in the list.
#[derive(Clone)]
pub struct SimBackend {
    net: SimNet,
    ids: Vec<QueueId>,
    /// Number of entries in each port's rings.
    pub rings: RingSizes,
    /// Size of a frame in bytes: 2048 or 4096.
    pub frame_size: u32,
    /// Number of frames; `None` for as many as the rings can hold.
    pub frame_count: Option<u32>,
    /// Bytes kept free before each packet, in addition to XDP's headroom.
    pub headroom: u32,
}

impl SimBackend {
    /// Creates a backend for ports on `queues` of `net`, with rings of 256 entries (fill 512) and frames of 2 KiB.
    #[must_use]
    pub fn new(net: &SimNet, queues: &[QueueId]) -> Self {
        Self {
            net: net.clone(),
            ids: queues.to_vec(),
            rings: RingSizes { fill: 512, rx: 256, tx: 256, completion: 256 },
            frame_size: 2048,
            frame_count: None,
            headroom: 0,
        }
    }

    /// Replaces the sizes of the rings.
    #[must_use]
    pub fn with_rings(self, rings: RingSizes) -> Self {
        Self { rings, ..self }
    }

    fn layout(&self) -> Result<UmemLayout, PortError> {
        let mtu = self.ids.iter().filter_map(|id| self.net.find(id)).map(|(it, _)| it.mtu).max().unwrap_or(0);
        let ports = self.ids.len() as u32;
        let frames = self.frame_count.unwrap_or_else(|| UmemLayout::frames_for(&self.rings, ports));
        UmemLayout::new(self.frame_size, frames, self.headroom, &self.rings, ports, mtu)
            .map_err(|source| PortError::Layout { id: self.first(), source })
    }

    /// Returns the queue that errors of the shared memory name, which is the first one.
    fn first(&self) -> QueueId {
        self.ids.first().cloned().unwrap_or_else(|| QueueId::new("sim", 0))
    }

    fn may_bind(&self, id: &QueueId, layout: &UmemLayout) -> Result<(), PortError> {
        let missing = || PortError::Gone { id: id.clone(), source: io::Error::from_raw_os_error(libc::ENODEV) };
        let (_, nic) = self.net.find(id).ok_or_else(missing)?;
        lock(nic).may_bind(layout, self.net.now_ns())
    }

    /// Creates the memory and binds the ports that `may` allows.
    fn bind(
        &self,
        layout: UmemLayout,
        may: impl Iterator<Item = Result<(), PortError>>,
    ) -> Result<Opened<SimPort>, PortError> {
        let memory = Region::map(layout.bytes(), PageKind::Base, None);
        let region = memory.map_err(|source| PortError::Memory { id: self.first(), source })?;
        let mut umem = Umem::new(region, layout).map_err(|source| PortError::Layout { id: self.first(), source })?;
        // The layout was refused above if there are more queues than indices.
        let ports = self.ids.iter().zip(may).zip(PortIndex::ALL);
        let ports = ports.map(|((id, may), at)| may.and_then(|()| self.port(id, at, &mut umem))).collect();
        Ok((umem, ports))
    }

    fn port(&self, id: &QueueId, index: PortIndex, umem: &mut Umem) -> Result<SimPort, PortError> {
        let missing = |errno| PortError::Gone { id: id.clone(), source: io::Error::from_raw_os_error(errno) };
        let (interface, nic) = self.net.find(id).ok_or_else(|| missing(libc::ENODEV))?;
        let (user, kernel) = self.ring_ends(id, &mut lock(nic))?;
        let key = umem.simulated_port(index).map_err(|source| PortError::Taken { id: id.clone(), source })?;
        let socket = lock(nic).bind(kernel, *umem.layout())?;
        Ok(SimPort {
            info: PortInfo {
                id: id.clone(),
                ifindex: self.net.ifindex(&id.interface).ok_or_else(|| missing(libc::ENODEV))?,
                mac: interface.mac,
                mtu: interface.mtu,
                mode: Mode::Simulated,
                mode_reason: "simulated port".to_owned(),
                busy_poll: "not available for a simulated port".to_owned(),
            },
            ends: PortRings::new(user, key, self.rings),
            net: self.net.clone(),
            nic: nic.clone(),
            socket,
        })
    }

    fn ring_ends(&self, id: &QueueId, nic: &mut super::nic::NicQueue) -> Result<(UserRings, KernelRings), PortError> {
        let refused = |error: ring::RingSizeError| PortError::Refused {
            id: id.clone(),
            step: "create rings",
            source: io::Error::new(io::ErrorKind::InvalidInput, error),
            advice: String::new(),
        };
        let fill = ring::pair(self.rings.fill, nic.ring_start()).map_err(refused)?;
        let completion = ring::pair(self.rings.completion, nic.ring_start()).map_err(refused)?;
        let rx = ring::pair(self.rings.rx, nic.ring_start()).map_err(refused)?;
        let tx = ring::pair(self.rings.tx, nic.ring_start()).map_err(refused)?;
        Ok((
            RingHandles { fill: fill.0, completion: completion.1, rx: rx.1, tx: tx.0 },
            KernelRings { fill: fill.1, completion: completion.0, rx: rx.0, tx: tx.1 },
        ))
    }
}

impl Backend for SimBackend {
    type Port = SimPort;
    type OpenParams = QueueId;

    /// Binds at once or returns an error. A queue that is still being released returns EBUSY until virtual time has
    /// passed, like a real one.
    fn open(&mut self) -> Result<(Umem, Vec<SimPort>), PortError> {
        let layout = self.layout()?;
        // The check precedes the memory: a queue may be busy for many attempts, and mapping pages is slow.
        self.ids.iter().try_for_each(|id| self.may_bind(id, &layout))?;
        let (umem, ports) = self.bind(layout, self.ids.iter().map(|_| Ok(())))?;
        Ok((umem, ports.into_iter().collect::<Result<_, _>>()?))
    }

    fn open_available(&mut self) -> Result<Opened<SimPort>, PortError> {
        let layout = self.layout()?;
        let mut may: Vec<_> = self.ids.iter().map(|id| self.may_bind(id, &layout)).collect();
        let none = may.iter().all(Result::is_err);
        if let Some(at) = may.iter().position(|may| may.as_ref().is_err_and(|error| none || !error.waits())) {
            may.swap_remove(at)?;
        }
        self.bind(layout, may.into_iter())
    }

    fn reopen(&mut self, port: PortIndex, umem: &mut Umem) -> Result<SimPort, PortError> {
        let id = self.ids.get(usize::from(port)).cloned().unwrap_or_else(|| QueueId::new("none", 0));
        umem.check_closed(port).map_err(|source| PortError::Taken { id: id.clone(), source })?;
        umem.write_off(port);
        self.may_bind(&id, umem.layout())?;
        let opened = self.port(&id, port, umem)?;
        umem.take_back_simulated(opened.ends.key());
        Ok(opened)
    }

    fn set_params(&mut self, port: PortIndex, request: QueueId) {
        if let Some(id) = self.ids.get_mut(usize::from(port)) {
            *id = request;
        }
    }
}

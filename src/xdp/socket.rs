//! The small API: one queue, its memory and its steering, for callers who own the loop.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::backend::{PortOpenParams, XdpBackend, XdpOptions};
use super::port::XdpPort;
use super::steering::{AttachMode, Steering, SteeringOptions};
use crate::port::{Backend, Burst, KernelCounters, Kick, Port, PortCounters, PortError, PortInfo, QueueId};
use crate::umem::{Frame, FrameCounts, Umem};

/// What [`Socket::open`] needs.
#[derive(Debug, Clone)]
pub struct SocketConfig {
    /// Interface and queue.
    pub id: QueueId,
    /// UDP destinations whose packets come to this socket; all others stay the kernel's.
    pub listen: Vec<(IpAddr, RangeInclusive<u16>)>,
    /// Sizes and wishes.
    pub options: XdpOptions,
    /// How the XDP program is attached.
    pub steering: SteeringOptions,
}

impl SocketConfig {
    /// Queue `queue` of `interface`, with default sizes, for packets to `address` and `ports`.
    #[must_use]
    pub fn new(interface: &str, queue: u32, address: IpAddr, ports: RangeInclusive<u16>) -> Self {
        Self {
            id: QueueId::new(interface, queue),
            listen: vec![(address, ports)],
            options: XdpOptions::default(),
            steering: SteeringOptions::default(),
        }
    }
}

/// What a socket counted, and where its frames are.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SocketStats {
    /// Our counters.
    pub port: PortCounters,
    /// The kernel's.
    pub kernel: KernelCounters,
    /// Where the frames are.
    pub census: FrameCounts,
}

/// One queue of one interface, alone: no actor, no supervisor.
///
/// ```no_run
/// use oxide::port::Burst;
/// use oxide::xdp::{Socket, SocketConfig};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut socket = Socket::open(SocketConfig::new("eth0", 0, "192.0.2.1".parse()?, 7..=7))?;
/// let mut packets = Burst::new();
/// loop {
///     socket.poll(std::time::Duration::from_millis(100))?;
///     socket.recv_batch(&mut packets)?;
///     for packet in packets.iter_mut() {
///         oxide::packet::reflect(socket.packet_mut(packet));
///     }
///     socket.send_batch(&mut packets)?;
/// }
/// # }
/// ```
pub struct Socket {
    // Dropped in this order: rings, memory, program.
    port: XdpPort,
    umem: Umem,
    steering: Steering,
}

impl Socket {
    /// Attaches the program, opens memory and rings, and lets packets in.
    ///
    /// # Errors
    /// [`PortError`], with the mend.
    pub fn open(config: SocketConfig) -> Result<Self, PortError> {
        let SocketConfig { id, listen, options, steering } = config;
        let refused = |text: String| PortError::Steering { id: id.clone(), text };
        let mut steering = Steering::attach(&id.interface, &steering).map_err(|e| refused(e.to_string()))?;
        for (address, ports) in listen {
            steering.allow(address, [ports]).map_err(|e| refused(e.to_string()))?;
        }
        let slot = Some(steering.slot(id.queue).map_err(|e| refused(e.to_string()))?);
        let generic = (steering.mode() == AttachMode::Generic).then(|| steering.why().unwrap_or_default().to_owned());
        let (umem, ports) = XdpBackend::new(options, vec![PortOpenParams { id: id.clone(), slot, generic }]).open()?;
        let gone = || PortError::Steering { id: id.clone(), text: "no port was opened".to_owned() };
        let mut port = ports.into_iter().next().ok_or_else(gone)?;
        port.steer(true)?;
        Ok(Self { port, umem, steering })
    }

    /// What the kernel gave: mode, interface, MTU.
    #[must_use]
    pub fn info(&self) -> &PortInfo {
        self.port.info()
    }

    /// The interface's program, to change what comes here.
    pub fn steering(&mut self) -> &mut Steering {
        &mut self.steering
    }

    /// Moves received packets to the end of `into`, until it is full; never blocks. Frames that were
    /// sent come back, and the fill ring is served. Returns how many packets came.
    ///
    /// # Errors
    /// [`PortError::Gone`] when the interface is no more; other errors are the kernel's.
    pub fn recv_batch(&mut self, into: &mut Burst) -> Result<usize, PortError> {
        self.port.reclaim(&mut self.umem);
        self.port.fill(&mut self.umem);
        let limit = into.room();
        let received = self.port.receive(&mut self.umem, into, limit);
        if received == 0 {
            self.port.kick()?;
        }
        Ok(received)
    }

    /// Moves packets from the front of `from` to the TX ring and tells the kernel; what did not fit
    /// stays in `from`. Returns how many went.
    ///
    /// # Errors
    /// As [`recv_batch`](Self::recv_batch).
    pub fn send_batch(&mut self, from: &mut Burst) -> Result<usize, PortError> {
        let sent = self.port.transmit(&mut self.umem, from);
        // Copy mode takes a small batch per call: as many calls as a full ring needs, and no more.
        for _ in 0..64 {
            if self.port.kick()? != Kick::Again {
                break;
            }
        }
        self.port.reclaim(&mut self.umem);
        Ok(sent)
    }

    /// Waits until a packet is there (true) or the time is over. Zero only looks.
    ///
    /// # Errors
    /// The kernel's refusal of poll(2).
    pub fn poll(&mut self, timeout: Duration) -> Result<bool, PortError> {
        let Some(fd) = self.port.fd() else { return Ok(false) };
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => {
                let (id, source) = (self.info().id.clone(), error.into());
                Err(PortError::Refused { id, step: "poll", source, advice: String::new() })
            }
        }
    }

    /// Counters, and where the frames are.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stats(&self) -> Result<SocketStats, PortError> {
        Ok(SocketStats { port: self.port.counters(), kernel: self.port.kernel_counters()?, census: self.umem.census() })
    }

    /// A free frame for a packet of your own: write it with [`packet_mut`](Self::packet_mut) after
    /// [`set_length`](Self::set_length). `None` when all are in use.
    pub fn take(&mut self) -> Option<Frame> {
        self.umem.take()
    }

    /// Drops a packet: its frame is free again.
    pub fn give(&mut self, frame: Frame) {
        self.umem.give(frame);
    }

    /// The packet in `frame`.
    #[must_use]
    pub fn packet<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.umem.bytes(frame)
    }

    /// The packet in `frame`, to write to.
    #[must_use]
    pub fn packet_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.umem.bytes_mut(frame)
    }

    /// Sets a packet's length, bytes; `false` if it does not fit the frame.
    #[must_use]
    pub fn set_length(&self, frame: &mut Frame, length: u16) -> bool {
        self.umem.set_length(frame, length)
    }

    /// Moves the start of a packet by `by` bytes, its end staying where it is: towards the front for a
    /// header more, towards the end for one less; `false`, and no change, if it would leave the frame or the
    /// packet.
    #[must_use]
    pub fn move_start(&self, frame: &mut Frame, by: i16) -> bool {
        self.umem.move_start(frame, by)
    }
}

//! Provides the small API: one queue, its memory and its steering, for callers with their own loop.

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

/// Holds the parameters of [`Socket::open`].
#[derive(Debug, Clone)]
pub struct SocketConfig {
    /// Interface and queue.
    pub id: QueueId,
    /// UDP destinations whose packets go to this socket. The kernel keeps all other packets.
    pub listen: Vec<(IpAddr, RangeInclusive<u16>)>,
    /// Sizes and modes.
    pub options: XdpOptions,
    /// Attachment of the XDP program.
    pub steering: SteeringOptions,
}

impl SocketConfig {
    /// Returns the configuration for queue `queue` of `interface`, for packets to `address` and `ports`, with default
    /// sizes.
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

/// Reports the counters of a socket and the states of its frames.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SocketStats {
    /// Counters of the port.
    pub port: PortCounters,
    /// Counters of the kernel.
    pub kernel: KernelCounters,
    /// Number of frames in each state.
    pub census: FrameCounts,
}

/// Owns one queue of one interface, without actor and supervisor.
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
    // Fields are dropped in this order: rings, memory, program.
    port: XdpPort,
    umem: Umem,
    steering: Steering,
}

impl Socket {
    /// Attaches the program, opens memory and rings, and starts steering.
    ///
    /// # Errors
    /// Returns a [`PortError`] with the remedy.
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
        let missing = || PortError::Steering { id: id.clone(), text: "no port was opened".to_owned() };
        let mut port = ports.into_iter().next().ok_or_else(missing)?;
        port.steer(true)?;
        Ok(Self { port, umem, steering })
    }

    /// Returns what the kernel provides: mode, interface, MTU.
    #[must_use]
    pub fn info(&self) -> &PortInfo {
        self.port.info()
    }

    /// Returns the interface's program, to change which packets reach this socket.
    pub fn steering(&mut self) -> &mut Steering {
        &mut self.steering
    }

    /// Moves received packets to the end of `into` until it is full. It never blocks. It also reclaims sent frames and
    /// refills the fill ring. Returns the number of packets received.
    ///
    /// # Errors
    /// Returns [`PortError::Gone`] if the interface was deleted, or another error of the kernel.
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

    /// Moves packets from the front of `from` to the TX ring and wakes the kernel. Packets that do not fit stay in
    /// `from`. Returns the number of packets moved.
    ///
    /// # Errors
    /// Returns the errors of [`recv_batch`](Self::recv_batch).
    pub fn send_batch(&mut self, from: &mut Burst) -> Result<usize, PortError> {
        let sent = self.port.transmit(&mut self.umem, from);
        // Copy mode takes a small batch per call, so a full ring needs several calls. The loop is bounded.
        for _ in 0..64 {
            if self.port.kick()? != Kick::Again {
                break;
            }
        }
        self.port.reclaim(&mut self.umem);
        Ok(sent)
    }

    /// Waits until a packet is available. Returns `true` then, and `false` after `timeout`. With a zero timeout it only
    /// checks.
    ///
    /// # Errors
    /// Returns the error of poll(2).
    pub fn poll(&mut self, timeout: Duration) -> Result<bool, PortError> {
        let Some(fd) = self.port.fd() else { return Ok(false) };
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => {
                let (id, source) = (self.info().id.clone(), error.into());
                Err(PortError::Refused { id, step: "wait for packets (poll)", source, advice: String::new() })
            }
        }
    }

    /// Returns the counters and the number of frames in each state.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn stats(&self) -> Result<SocketStats, PortError> {
        Ok(SocketStats { port: self.port.counters(), kernel: self.port.kernel_counters()?, census: self.umem.census() })
    }

    /// Takes a free frame for a new packet. Set its length with [`set_length`](Self::set_length), then write it with
    /// [`packet_mut`](Self::packet_mut). Returns `None` if all frames are in use.
    pub fn take(&mut self) -> Option<Frame> {
        self.umem.take()
    }

    /// Drops a packet, so that its frame is free again.
    pub fn give(&mut self, frame: Frame) {
        self.umem.give(frame);
    }

    /// Returns the packet in `frame`.
    #[must_use]
    pub fn packet<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.umem.bytes(frame)
    }

    /// Returns the packet in `frame` for writing.
    #[must_use]
    pub fn packet_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.umem.bytes_mut(frame)
    }

    /// Sets the length of a packet in bytes. Returns `false` if it does not fit the frame.
    #[must_use]
    pub fn set_length(&self, frame: &mut Frame, length: u16) -> bool {
        self.umem.set_length(frame, length)
    }

    /// Moves the start of a packet by `by` bytes; its end does not move. A negative value adds space for a header, a
    /// positive value removes one. Returns `false` and changes nothing if the start would leave the frame or the
    /// packet.
    #[must_use]
    pub fn move_start(&self, frame: &mut Frame, by: i16) -> bool {
        self.umem.move_start(frame, by)
    }
}

//! Sizes, checked once, before anything is mapped.

use super::MAX_PORTS;

/// Bytes the kernel keeps before a packet in every frame (`XDP_PACKET_HEADROOM`, include/uapi/linux/bpf.h).
pub const XDP_HEADROOM: u32 = 256;

/// Most entries of one ring: the fill ring of the largest `ring_size`.
const MAX_ENTRIES: u32 = 65_536;

/// Packets of one actor that may wait at once, for a next hop or for another queue.
pub(crate) const HELD_FRAMES: u32 = 256;

/// Entries in each of the four rings of a port; all powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct RingSizes {
    /// Frames offered to the kernel for receiving.
    pub fill: u32,
    /// Packets received and not looked at yet.
    pub rx: u32,
    /// Packets handed to the kernel for sending.
    pub tx: u32,
    /// Packets sent whose frames come back.
    pub completion: u32,
}

impl RingSizes {
    /// The sizes that follow from one number: fill is twice RX, because a driver drops packets while
    /// user space is only a few hundred nanoseconds late otherwise (firedancer#4258).
    ///
    /// # Errors
    /// [`LayoutError::RingSize`] if `ring_size` is not a power of two between 64 and 32768.
    pub fn from_ring_size(ring_size: u32) -> Result<Self, LayoutError> {
        if !ring_size.is_power_of_two() || !(64..=32_768).contains(&ring_size) {
            return Err(LayoutError::RingSize { name: "ring_size", got: ring_size });
        }
        Ok(Self { fill: 2 * ring_size, rx: ring_size, tx: ring_size, completion: ring_size })
    }

    /// Checks sizes that were chosen one by one.
    ///
    /// # Errors
    /// [`LayoutError`] naming the ring.
    pub fn check(&self) -> Result<(), LayoutError> {
        for (name, got) in [("fill", self.fill), ("rx", self.rx), ("tx", self.tx), ("completion", self.completion)] {
            if !got.is_power_of_two() || got > MAX_ENTRIES {
                return Err(LayoutError::RingSize { name, got });
            }
        }
        if self.fill < 2 * self.rx {
            return Err(LayoutError::FillTooSmall { fill: self.fill, rx: self.rx });
        }
        Ok(())
    }

    /// Frames that one port can have out at once. A frame on the RX ring was posted to the fill ring, and one on the TX
    /// ring comes back by the completion ring: a port posts no more of either than the ring has room for.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.fill.saturating_add(self.completion)
    }
}

/// Sizes of one UMEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UmemLayout {
    frame_size: u32,
    /// The frame size is a power of two: this one.
    shift: u32,
    frame_count: u32,
    headroom: u32,
}

impl UmemLayout {
    /// Checks and keeps the sizes.
    ///
    /// `frame_size` is 2048 or 4096 bytes (the kernel's aligned chunks); `headroom` is kept free
    /// before each packet, beyond the kernel's [`XDP_HEADROOM`]; `ports` is how many ports with
    /// `rings` share the memory; `mtu` is the largest of their MTUs, 0 where unknown.
    ///
    /// # Errors
    /// [`LayoutError`] naming what does not fit and the value that would.
    pub fn new(
        frame_size: u32,
        frame_count: u32,
        headroom: u32,
        rings: &RingSizes,
        ports: u32,
        mtu: u32,
    ) -> Result<Self, LayoutError> {
        rings.check()?;
        if ports > u32::from(MAX_PORTS) {
            return Err(LayoutError::TooManyPorts { got: ports as usize });
        }
        if frame_size != 2048 && frame_size != 4096 {
            return Err(LayoutError::FrameSize { got: frame_size });
        }
        let wanted = Self::frames_for(rings, ports);
        if frame_count < wanted {
            return Err(LayoutError::TooFewFrames { got: frame_count, wanted, ports });
        }
        // Room for the 64 bytes that `Umem::header_bytes` reads, whatever the packet's length.
        let room = frame_size.saturating_sub(XDP_HEADROOM.saturating_add(headroom));
        let packet = mtu.saturating_add(ETHERNET).max(64);
        if packet > room {
            return Err(LayoutError::MtuTooLarge { mtu, room: room.saturating_sub(ETHERNET), frame_size, headroom });
        }
        Ok(Self { frame_size, shift: frame_size.trailing_zeros(), frame_count, headroom })
    }

    /// Frames that are enough whatever the rings hold: those of each port and a batch that waits for its TX ring, and
    /// those with the application: a batch in hand, and [`HELD_FRAMES`].
    #[must_use]
    pub fn frames_for(rings: &RingSizes, ports: u32) -> u32 {
        let batch = crate::packet::LANES as u32;
        rings.frames().saturating_add(batch).saturating_mul(ports).saturating_add(batch + HELD_FRAMES)
    }

    /// Bytes in a frame.
    #[must_use]
    pub fn frame_size(&self) -> u32 {
        self.frame_size
    }

    /// Frames in the region.
    #[must_use]
    pub fn frame_count(&self) -> u32 {
        self.frame_count
    }

    /// Bytes kept free before each packet, beyond the kernel's own.
    #[must_use]
    pub fn headroom(&self) -> u32 {
        self.headroom
    }

    /// Bytes in the region.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frame_size as usize * self.frame_count as usize
    }

    /// Where a packet that the application makes starts within its frame.
    #[must_use]
    pub fn data_offset(&self) -> u16 {
        // Below 4096 by the check in `new`.
        (XDP_HEADROOM + self.headroom) as u16
    }

    /// First byte of frame `index` within the region.
    #[must_use]
    #[inline]
    pub fn address(&self, index: u32) -> usize {
        (index as usize) << self.shift
    }

    /// Index of the frame that `address` lies in, and how far from its start. The frame may be beyond the
    /// last one.
    #[must_use]
    #[inline]
    pub fn locate(&self, address: u64) -> (u64, u16) {
        // The offset is below the frame size, at most 4096.
        (address >> self.shift, (address & u64::from(self.frame_size - 1)) as u16)
    }
}

/// Ethernet header with one VLAN tag, bytes.
const ETHERNET: u32 = 14 + 4;

/// Sizes that do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// Not a power of two in range.
    #[error("{name} is {got}: it must be a power of two between 64 and 32768")]
    RingSize {
        /// Which ring or setting.
        name: &'static str,
        /// As configured.
        got: u32,
    },
    /// The fill ring cannot keep the driver supplied.
    #[error("the fill ring has {fill} entries and the RX ring {rx}: fill must be at least twice RX")]
    FillTooSmall {
        /// As configured.
        fill: u32,
        /// As configured.
        rx: u32,
    },
    /// The kernel takes only two chunk sizes.
    #[error("frame_size is {got}: the kernel's aligned chunks are 2048 or 4096 bytes")]
    FrameSize {
        /// As configured.
        got: u32,
    },
    /// The ledger has a state for each of eight ports.
    #[error("{got} ports: expected at most {MAX_PORTS} for one actor; to fix: start a second engine for the others")]
    TooManyPorts {
        /// Ports asked for.
        got: usize,
    },
    /// A full set of rings would starve.
    #[error(
        "frame_count is {got}, but the rings of {ports} port(s) can hold {wanted} frames at once: set frame_count to \
         {wanted} or more, or a smaller ring_size"
    )]
    TooFewFrames {
        /// As configured.
        got: u32,
        /// The least that is enough.
        wanted: u32,
        /// Ports that share the memory.
        ports: u32,
    },
    /// A full-sized packet would not fit.
    #[error(
        "MTU {mtu} does not fit: a frame of {frame_size} bytes with {headroom} bytes of headroom holds IP packets up to \
         {room} bytes; use frame_size = 4096, or `ip link set dev <interface> mtu {room}`"
    )]
    MtuTooLarge {
        /// The interface's MTU, bytes.
        mtu: u32,
        /// The largest MTU that fits, bytes.
        room: u32,
        /// As configured.
        frame_size: u32,
        /// As configured.
        headroom: u32,
    },
    /// The region is smaller than the frames.
    #[error("the region has {got} bytes, the frames need {wanted}")]
    RegionTooSmall {
        /// Bytes needed.
        wanted: usize,
        /// Bytes there.
        got: usize,
    },
}

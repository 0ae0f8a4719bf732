//! Checks all sizes once, before memory is mapped.

use super::MAX_PORTS;

/// Counts the bytes that the kernel keeps before a packet in every frame (`XDP_PACKET_HEADROOM`,
/// include/uapi/linux/bpf.h).
pub const XDP_HEADROOM: u32 = 256;

/// Limits the entries of one ring, which is the fill ring of the largest `ring_size`.
const MAX_ENTRIES: u32 = 65_536;

/// Limits the packets of one actor that are held for a next hop or for another queue.
pub(crate) const HELD_FRAMES: u32 = 256;

/// Holds the number of entries of a port's four rings. All are powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct RingSizes {
    /// Frames that the kernel may use for reception.
    pub fill: u32,
    /// Packets received and not processed yet.
    pub rx: u32,
    /// Packets passed to the kernel for sending.
    pub tx: u32,
    /// Packets sent whose frames return.
    pub completion: u32,
}

impl RingSizes {
    /// Computes all sizes from one number. The fill ring is twice the RX ring. Otherwise a driver drops packets when
    /// user space is only a few hundred nanoseconds late (firedancer#4258).
    ///
    /// # Errors
    /// Returns [`LayoutError::RingSize`] if `ring_size` is not a power of two between 64 and 32768.
    pub fn from_ring_size(ring_size: u32) -> Result<Self, LayoutError> {
        if !ring_size.is_power_of_two() || !(64..=32_768).contains(&ring_size) {
            return Err(LayoutError::RingSize { name: "ring_size", got: ring_size });
        }
        Ok(Self { fill: 2 * ring_size, rx: ring_size, tx: ring_size, completion: ring_size })
    }

    /// Checks sizes that were set individually.
    ///
    /// # Errors
    /// Returns a [`LayoutError`] with the name of the ring.
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

    /// Returns the maximum number of frames with the kernel for one port. A frame on the RX ring was posted to the fill
    /// ring, and a frame on the TX ring returns through the completion ring. A port posts no more frames than these
    /// rings have entries.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.fill.saturating_add(self.completion)
    }
}

/// Holds the sizes of one UMEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UmemLayout {
    frame_size: u32,
    /// Binary logarithm of the frame size, which is a power of two.
    shift: u32,
    frame_count: u32,
    headroom: u32,
}

impl UmemLayout {
    /// Checks the sizes and returns the layout.
    ///
    /// `frame_size` is 2048 or 4096 bytes (the kernel's aligned chunks). `headroom` is kept free before each packet, in
    /// addition to the kernel's [`XDP_HEADROOM`]. `ports` is the number of ports with `rings` that share the memory.
    /// `mtu` is the largest of their MTUs, or 0 if unknown.
    ///
    /// # Errors
    /// Returns a [`LayoutError`] with the value that does not fit and one that does.
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
        // A frame needs the 64 bytes that `Umem::header_bytes` reads, whatever the packet's length.
        let room = frame_size.saturating_sub(XDP_HEADROOM.saturating_add(headroom));
        let packet = mtu.saturating_add(ETHERNET).max(64);
        if packet > room {
            return Err(LayoutError::MtuTooLarge { mtu, room: room.saturating_sub(ETHERNET), frame_size, headroom });
        }
        Ok(Self { frame_size, shift: frame_size.trailing_zeros(), frame_count, headroom })
    }

    /// Returns a sufficient number of frames: for each port its rings and a batch that waits for its TX ring, and for
    /// the application a batch in hand and [`HELD_FRAMES`].
    #[must_use]
    pub fn frames_for(rings: &RingSizes, ports: u32) -> u32 {
        let batch = crate::packet::LANES as u32;
        rings.frames().saturating_add(batch).saturating_mul(ports).saturating_add(batch + HELD_FRAMES)
    }

    /// Returns the size of a frame in bytes.
    #[must_use]
    pub fn frame_size(&self) -> u32 {
        self.frame_size
    }

    /// Returns the number of frames in the region.
    #[must_use]
    pub fn frame_count(&self) -> u32 {
        self.frame_count
    }

    /// Returns the bytes kept free before each packet, in addition to the kernel's headroom.
    #[must_use]
    pub fn headroom(&self) -> u32 {
        self.headroom
    }

    /// Returns the size of the region in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frame_size as usize * self.frame_count as usize
    }

    /// Returns the start of a new packet within its frame, in bytes.
    #[must_use]
    pub fn data_offset(&self) -> u16 {
        // The check in `new` ensures a value below 4096.
        (XDP_HEADROOM + self.headroom) as u16
    }

    /// Returns the first byte of frame `index` within the region.
    #[must_use]
    #[inline]
    pub fn address(&self, index: u32) -> usize {
        (index as usize) << self.shift
    }

    /// Returns the index of the frame that contains `address`, and the offset within it. The index may be beyond the
    /// last frame.
    #[must_use]
    #[inline]
    pub fn locate(&self, address: u64) -> (u64, u16) {
        // The offset is below the frame size, which is at most 4096.
        (address >> self.shift, (address & u64::from(self.frame_size - 1)) as u16)
    }
}

/// Counts the bytes of an Ethernet header with one VLAN tag.
const ETHERNET: u32 = 14 + 4;

/// Reports sizes that do not match.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The size is not a power of two in range.
    #[error("{name}: invalid size: {got}; expected a power of two between 64 and 32768")]
    RingSize {
        /// Name of the ring or setting.
        name: &'static str,
        /// Configured value.
        got: u32,
    },
    /// The fill ring is too small to supply the driver.
    #[error("fill ring: too small: {fill} entries for an RX ring of {rx}; expected at least twice RX")]
    FillTooSmall {
        /// Configured entries of the fill ring.
        fill: u32,
        /// Configured entries of the RX ring.
        rx: u32,
    },
    /// The kernel accepts only two chunk sizes.
    #[error("frame_size: invalid size: {got}; expected 2048 or 4096 bytes, the kernel's aligned chunks")]
    FrameSize {
        /// Configured value.
        got: u32,
    },
    /// An actor has more ports than the ledger has states for.
    #[error(
        "interfaces: too many ports for one actor: {got}; expected at most {MAX_PORTS}; to fix: start a second \
         engine for the others"
    )]
    TooManyPorts {
        /// Number of ports requested.
        got: usize,
    },
    /// Full rings would leave no free frame.
    #[error(
        "frame_count: too few frames: {got}; expected at least {wanted}, because the rings of {ports} port(s) can hold \
         them; to fix: set frame_count to {wanted} or more, or a smaller ring_size"
    )]
    TooFewFrames {
        /// Configured number of frames.
        got: u32,
        /// Minimum that is sufficient.
        wanted: u32,
        /// Number of ports that share the memory.
        ports: u32,
    },
    /// A packet of the maximum size would not fit.
    #[error(
        "MTU {mtu} is too large: a frame of {frame_size} bytes with {headroom} bytes of headroom holds IP packets of at \
         most {room} bytes; to fix: set frame_size = 4096, or `ip link set dev <interface> mtu {room}`"
    )]
    MtuTooLarge {
        /// MTU of the interface, in bytes.
        mtu: u32,
        /// Largest MTU that fits, in bytes.
        room: u32,
        /// Configured frame size, in bytes.
        frame_size: u32,
        /// Configured headroom, in bytes.
        headroom: u32,
    },
    /// The region is smaller than its frames.
    #[error("packet memory: too small: {got} bytes; expected at least {wanted}")]
    RegionTooSmall {
        /// Required bytes.
        wanted: usize,
        /// Available bytes.
        got: usize,
    },
}

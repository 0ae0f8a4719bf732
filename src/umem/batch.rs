//! Implements the ledger's moves for whole batches. Each frame gets the same checks, but the counters change once per
//! batch.

use super::{BadDescriptor, Frame, FrameState, PortIndex, PortKey, Umem};

impl Umem {
    /// Moves up to `wanted` free frames to the fill ring of the port, the most recently freed one first. Calls `post`
    /// with the address of each. Returns their number.
    #[inline]
    pub fn post_fill_batch(&mut self, key: &PortKey, wanted: u32, mut post: impl FnMut(u64)) -> u32 {
        let port = self.port_of(key);
        let count = self.free.len().min(wanted as usize);
        let Self { free, ledger, layout, .. } = self;
        for index in free.drain(free.len() - count..).rev() {
            ledger.put(index, FrameState::Free, FrameState::Receive(port));
            post(layout.address(index) as u64);
        }
        ledger.count(count as u32, FrameState::Free, FrameState::Receive(port));
        count as u32
    }

    /// Takes packets (address and length) that the kernel put on the RX ring of the port, like
    /// [`received`](Self::received). It prefetches the headers of each frame and passes the frame to `take`; a frame
    /// that `take` returns is free again. `refuse` gets each error. Returns the number of frames taken.
    #[inline]
    pub fn received_batch(
        &mut self,
        key: &PortKey,
        packets: impl Iterator<Item = (u64, u32)>,
        mut take: impl FnMut(Frame) -> Result<(), Frame>,
        mut refuse: impl FnMut(BadDescriptor),
    ) -> u32 {
        let port = self.port_of(key);
        let (mut taken, mut returned) = (0, 0);
        for (address, length) in packets {
            match self.accept(port, address, length) {
                Ok(frame) => {
                    self.prefetch(&frame);
                    taken += 1;
                    if let Err(frame) = take(frame) {
                        self.ledger.put(frame.index(), FrameState::App, FrameState::Free);
                        self.free.push(frame.index());
                        returned += 1;
                    }
                }
                Err(error) => refuse(error),
            }
        }
        self.ledger.count(taken, FrameState::Receive(port), FrameState::App);
        self.ledger.count(returned, FrameState::App, FrameState::Free);
        taken - returned
    }

    /// Moves frames to the TX ring of the port. Calls `post` with address and length of each. Returns their number.
    #[inline]
    pub fn post_transmit_batch(
        &mut self,
        key: &PortKey,
        frames: impl Iterator<Item = Frame>,
        mut post: impl FnMut(u64, u32),
    ) -> u32 {
        let port = self.port_of(key);
        let mut count = 0;
        for frame in frames {
            self.own(&frame);
            self.ledger.put(frame.index(), FrameState::App, FrameState::Transmit(port));
            let address = self.layout.address(frame.index()) + usize::from(frame.offset());
            post(address as u64, u32::from(frame.length()));
            count += 1;
        }
        self.ledger.count(count, FrameState::App, FrameState::Transmit(port));
        count
    }

    /// Takes addresses that the kernel returned on the completion ring of the port, like
    /// [`completed`](Self::completed). `refuse` gets each error. Returns the number of frames freed.
    #[inline]
    pub fn completed_batch(
        &mut self,
        key: &PortKey,
        addresses: impl Iterator<Item = u64>,
        mut refuse: impl FnMut(BadDescriptor),
    ) -> u32 {
        let port = self.port_of(key);
        let mut count = 0;
        for address in addresses {
            match self.release(port, address) {
                Ok(()) => count += 1,
                Err(error) => refuse(error),
            }
        }
        self.ledger.count(count, FrameState::Transmit(port), FrameState::Free);
        count
    }

    /// Implements [`received`](Self::received) without the counters.
    #[inline]
    pub(super) fn accept(&mut self, port: PortIndex, address: u64, length: u32) -> Result<Frame, BadDescriptor> {
        let (index, offset) = self.locate(address)?;
        if u32::from(offset).saturating_add(length.max(64)) > self.layout.frame_size() {
            return Err(BadDescriptor::PastFrame { address, length });
        }
        self.ledger.expect(index, FrameState::Receive(port), address)?;
        self.ledger.put(index, FrameState::Receive(port), FrameState::App);
        // The check above ensures length <= frame_size <= 4096.
        Ok(Frame::new(self.id, index, offset, length as u16))
    }

    /// Implements [`completed`](Self::completed) without the counters.
    #[inline]
    pub(super) fn release(&mut self, port: PortIndex, address: u64) -> Result<(), BadDescriptor> {
        let (index, _) = self.locate(address)?;
        self.ledger.expect(index, FrameState::Transmit(port), address)?;
        self.ledger.put(index, FrameState::Transmit(port), FrameState::Free);
        self.free.push(index);
        Ok(())
    }
}

//! The ledger's moves by batches, for ports whose every nanosecond counts: the same checks for each
//! frame, the counters once.

use super::{BadDescriptor, Frame, FrameState, PortIndex, PortKey, Umem};

impl Umem {
    /// Free -> the fill ring of the port, up to `wanted` frames; `post` gets the address of each, the one
    /// freed last first. Returns how many.
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

    /// The kernel put these packets, address and length, on the RX ring of the port: as
    /// [`received`](Self::received) for each. `take` gets the frames, whose heads are on their way into the
    /// cache; one that it returns is free again. `refuse` gets what is not believed. Returns how many were
    /// taken.
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

    /// Application -> the TX ring of the port; `post` gets address and length of each. Returns how many.
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

    /// The kernel returned these addresses on the completion ring of the port: as
    /// [`completed`](Self::completed) for each. `refuse` gets what is not believed. Returns how many are free
    /// again.
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

    /// [`received`](Self::received) without the counters.
    #[inline]
    pub(super) fn accept(&mut self, port: PortIndex, address: u64, length: u32) -> Result<Frame, BadDescriptor> {
        let (index, offset) = self.locate(address)?;
        if u32::from(offset).saturating_add(length.max(64)) > self.layout.frame_size() {
            return Err(BadDescriptor::PastFrame { address, length });
        }
        self.ledger.expect(index, FrameState::Receive(port), address)?;
        self.ledger.put(index, FrameState::Receive(port), FrameState::App);
        // length <= frame_size <= 4096 by the check above.
        Ok(Frame::new(self.id, index, offset, length as u16))
    }

    /// [`completed`](Self::completed) without the counters.
    #[inline]
    pub(super) fn release(&mut self, port: PortIndex, address: u64) -> Result<(), BadDescriptor> {
        let (index, _) = self.locate(address)?;
        self.ledger.expect(index, FrameState::Transmit(port), address)?;
        self.ledger.put(index, FrameState::Transmit(port), FrameState::Free);
        self.free.push(index);
        Ok(())
    }
}

//! Makes a new packet from a part of a packet without a copy, for tunnels.

use std::ops::Range;

use super::batch::Batch;
use crate::packet::build::UdpFrame;
use crate::telemetry::DropReason;

impl Batch<'_> {
    /// Makes the packet of `lane` a new datagram: `headers`, then `prefix`, then the bytes `data` of the old packet.
    /// The bytes of `data` do not move; the start of the packet moves in either direction. The payload of `headers`
    /// is ignored.
    ///
    /// ```
    /// use oxide::packet::{Flow, build::UdpFrame};
    /// use oxide::queue::{Batch, Context, Handler, Harness, HandlerOutcome};
    /// # use std::net::SocketAddr;
    ///
    /// /// Answers each packet with `you said: ` and its payload.
    /// struct Parrot;
    /// impl Handler for Parrot {
    ///     fn handle(&mut self, batch: &mut Batch<'_>, _: &mut Context<'_>) {
    ///         let (columns, from) = (batch.columns(), batch.from());
    ///         for lane in (0..batch.len()).filter(|lane| columns.udp & 1 << lane != 0) {
    ///             let (flow, data) = (columns.flow[lane], usize::from(columns.l4[lane]) + 8);
    ///             let back = Flow { source: flow.destination, destination: flow.source };
    ///             let data = data..usize::from(columns.length[lane]);
    ///             match batch.reframe(lane, &UdpFrame::new(back, &[]), b"you said: ", data) {
    ///                 Ok(()) => batch.transmit(lane, from),
    ///                 Err(reason) => batch.drop(lane, reason),
    ///             }
    ///         }
    ///     }
    /// }
    /// let (a, b): (SocketAddr, SocketAddr) = ("192.0.2.1:9".parse()?, "192.0.2.2:7".parse()?);
    /// let ask = UdpFrame::new(Flow { source: a.into(), destination: b.into() }, b"ahoy").to_vec();
    /// let say = UdpFrame::new(Flow { source: b.into(), destination: a.into() }, b"you said: ahoy").to_vec();
    /// let mut harness = Harness::new(Harness::info(1), Default::default(), |_| Parrot)?;
    /// assert_eq!(harness.feed(0, &[ask.unwrap()]), [HandlerOutcome::Transmit(0, say.unwrap())]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Returns [`DropReason::NoHeadroom`] if the frame has too little space, or [`DropReason::Truncated`] if `data` is
    /// outside the packet. The packet is unchanged in both cases. Returns [`DropReason::UdpLength`] if the datagram is
    /// too long for `headers`; the packet must then be dropped.
    pub fn reframe(
        &mut self,
        lane: usize,
        headers: &UdpFrame<'_>,
        prefix: &[u8],
        data: Range<usize>,
    ) -> Result<(), DropReason> {
        let old = self.packet(lane).len();
        if data.start > data.end || data.end > old {
            return Err(DropReason::Truncated);
        }
        let bare = headers.len() - headers.payload.len();
        let front = bare + prefix.len();
        // A frame has at most 4096 bytes, so a value above 15 bits cannot fit.
        let [front, start, end, old] = [front, data.start, data.end, old].map(|n| n.min(0x7fff) as i16);
        let [end, old] = [end, old].map(i16::unsigned_abs);
        let moved = self.set_length(lane, end) && self.move_start(lane, start - front);
        if !moved {
            let _ = self.set_length(lane, old);
            return Err(DropReason::NoHeadroom);
        }
        let frame = self.packet_mut(lane);
        frame.get_mut(bare..bare + prefix.len()).ok_or(DropReason::UdpLength)?.copy_from_slice(prefix);
        headers.write_around(frame).ok_or(DropReason::UdpLength)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::packet::Flow;
    use crate::queue::{Context, Handler, HandlerOutcome, Harness};
    use std::net::SocketAddr;

    /// Reframes with a prefix and data of any size. Transmits the result, or drops the packet with the error.
    struct Wrap(usize, Range<usize>);

    impl Handler for Wrap {
        fn handle(&mut self, batch: &mut Batch<'_>, _: &mut Context<'_>) {
            let before = batch.packet(0).to_vec();
            let flow = batch.columns().flow[0];
            let result = batch.reframe(0, &UdpFrame::new(flow, &[]), &vec![7; self.0], self.1.clone());
            match result {
                Ok(()) => batch.transmit(0, batch.from()),
                Err(reason) => {
                    assert_eq!(batch.packet(0), before, "unchanged");
                    batch.drop(0, reason);
                }
            }
        }
    }

    #[test]
    fn frame_without_room_is_refused_unchanged() {
        let (a, b): (SocketAddr, SocketAddr) = ("192.0.2.1:9".parse().unwrap(), "192.0.2.2:7".parse().unwrap());
        let flow = Flow { source: a.into(), destination: b.into() };
        let packet = UdpFrame::new(flow, b"0123456789").to_vec().unwrap();
        for (prefix, data, wanted) in [
            (0, 42..52, None),
            (0, 44..50, None),
            (256 + 42 - 42, 42..52, None),
            (256 + 42 - 42 + 1, 42..52, Some(DropReason::NoHeadroom)),
            (256 - 42, 0..52, None),
            (256 - 42 + 1, 0..52, Some(DropReason::NoHeadroom)),
            (4000, 0..52, Some(DropReason::NoHeadroom)),
            (0, 42..53, Some(DropReason::Truncated)),
            (0, 52..52, None),
            (0, 53..53, Some(DropReason::Truncated)),
        ] {
            let mut harness =
                Harness::new(Harness::info(1), Default::default(), |_| Wrap(prefix, data.clone())).unwrap();
            match (harness.feed(0, &[&packet]).remove(0), wanted) {
                (HandlerOutcome::Transmit(0, out), None) => {
                    let payload = [&vec![7; prefix][..], &packet[data]].concat();
                    assert_eq!(out, UdpFrame::new(flow, &payload).to_vec().unwrap());
                }
                (outcome, wanted) => assert_eq!(Some(outcome), wanted.map(HandlerOutcome::Drop), "{prefix} {data:?}"),
            }
        }
    }
}

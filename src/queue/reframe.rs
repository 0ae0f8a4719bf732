//! A part of a packet becomes a packet, without being copied: what tunnels do.

use std::ops::Range;

use super::batch::Batch;
use crate::packet::build::UdpFrame;
use crate::telemetry::DropReason;

impl Batch<'_> {
    /// Makes the packet of `lane` a new datagram: `headers`, then `prefix`, then the bytes `data` of what
    /// the packet was, which stay where they are. The start of the packet moves to either side; the payload
    /// of `headers` is not looked at.
    ///
    /// ```
    /// use oxide::packet::{Flow, build::UdpFrame};
    /// use oxide::queue::{Batch, Context, Handler, Harness, Outcome};
    /// # use std::net::SocketAddr;
    ///
    /// /// Answers with what came, after `you said: `.
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
    /// assert_eq!(harness.feed(0, &[ask.unwrap()]), [Outcome::Transmit(0, say.unwrap())]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`DropReason::NoHeadroom`] if the frame has no room for it, [`DropReason::Truncated`] if the packet
    /// has no such `data`: unchanged then. [`DropReason::UdpLength`] if it is longer than `headers` can say:
    /// to be dropped.
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
        // A frame has at most 4096 bytes, so whatever does not fit 16 bits does not fit at all.
        let [to, end, old] = [front.abs_diff(data.start), data.end, old].map(|n| u16::try_from(n).unwrap_or(u16::MAX));
        let moved = self.set_length(lane, end)
            && if data.start >= front { self.shrink_front(lane, to) } else { self.grow_front(lane, to) };
        if !moved {
            let _ = self.set_length(lane, old);
            return Err(DropReason::NoHeadroom);
        }
        let frame = self.packet_mut(lane);
        frame.get_mut(bare..front).ok_or(DropReason::UdpLength)?.copy_from_slice(prefix);
        headers.write_around(frame).ok_or(DropReason::UdpLength)
    }
}

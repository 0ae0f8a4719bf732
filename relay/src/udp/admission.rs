//! Applies the admission gate to clients without a session.

use arrayvec::ArrayVec;

use super::UdpRelay;
use crate::gate::{Admission, AdmissionRequest, Gate};
use oxide::packet::build::UdpFrame;
use oxide::packet::{Flow, MacAddr, Parsed, checksum, verify_udp};
use oxide::queue::{Batch, Context, Verdict};
use oxide::telemetry::DropReason;

/// Hop limit of packets that the relay creates (RFC 1340, and IANA's "IP time to live").
const HOPS: u8 = 64;

impl UdpRelay {
    /// Sets a gate that decides about every new session, at all entries.
    #[must_use]
    pub fn with_gate(mut self, gate: impl Gate + 'static) -> Self {
        self.gate = Some(Box::new(gate));
        self.gates_all = true;
        self
    }

    /// Decides whether the client of `lane` gets a session. Returns the packet's length, which is smaller if the gate
    /// removed a prefix. Returns a verdict if the client is not admitted; a challenge is then already written.
    pub(super) fn admit_new_client(
        &mut self,
        batch: &mut Batch<'_>,
        lane: usize,
        entry: u16,
        cx: &Context<'_>,
    ) -> Result<u16, Verdict> {
        let columns = batch.columns();
        let (l3, l4, length) = (columns.l3[lane], columns.l4[lane], columns.length[lane]);
        let asks = self.gates_all || self.entries.get(usize::from(entry)).is_some_and(|entry| entry.gated);
        let Some(gate) = self.gate.as_mut().filter(|_| asks) else { return Ok(length) };
        let of = |mask: u64| mask & 1 << lane != 0;
        // A gate judges whole datagrams.
        if of(columns.fragments) {
            return Err(Verdict::Drop(DropReason::Refused));
        }
        let (ipv4, last_hop, flow) = (of(columns.ipv4), of(columns.last_hop), columns.flow[lane]);
        let parsed = Parsed { ipv4, l3, l4, length, last_hop, flow };
        // Neither answer nor admit a client for a damaged packet.
        verify_udp(batch.packet(lane), &parsed).map_err(Verdict::Drop)?;
        let listen = self.entries.get(usize::from(entry)).ok_or(super::NO_SESSION)?.listen;
        let mut answer = ArrayVec::new();
        let payload = payload(batch.packet(lane), &parsed).ok_or(Verdict::Drop(DropReason::Truncated))?;
        let client = parsed.flow.source;
        let mut request = AdmissionRequest { client, listen, now: cx.now(), payload, answer: &mut answer };
        match gate.ask(&mut request) {
            Admission::Admit => Ok(length),
            Admission::Refuse => Err(Verdict::Drop(DropReason::Refused)),
            Admission::AdmitStripped(cut) => {
                let cut = cut.bytes();
                strip(batch.packet_mut(lane), &parsed, cut).ok_or(Verdict::Drop(DropReason::Truncated))?;
                let length = length - cut;
                let _ = batch.set_length(lane, length);
                Ok(length)
            }
            Admission::Challenge(_) => Err(self.challenge(batch, lane, &parsed, &answer)),
        }
    }

    /// Overwrites the request with `answer`, addressed to its sender.
    fn challenge(&mut self, batch: &mut Batch<'_>, lane: usize, request: &Parsed, answer: &[u8]) -> Verdict {
        let Flow { source, destination } = request.flow;
        let ip_bytes = request.length - u16::from(request.l3);
        if let Some(limits) = &mut self.limits
            && !limits.admit_reply(&source, self.now_ns, ip_bytes)
        {
            return super::LIMITED;
        }
        let frame = batch.packet_mut(lane);
        let macs = frame.first_chunk::<12>().copied().unwrap_or_default();
        let [to, from] = [0, 6].map(|at| MacAddr(std::array::from_fn(|i| macs[at + i])));
        let flow = Flow { source: destination, destination: source };
        let built = UdpFrame { source_mac: to, destination_mac: from, hop_limit: HOPS, ..UdpFrame::new(flow, answer) };
        // The answer fits into the request's payload, so the frame does not grow.
        let written = built.write(frame).filter(|&length| length <= usize::from(request.length));
        match written.and_then(|length| u16::try_from(length).ok()) {
            Some(length) if batch.set_length(lane, length) => {
                self.counters.challenged += 1;
                Verdict::Transmit(batch.from())
            }
            _ => Verdict::Drop(DropReason::Refused),
        }
    }
}

fn payload<'a>(frame: &'a [u8], parsed: &Parsed) -> Option<&'a [u8]> {
    frame.get(usize::from(parsed.l4) + 8..usize::from(parsed.l4) + udp_length(frame, parsed)?)
}

fn udp_length(frame: &[u8], parsed: &Parsed) -> Option<usize> {
    let length = frame.get(usize::from(parsed.l4) + 4..)?.first_chunk()?;
    Some(usize::from(u16::from_be_bytes(*length)))
}

/// Removes the first `cut` bytes of the payload and updates lengths and checksums. Bytes after the datagram (UDP
/// options) move up as well.
fn strip(frame: &mut [u8], parsed: &Parsed, cut: u16) -> Option<()> {
    let (l3, l4, n) = (usize::from(parsed.l3), usize::from(parsed.l4), usize::from(cut));
    let datagram = udp_length(frame, parsed)?.checked_sub(n).filter(|&length| length >= 8)?;
    frame.get(l4 + 8 + n..usize::from(parsed.length))?;
    frame.copy_within(l4 + 8 + n..usize::from(parsed.length), l4 + 8);
    let less = |bytes: &mut [u8]| {
        let old = bytes.first_chunk().map(|field| u16::from_be_bytes(*field))?;
        bytes.first_chunk_mut::<2>()?.copy_from_slice(&old.checked_sub(cut)?.to_be_bytes());
        Some(())
    };
    less(frame.get_mut(l3 + if parsed.ipv4 { 2 } else { 4 }..)?)?;
    less(frame.get_mut(l4 + 4..)?)?;
    if parsed.ipv4 {
        let sum = checksum::ipv4_header(frame.get(l3..l4)?)?;
        frame.get_mut(l3 + 10..l3 + 12)?.copy_from_slice(&sum.to_be_bytes());
    }
    let none = parsed.ipv4 && frame.get(l4 + 6..l4 + 8)? == [0, 0];
    if !none {
        let Flow { source, destination } = parsed.flow;
        // The mapped prefix of an IPv4 address adds 0xffff, which does not change the sum.
        let pseudo = checksum::Sum::pseudo_ipv6(source.address, destination.address, datagram as u16);
        let sum = checksum::udp(pseudo, frame.get(l4..l4 + datagram)?)?;
        frame.get_mut(l4 + 6..l4 + 8)?.copy_from_slice(&sum.to_be_bytes());
    }
    Some(())
}

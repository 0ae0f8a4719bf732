//! Fragmented datagrams of relayed flows.
//!
//! A first fragment has the ports: it is served like a whole datagram. What became of it is kept by source, destination
//! and identification, and decides about the later fragments, which have addresses only. A later fragment that is ahead
//! of its first one is held once, for up to 100 ms.
//!
//! Datagrams of many clients leave from one source address. Each gets a new identification, so that no receiver puts
//! fragments of two clients together. The queues share the numbers out.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use super::{LIMITED, UdpRelay, ip_bytes};
use oxide::flow::FlowKey;
use oxide::packet::fragment::{rewrite_later, set_identification};
use oxide::packet::{Endpoint, Fragment, MacAddr, Rewrite, fragment, lanes};
use oxide::queue::{Batch, Context, HoldKey, Verdict};
use oxide::telemetry::DropReason;
use oxide::umem::PortIndex;

/// Datagrams that a queue tracks at once: sets by hash, of so many places each.
const SETS: usize = 128;
const PLACES: usize = 4;
/// Ticks for which later fragments follow their first one, as in `bpf/steer.bpf.c`.
const FOLLOW: u32 = 20;

/// Identifies a datagram that was cut into fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Datagram {
    source: [u8; 16],
    destination: [u8; 16],
    id: u32,
}

/// States the result of a first fragment.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Sent(Sent),
    /// Dropped, held or handed over.
    Other(Verdict),
}

/// Holds the addresses and the way out of a first fragment that was sent.
#[derive(Debug, Clone, Copy)]
struct Sent {
    new: Rewrite,
    id: u32,
    port: PortIndex,
    /// MTU of the way out, bytes.
    mtu: u16,
    client: Endpoint,
    /// The entry, if the client sent it.
    entry: Option<u16>,
}

/// A datagram, the time of its first fragment, and the result of that fragment.
type Known = (Datagram, u32, Outcome);

/// Holds the datagrams whose first fragment a queue has seen. All memory is allocated at start.
pub(super) struct FragmentTable {
    sets: Box<[[Option<Known>; PLACES]]>,
    hasher: FixedState,
    /// Numbers the datagrams.
    sent: u32,
    place: u32,
    queues: u32,
}

impl FragmentTable {
    /// Makes the table of the queue at `place` of `queues`.
    pub(super) fn new(place: u32, queues: u32, seed: u64) -> Self {
        let sets = (0..SETS).map(|_| [None; PLACES]).collect();
        // The first number is unpredictable.
        let sent = (seed ^ seed >> 32) as u32;
        Self { sets, hasher: FixedState::with_seed(seed), sent, place, queues: queues.max(1) }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.sets)
    }

    fn set(&self, key: &Datagram) -> usize {
        self.hasher.hash_one(key) as usize % SETS
    }

    fn find(&self, key: &Datagram, now: u32) -> Option<&Outcome> {
        let set = self.sets.get(self.set(key))?;
        let found = set.iter().flatten().find(|(of, ..)| of == key)?;
        (now.wrapping_sub(found.1) < FOLLOW).then_some(&found.2)
    }

    /// Records `outcome`. It replaces an earlier result of the datagram, or the oldest entry of its set.
    fn note(&mut self, key: Datagram, now: u32, outcome: Outcome) {
        let at = self.set(&key);
        let Some(set) = self.sets.get_mut(at) else { return };
        let age = |entry: &Option<Known>| match entry {
            Some((of, ..)) if *of == key => (2, 0),
            None => (1, 0),
            Some((_, since, _)) => (0, now.wrapping_sub(*since)),
        };
        if let Some(entry) = set.iter_mut().max_by_key(|entry| age(entry)) {
            *entry = Some((key, now, outcome));
        }
    }

    /// Returns an identification that no other queue uses, and this one not soon again.
    fn next_id(&mut self, ipv4: bool) -> u32 {
        self.sent = self.sent.wrapping_add(1);
        let numbers = if ipv4 { 0x1_0000 } else { u32::MAX };
        self.sent % (numbers / self.queues).max(1) * self.queues + self.place
    }
}

impl UdpRelay {
    /// Serves the fragments of a batch, in the order of their arrival.
    #[cold]
    #[inline(never)]
    pub(super) fn serve_fragments(&mut self, batch: &mut Batch<'_>, mask: u64, cx: &mut Context<'_>) {
        for lane in lanes(mask) {
            let Some(found) = fragment::fragment(batch.packet(lane)) else { continue };
            let Fragment { ipv4, id, flow, .. } = found;
            let key = Datagram { source: flow.source.address, destination: flow.destination.address, id };
            let verdict = if found.is_first() {
                let verdict = self.serve_first_fragment(batch, lane, cx);
                self.finish_first_fragment(batch, lane, &key, &found, verdict);
                verdict
            } else {
                self.serve_later_fragment(batch, lane, &key, ipv4)
            };
            if matches!(verdict, Verdict::Transmit(_)) {
                self.counters.fragments += 1;
            }
            batch.decide(lane, verdict);
        }
    }

    /// Serves a first fragment as the datagram that it begins.
    fn serve_first_fragment(&mut self, batch: &mut Batch<'_>, lane: usize, cx: &mut Context<'_>) -> Verdict {
        let flow = &batch.columns().flow[lane];
        let port = flow.destination.port;
        let owner = self.space.contains(port).then(|| self.space.owner(port));
        let outcome = match owner {
            Some(owner) if owner == self.place => self.serve_answer(batch, lane, cx),
            Some(owner) => return Verdict::HandOver(owner),
            None => match self.listens.get(&flow.destination) {
                Some(&entry) => {
                    let key = FlowKey { remote: flow.source, local: entry };
                    self.serve_client(batch, lane, &key, None, cx)
                }
                None => return super::NO_SESSION,
            },
        };
        outcome.map_or_else(|verdict| verdict, Verdict::Transmit)
    }

    /// Gives a first fragment that leaves its identification, and records its result for the later ones.
    fn finish_first_fragment(
        &mut self,
        batch: &mut Batch<'_>,
        lane: usize,
        key: &Datagram,
        found: &Fragment,
        verdict: Verdict,
    ) {
        let outcome = match verdict {
            Verdict::Transmit(port) => {
                let id = self.fragments.next_id(found.ipv4);
                let frame = batch.packet_mut(lane);
                let _ = set_identification(frame, found.ipv4, id);
                let Some(now) = fragment::fragment(frame) else { return };
                let mac = |at| frame.get(at..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or_default();
                let (source, destination) = (now.flow.source, now.flow.destination);
                let (destination_mac, source_mac) = (MacAddr(mac(0)), MacAddr(mac(6)));
                let entry = self.listens.get(&found.flow.destination).copied();
                Outcome::Sent(Sent {
                    new: Rewrite { source_mac, destination_mac, source, destination },
                    id,
                    port,
                    mtu: self.egress_mtu,
                    client: if entry.is_some() { found.flow.source } else { destination },
                    entry,
                })
            }
            other => Outcome::Other(other),
        };
        if found.more {
            self.fragments.note(*key, self.now, outcome);
        }
    }

    fn serve_later_fragment(&mut self, batch: &mut Batch<'_>, lane: usize, key: &Datagram, ipv4: bool) -> Verdict {
        let sent = match self.fragments.find(key, self.now) {
            Some(Outcome::Sent(sent)) => *sent,
            Some(Outcome::Other(verdict)) => return *verdict,
            None if batch.was_held() => return Verdict::Drop(DropReason::FragmentOrphan),
            None => return Verdict::HoldFor(HoldKey::new(self.fragments.set(key) as u32)),
        };
        let bytes = ip_bytes(batch, lane);
        if let Some(limits) = self.limits.as_mut().filter(|_| !batch.was_held()) {
            let admitted = match sent.entry {
                Some(entry) => limits.admit(&sent.client, entry, self.now_ns, bytes),
                None => limits.admit_reply(&sent.client, self.now_ns, bytes),
            };
            if !admitted {
                return LIMITED;
            }
        }
        if bytes > sent.mtu {
            return Verdict::Drop(DropReason::TooBig);
        }
        let length = batch.columns().length[lane];
        if let Err(reason) = rewrite_later(batch.packet_mut(lane), ipv4, &sent.new, sent.id) {
            return Verdict::Drop(reason);
        }
        // Without Ethernet padding. Never longer than the frame, so it fits.
        let _ = batch.set_length(lane, length);
        Verdict::Transmit(sent.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u32) -> Datagram {
        Datagram { source: [1; 16], destination: [2; 16], id }
    }

    const DROP: Outcome = Outcome::Other(Verdict::Drop(DropReason::TooBig));

    #[test]
    fn table_forgets_the_oldest_datagram_of_a_set() {
        let mut table = FragmentTable::new(0, 1, 9);
        let same_set: Vec<u32> = (0..10_000).filter(|&id| table.set(&key(id)) == 3).take(PLACES + 1).collect();
        for (now, &id) in (0..).zip(&same_set) {
            table.note(key(id), now, DROP);
        }
        let known: Vec<bool> = same_set.iter().map(|&id| table.find(&key(id), 5).is_some()).collect();
        assert_eq!(known, [false, true, true, true, true]);
        // The same datagram again takes its own place.
        table.note(key(same_set[2]), 5, DROP);
        assert!(same_set[1..].iter().all(|&id| table.find(&key(id), 5).is_some()));
        assert!(table.find(&key(same_set[1]), 1 + FOLLOW).is_none(), "too old");
        assert!(table.find(&key(same_set[2]), 4 + FOLLOW).is_some());
    }

    #[test]
    fn identifications_differ_between_queues_and_datagrams() {
        for (ipv4, queues) in [(true, 3u32), (true, 1), (false, 7)] {
            let mut seen = std::collections::HashSet::new();
            for place in 0..queues {
                let mut table = FragmentTable::new(place, queues, u64::MAX - u64::from(place));
                for _ in 0..20_000 {
                    let id = table.next_id(ipv4);
                    assert!(seen.insert(id) && (!ipv4 || id <= 0xffff), "{id}");
                }
            }
        }
    }
}

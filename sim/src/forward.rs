//! Holds the default application: packets that arrive on one port leave by the other, with swapped MAC addresses.
//! The client's port decides which queue owns a flow. Packets at another queue are handed over, as by the relay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oxide::packet::{Columns, MacAddr};
use oxide::queue::{Batch, Context, Handler, Replaced, Verdict};
use oxide::telemetry::DropReason;
use oxide::umem::PortIndex;

/// Numbers the ports of an actor: towards the clients and towards the servers.
pub(super) const CLIENTS: u8 = 0;
pub(super) const SERVERS: u8 = 1;

/// Returns the queue that owns flows of this client port.
pub(super) fn owner(client_port: u16, queues: u32) -> u32 {
    u32::from(client_port) % queues.max(1)
}

/// Forwards packets as the module documentation describes.
#[derive(Debug, Default)]
pub(super) struct Forwarder;

impl Handler for Forwarder {
    fn handle(&mut self, batch: &mut Batch<'_>, cx: &mut Context<'_>) {
        let columns: &Columns = batch.columns();
        let from_clients = batch.from().number() == CLIENTS;
        for lane in 0..batch.len() {
            if columns.udp & 1 << lane == 0 {
                batch.drop(lane, columns.reject_reason[lane]);
                continue;
            }
            let flow = columns.flow[lane];
            let client = if from_clients { flow.source.port } else { flow.destination.port };
            let owner = owner(client, cx.info().queues);
            if owner != cx.info().place {
                batch.decide(lane, Verdict::HandOver(owner));
                continue;
            }
            if cx.draining() && from_clients {
                batch.drop(lane, DropReason::Draining);
                continue;
            }
            forward(batch.packet_mut(lane));
            batch.transmit(lane, if from_clients { PortIndex::P1 } else { PortIndex::P0 });
        }
    }
}

/// Swaps the MAC addresses of a frame; handler and invariant checker both use this function.
pub(super) fn forward(frame: &mut [u8]) {
    if let Some(macs) = frame.first_chunk_mut::<12>() {
        let (to, from) = macs.split_at_mut(6);
        to.swap_with_slice(from);
    }
}

/// Wraps a handler; panics in the next batch if `fuse` is set.
pub(super) struct PanicHandler<H> {
    inner: H,
    fuse: Arc<AtomicBool>,
}

impl<H> PanicHandler<H> {
    pub(super) fn new(inner: H, fuse: Arc<AtomicBool>) -> Self {
        Self { inner, fuse }
    }
}

impl<H: Handler> Handler for PanicHandler<H> {
    fn handle(&mut self, batch: &mut Batch<'_>, cx: &mut Context<'_>) {
        if self.fuse.load(Ordering::Relaxed) {
            self.fuse.store(false, Ordering::Relaxed);
            // Decide half of the batch, as in the middle of a loop.
            for lane in 0..batch.len() / 2 {
                batch.transmit(lane, PortIndex::P1);
            }
            // Bypass the panic hook: a long run would print thousands of messages.
            std::panic::resume_unwind(Box::new("panic injected by the simulation"));
        }
        self.inner.handle(batch, cx);
    }

    fn tick(&mut self, cx: &mut Context<'_>) {
        self.inner.tick(cx);
    }

    fn sessions(&self) -> u64 {
        self.inner.sessions()
    }

    fn inherit(&mut self, former: &mut Self, why: Replaced) -> Result<u64, String> {
        self.inner.inherit(&mut former.inner, why)
    }
}

/// Returns the MAC address of the host at the other end of a port's wire.
pub(super) fn host_mac(port: u8) -> MacAddr {
    MacAddr([0x02, 0, 0, 0, 0x10, port])
}

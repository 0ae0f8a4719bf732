//! Sends load with AF_XDP sockets, one for each queue of an interface. Packets sent on queue k of a veth arrive on
//! queue k of its peer. Live frames arrive on the queue with the number of the sending CPU (drivers/net/veth.c,
//! `veth_select_rxq`). Sockets are slower than live frames: copy-mode transmit and the peer's receive work both run
//! on this core.

use crate::client::{self, BURST};
use crate::programs::Shape;
use crate::{Error, Result};
use oxide::port::{Backend, Burst, Kick, Port, QueueId};
use oxide::umem::Umem;
use oxide::xdp::{PortOpenParams, XdpBackend, XdpOptions, XdpPort};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Holds sockets that only send.
pub(crate) struct SocketLoad {
    senders: Vec<Sender>,
    templates: Vec<Vec<u8>>,
    at: usize,
    made: Arc<AtomicU64>,
}

struct Sender {
    port: XdpPort,
    umem: Umem,
    outgoing: Burst,
}

impl SocketLoad {
    /// Opens queues 0 to `queues` of `interface`, for up to 16384 flows. `made` counts the sent packets.
    pub(crate) fn open(interface: &str, queues: u32, shape: Shape, made: Arc<AtomicU64>) -> Result<Self> {
        let senders = (0..queues).map(|queue| Sender::open(interface, queue)).collect::<Result<_>>()?;
        let flows = shape.flows.clamp(1, 16384) as u16;
        let templates = client::templates(shape.frame, flows, shape.port, shape.ports)?;
        Ok(Self { senders, templates, at: 0, made })
    }

    /// Sends bursts on all queues in alternation, without end.
    pub(crate) fn send(&mut self) -> Result<()> {
        loop {
            for sender in &mut self.senders {
                let sent = sender.burst(&self.templates, &mut self.at)?;
                self.made.fetch_add(sent as u64, Relaxed);
            }
        }
    }
}

impl Sender {
    fn open(interface: &str, queue: u32) -> Result<Self> {
        let request = PortOpenParams { id: QueueId::new(interface, queue), slot: None, generic: None };
        let (umem, ports) = XdpBackend::new(XdpOptions::default(), vec![request]).open()?;
        let port = ports.into_iter().next().ok_or_else(|| Error::Text(format!("{interface}: no port")))?;
        Ok(Self { port, umem, outgoing: Burst::new() })
    }

    fn burst(&mut self, templates: &[Vec<u8>], at: &mut usize) -> Result<usize> {
        self.port.reclaim(&mut self.umem);
        while self.outgoing.len() < BURST {
            let Some(mut frame) = self.umem.take() else { break };
            let template = &templates[*at % templates.len()];
            *at += 1;
            if self.umem.set_length(&mut frame, template.len() as u16) {
                self.umem.bytes_mut(&mut frame).copy_from_slice(template);
            }
            if let Err(frame) = self.outgoing.push(frame) {
                self.umem.give(frame);
                break;
            }
        }
        let sent = self.port.transmit(&mut self.umem, &mut self.outgoing);
        while self.port.kick()? == Kick::Again {}
        Ok(sent)
    }
}

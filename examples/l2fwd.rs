//! Forwards every packet for ADDRESS:PORT through the other interface to NEXT_HOP_MAC. It shows the engine with a
//! minimal handler.
//!
//! `cargo run --release --example l2fwd -- eth0 eth1 192.0.2.1 7000 02:00:00:00:00:02`

use std::error::Error;
use std::time::Duration;

use oxide::config::EngineConfig;
use oxide::engine::Engine;
use oxide::queue::{Batch, Context, Handler};
use oxide::umem::PortIndex;

struct L2Forward {
    next_hop: [u8; 6],
}

impl Handler for L2Forward {
    fn reads_columns(&self) -> bool {
        false
    }

    fn handle(&mut self, batch: &mut Batch<'_>, cx: &mut Context<'_>) {
        let out = if batch.from() == PortIndex::P0 { PortIndex::P1 } else { PortIndex::P0 };
        let source = cx.info().ports[usize::from(out)].mac.0;
        for lane in 0..batch.len() {
            if let Some(macs) = batch.packet_mut(lane).first_chunk_mut::<12>() {
                macs[..6].copy_from_slice(&self.next_hop);
                macs[6..].copy_from_slice(&source);
                batch.transmit(lane, out);
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, from, to, address, port, mac] = arguments.as_slice() else {
        return Err("usage: l2fwd INTERFACE INTERFACE ADDRESS PORT NEXT_HOP_MAC".into());
    };
    let (address, port): (std::net::IpAddr, u16) = (address.parse()?, port.parse()?);
    let octets = mac.split(':').map(|o| u8::from_str_radix(o, 16)).collect::<Result<Vec<_>, _>>()?;
    let next_hop: [u8; 6] = octets.try_into().map_err(|_| "a MAC has six octets")?;

    let mut config = EngineConfig::default();
    config.interfaces = vec![from.clone(), to.clone()];
    let engine = Engine::builder(config, move |_| L2Forward { next_hop })
        .destinations(move |_| vec![(address, port..=port)])
        .start()?;
    println!("{}", engine.plan());
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let status = engine.status();
        println!("{:?}: {} in, {} out", status.state, status.totals.rx_packets, status.totals.tx_packets);
    }
}

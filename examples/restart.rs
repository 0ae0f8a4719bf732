//! Shows restarts of a handler with a bug. A packet that ends with "panic" makes it panic, and the next handler takes
//! over its counter. An operator can also request restarts at each scope. The sockets stay open during handler
//! restarts.
//!
//! `cargo run --release --example restart -- eth0 192.0.2.1 7` (root; the address must be one of eth0's). Then type
//! `handler`, `port` or `queue` to restart that scope of queue 0, or `status` or `quit`.

use std::error::Error;
use std::io::BufRead;
use std::time::Duration;

use oxide::config::EngineConfig;
use oxide::engine::{Engine, EngineHandle, RestartScope};
use oxide::packet::reflect;
use oxide::port::QueueId;
use oxide::queue::{Batch, Context, Handler, Replaced};

/// Echoes packets and counts them.
struct Buggy {
    echoed: u64,
}

impl Handler for Buggy {
    fn handle(&mut self, batch: &mut Batch<'_>, _cx: &mut Context<'_>) {
        for lane in 0..batch.len() {
            assert!(!batch.packet(lane).ends_with(b"panic"), "this is the bug");
            reflect(batch.packet_mut(lane));
            batch.transmit(lane, batch.from());
            self.echoed += 1;
        }
    }

    fn sessions(&self) -> u64 {
        self.echoed
    }

    /// Takes over the counter. A single number cannot be half written; larger state must be checked here after a panic.
    fn inherit(&mut self, former: &mut Self, why: Replaced) -> Result<u64, String> {
        eprintln!("{why:?}: the next handler continues from {}", former.echoed);
        self.echoed = former.echoed;
        Ok(self.echoed)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, interface, address, port] = arguments.as_slice() else {
        return Err("usage: restart INTERFACE ADDRESS PORT".into());
    };
    let (address, port): (std::net::IpAddr, u16) = (address.parse()?, port.parse()?);
    let mut config = EngineConfig::default();
    config.interfaces = vec![interface.clone()];
    let engine =
        Engine::builder(config, |_| Buggy { echoed: 0 }).destinations(move |_| vec![(address, port..=port)]).start()?;
    let (handle, queue) = (engine.handle(), QueueId::new(interface, 0));
    for line in std::io::stdin().lock().lines() {
        match line?.trim() {
            "handler" => handle.restart(&queue, RestartScope::Handler)?,
            "port" => handle.restart(&queue, RestartScope::Port)?,
            "queue" => handle.restart(&queue, RestartScope::Queue)?,
            "quit" => break,
            _ => {}
        }
        show(&handle);
    }
    let status = engine.stop(Duration::from_secs(2));
    println!(
        "{} packets received, {} sent, accounting matches: {}",
        status.totals.rx_packets, status.totals.tx_packets, status.balanced
    );
    Ok(())
}

fn show(handle: &EngineHandle) {
    for queue in handle.status().queues {
        let gap = queue.last_gap_ms.map_or(String::new(), |gap| format!(", last gap {gap:.1} ms"));
        println!("queue {}: {}, {} restarts{gap}, {}", queue.queue, queue.state, queue.restarts, queue.last_event);
    }
}

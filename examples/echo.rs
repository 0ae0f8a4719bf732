//! Shows the small API: a UDP echo on one queue, in the caller's own loop.
//!
//! `cargo run --release --example echo -- eth0 192.0.2.1 7` (root; the address must be one of eth0's)

use std::error::Error;
use std::time::Duration;

use oxide::packet::reflect;
use oxide::port::Burst;
use oxide::xdp::{Socket, SocketConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, interface, address, port] = arguments.as_slice() else {
        return Err("usage: echo INTERFACE ADDRESS PORT".into());
    };
    let port: u16 = port.parse()?;

    let mut socket = Socket::open(SocketConfig::new(interface, 0, address.parse()?, port..=port))?;
    println!("{} in {} mode", socket.info().id, socket.info().mode);
    let mut packets = Burst::new();
    loop {
        socket.poll(Duration::from_millis(100))?;
        // Packets that the TX ring did not take stay at the front. They are reflected already.
        let unsent = packets.len();
        socket.recv_batch(&mut packets)?;
        for packet in packets.iter_mut().skip(unsent) {
            reflect(socket.packet_mut(packet));
        }
        socket.send_batch(&mut packets)?;
    }
}

//! Test of virtio NICs with more queue pairs than the guest has CPUs.

use super::lab::run_line;
use super::relay::{Relay, modes};
use super::traffic::{Entry, Server, exchange};
use crate::process::{Result, failed};

/// Attaching XDP turns spare pairs into receive queues; each of many flows must still be served.
pub(super) fn spare_pairs(_: &Server) -> Result<String> {
    for port in ["ra", "rb"] {
        run_line(&format!("ethtool -L {port} combined 4"))?;
    }
    let relay = Relay::start("")?;
    let counted = exchange(Entry::Four, 32, 320, 300)?;
    counted.check("32 flows")?;
    exchange(Entry::Six, 32, 320, 300)?.check("32 flows")?;
    let ports = modes().len();
    relay.stop()?;
    // Four of each interface, and the four that attaching adds.
    if ports < 16 {
        return failed(format!("{ports} ports are served; expected 16"));
    }
    Ok(format!("{ports} ports served, {} flows answered", counted.flows_alive))
}

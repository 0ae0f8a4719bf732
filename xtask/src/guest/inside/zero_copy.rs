//! Tests of zero-copy on igb: sizes, frame sizes, packets hidden in packets.

use super::lab::{driver, read};
use super::relay::{Relay, all_entries, modes};
use super::traffic::{Entry, Server, exchange, send_hidden_packets};
use crate::process::{Result, failed};

/// `[engine]` lines that force zero-copy.
pub(super) const REQUIRED: &str = "zero_copy = \"require\"\nframe_size = 4096";

/// Fails unless every port has this mode.
pub(super) fn expect_mode(wanted: &str) -> Result<()> {
    let modes = modes();
    if !modes.is_empty() && modes.iter().all(|mode| mode == wanted) {
        return Ok(());
    }
    failed(format!("modes {modes:?}; expected {wanted} on every port"))
}

/// Payloads around the 1,024 bytes where igb splits, up to the MTU, in both families.
pub(super) fn sizes(_: &Server) -> Result<String> {
    let relay = Relay::start(REQUIRED)?;
    expect_mode("zero-copy")?;
    for (entry, sizes) in [(Entry::Four, [64, 982, 983, 1472]), (Entry::Six, [64, 962, 963, 1452])] {
        for size in sizes {
            exchange(entry, 8, 40, size)?.check(&format!("{entry:?}, {size} bytes"))?;
        }
    }
    exchange(Entry::FourToSix, 8, 40, 1452)?.check("4 to 6, 1452 bytes")?;
    let count = modes().len();
    relay.stop()?;
    Ok(format!("{count} ports in zero-copy"))
}

/// `auto` uses zero-copy where the driver has it and the frame is large enough.
pub(super) fn auto(_: &Server) -> Result<String> {
    let relay = Relay::start("frame_size = 4096")?;
    expect_mode("zero-copy")?;
    all_entries(&[1400])?;
    relay.stop()?;
    Ok(format!("auto gives zero-copy on {}", driver("ra")))
}

/// With the default configuration no part of a packet is taken for a packet of its own.
pub(super) fn hidden(server: &Server) -> Result<String> {
    let relay = Relay::start("")?;
    exchange(Entry::Four, 8, 40, 983)?.check("983 bytes")?;
    server.take();
    send_hidden_packets(mac("ra")?, 50)?;
    let foreign = server.take().foreign;
    let seen = modes().join(", ");
    relay.stop()?;
    if foreign == 0 { Ok(seen) } else { failed(format!("{foreign} hidden packets reached the server; {seen}")) }
}

/// 2 KiB frames on igb in zero-copy corrupt traffic: the start is refused with a remedy.
pub(super) fn small_frames(_: &Server) -> Result<String> {
    let message = Relay::refused("zero_copy = \"require\"\nframe_size = 2048")?;
    match message.lines().find(|line| line.contains("frame_size = 4096")) {
        Some(_) => Ok("refused, with the remedy frame_size = 4096".to_owned()),
        None => failed(format!("refused without the remedy frame_size = 4096: {message}")),
    }
}

fn mac(interface: &str) -> Result<[u8; 6]> {
    let text = read(&format!("/sys/class/net/{interface}/address"))?;
    let bytes: Vec<u8> = text.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().or_else(|_| failed(format!("{interface}: MAC {text}; expected six bytes")))
}

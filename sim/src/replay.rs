//! Replays clients' packets from a capture instead of generating them.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::pcap::{self, PcapError};
use oxide::packet::{Flow, parse};
use oxide_relay::policy;

/// States why a capture cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// The file is not a usable capture.
    #[error("{}: {source}", path.display())]
    Pcap {
        /// Path of the file.
        path: PathBuf,
        /// Error in the file.
        source: PcapError,
    },
    /// The capture has no packet that a relay could serve.
    #[error("{}: nothing to replay: none of {packets} packets is UDP to an address that a relay can listen on; to fix: use another capture", path.display())]
    NoClients {
        /// Path of the file.
        path: PathBuf,
        /// Number of packets in the capture.
        packets: usize,
    },
}

/// Holds the packets of a capture for replay. Their order is kept, their times are not. The relay listens on the
/// most frequent destination of each IP version; packets to other destinations are dropped with a reason.
#[derive(Clone, PartialEq, Eq)]
pub struct Replay {
    bytes: Arc<Vec<u8>>,
    frames: Arc<Vec<Range<usize>>>,
    listens: [Option<SocketAddr>; 2],
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").field("packets", &self.frames.len()).field("listens", &self.listens).finish()
    }
}

impl Replay {
    /// Reads a capture file.
    ///
    /// # Errors
    /// Returns [`ReplayError`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ReplayError> {
        let path = path.as_ref().to_owned();
        match std::fs::read(&path) {
            Ok(bytes) => Self::from_bytes(bytes, path),
            Err(source) => Err(ReplayError::Read { path, source }),
        }
    }

    /// Reads a capture from bytes; `name` is used in errors.
    ///
    /// # Errors
    /// Returns [`ReplayError`].
    pub fn from_bytes(bytes: Vec<u8>, name: impl Into<PathBuf>) -> Result<Self, ReplayError> {
        let path = name.into();
        let packets = match pcap::read(&bytes) {
            Ok(packets) => packets,
            Err(source) => return Err(ReplayError::Pcap { path, source }),
        };
        let listens = [busiest(&packets, true), busiest(&packets, false)];
        if listens == [None; 2] {
            return Err(ReplayError::NoClients { path, packets: packets.len() });
        }
        let start = bytes.as_ptr() as usize;
        let range = |frame: &[u8]| frame.as_ptr() as usize - start..frame.as_ptr() as usize - start + frame.len();
        let frames = packets.iter().map(|packet| range(packet.frame)).collect();
        Ok(Self { frames: Arc::new(frames), bytes: Arc::new(bytes), listens })
    }

    /// Returns the number of packets in the capture, at least one.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // a capture without packets is refused
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Returns the IPv4 and the IPv6 address that the relay listens on.
    #[must_use]
    pub fn listens(&self) -> [Option<SocketAddr>; 2] {
        self.listens
    }

    /// Returns frame `n`, counted from 0; after the last frame the count starts again.
    pub(super) fn frame(&self, n: u64) -> &[u8] {
        let at = (n % self.frames.len().max(1) as u64) as usize;
        self.frames.get(at).and_then(|range| self.bytes.get(range.clone())).unwrap_or(&[])
    }
}

/// Returns the most frequent UDP destination of an IP version, of those that a relay can listen on.
fn busiest(packets: &[pcap::Captured<'_>], ipv4: bool) -> Option<SocketAddr> {
    let mut counts = HashMap::new();
    for packet in packets {
        if let Some(Flow { destination, .. }) = ends(packet.frame)
            && destination.is_ipv4() == ipv4
            && policy::check(destination.ip(), true, &[]).is_ok()
            && destination.port != 0
        {
            *counts.entry(SocketAddr::new(destination.ip(), destination.port)).or_insert(0u64) += 1;
        }
    }
    // Equal counts: the lower address, because the order of a map is random.
    counts.into_iter().max_by_key(|&(to, count)| (count, std::cmp::Reverse(to))).map(|(to, _)| to)
}

/// Returns the flow of a valid frame.
pub(super) fn ends(frame: &[u8]) -> Option<Flow> {
    let head = std::array::from_fn(|at| frame.get(at).copied().unwrap_or(0));
    parse(&head, u16::try_from(frame.len()).ok()?).ok().map(|parsed| parsed.flow)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use oxide::packet::build::UdpFrame;
    use std::time::Duration;

    fn capture(to: &[&str]) -> Vec<u8> {
        let mut file = pcap::PcapWriter::new(Vec::new()).unwrap();
        for (n, to) in to.iter().enumerate() {
            let to: SocketAddr = to.parse().unwrap();
            let from: SocketAddr = if to.is_ipv4() { "192.0.2.9:5000" } else { "[2001:db8::9]:5000" }.parse().unwrap();
            let flow = Flow { source: from.into(), destination: to.into() };
            let frame = UdpFrame::new(flow, &[n as u8; 9]).to_vec().unwrap();
            file.write(Duration::ZERO, &frame).unwrap();
        }
        file.finish().unwrap()
    }

    #[test]
    fn relay_listens_on_most_frequent_destination() {
        let to = [
            "224.0.0.251:5353",
            "224.0.0.251:5353",
            "203.0.113.1:53",
            "203.0.113.1:53",
            "203.0.113.2:53",
            "[fd00::7]:9",
        ];
        let replay = Replay::from_bytes(capture(&to), "x").unwrap();
        assert_eq!(replay.listens(), [Some("203.0.113.1:53".parse().unwrap()), Some("[fd00::7]:9".parse().unwrap())]);
        assert_eq!((replay.len(), replay.frame(0), replay.frame(5)), (6, replay.frame(6), replay.frame(11)));
    }

    #[test]
    fn captures_without_clients_are_refused() {
        let error = Replay::from_bytes(capture(&["224.0.0.251:5353"]), "a.pcap").unwrap_err().to_string();
        assert!(error.contains("a.pcap") && error.contains("none of 1 packets"), "{error}");
        let error = Replay::load("/nowhere/b.pcap").unwrap_err().to_string();
        assert!(error.contains("/nowhere/b.pcap"), "{error}");
        let error = Replay::from_bytes(b"no capture, this".repeat(3), "c").unwrap_err().to_string();
        assert!(error.starts_with("c: not a capture file"), "{error}");
    }
}
